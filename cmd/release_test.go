package cmd_test

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// builds are where a program is built that someone uses.
var builds = map[string]*regexp.Regexp{
	"Makefile":   regexp.MustCompile(`(?m)^build:.*\n\t(.*\$\(GO\) build .*)$`),
	"Dockerfile": regexp.MustCompile(`(?m)^RUN (.* go build (?:.*\\\n)*.*)$`),
}

// TestTheProgramHasNoFailpoints: neither make nor the Dockerfile builds with a
// tag, and what they build has no trace of a failpoint, so that nothing can arm
// one.
func TestTheProgramHasNoFailpoints(t *testing.T) {
	t.Parallel()
	for file, recipe := range builds {
		content, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		command := recipe.FindSubmatch(content)
		require.NotNil(t, command, "%s builds the program", file)
		assert.NotRegexp(t, `-tags|GOFLAGS|failpoints`, string(command[1]), file)
	}
	program := filepath.Join(t.TempDir(), "pricemill")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-o", program, "./pricemill")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	assert.Empty(t, tracesOfFailpoints(t, program))
	info, err := buildinfo.ReadFile(program)
	require.NoError(t, err)
	for _, setting := range info.Settings {
		assert.NotEqual(t, "-tags", setting.Key)
	}
	if failpoint.Enabled {
		// They would be found.
		self, err := os.Executable()
		require.NoError(t, err)
		assert.Len(t, tracesOfFailpoints(t, self), len(failpoint.All())+2)
	}
}

// tracesOfFailpoints are what a binary holds of the names of the points, of the
// variable that arms them, and of the functions of their package.
func tracesOfFailpoints(t *testing.T, binary string) []string {
	t.Helper()
	content, err := os.ReadFile(binary)
	require.NoError(t, err)
	words := []string{failpoint.Variable, "pipeline/failpoint."}
	for _, point := range failpoint.All() {
		words = append(words, string(point))
	}
	var found []string
	for _, word := range words {
		if bytes.Contains(content, []byte(word)) {
			found = append(found, word)
		}
	}
	return found
}
