package cmd_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rows are the components that cmd/notices.txt lists, with their versions.
func rows(table string) map[string]string {
	found := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^(\S+) +(\S+) +\S+(?:, \S+)*$`).FindAllStringSubmatch(table, -1) {
		found[row[1]] = row[2]
	}
	return found
}

// TestTheNoticesAreOfWhatIsLinked: every module of the program is in the notices
// with its version, and the notices have no version that go.mod does not have.
// `make licenses` writes them.
func TestTheNoticesAreOfWhatIsLinked(t *testing.T) {
	t.Parallel()
	notices, err := os.ReadFile("notices.txt")
	require.NoError(t, err)
	table, _, _ := strings.Cut(string(notices), "\n---")
	listed := rows(table)
	const ask = "run make licenses"

	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", "./pricemill")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	linked, err := list.Output()
	require.NoError(t, err)
	checked := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(linked)), "\n") {
		path, version, _ := strings.Cut(line, " ")
		if path == "" || checked[path] {
			continue // the standard library, or another package of the module
		}
		if version == "" {
			version = "-" // ours
		}
		checked[path] = true
		assert.Equal(t, version, listed[path], "%s: %s", path, ask)
	}
	assert.Greater(t, len(checked), 50)

	required, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	for path, version := range listed {
		if strings.Contains(path, "/") && version != "-" { // a module
			assert.Contains(t, string(required), "\t"+path+" "+version, ask)
		}
	}
}

func TestLicenses(t *testing.T) {
	t.Parallel()
	status, list, stderr := run(t, environment{}, "licenses")
	require.Zero(t, status, stderr)
	listed := rows(list)
	for _, name := range []string{"Go", module[:len(module)-1], "github.com/IBM/sarama", "npm:swagger-ui-dist", "npm:redoc"} {
		assert.Contains(t, listed, name)
	}
	assert.NotContains(t, list, "not known here")

	status, full, stderr := run(t, environment{}, "licenses", "--full")
	require.Zero(t, status, stderr)
	assert.True(t, strings.HasPrefix(full, list), "the texts come after the list")
	for _, text := range []string{
		"the pricemill authors",        // our own
		"The Go Authors",               // the standard library
		"SmartBear Software Inc.",      // the notice of Swagger UI
		"Copyright (c) 2015-present",   // ReDoc
		"Mozilla Public License",       // the full text of a licence
		"Rich Felker, et al.",          // musl, from a second file of modernc.org/libc
		"SoundCloud Ltd.",              // a notice of an Apache licence
		"Apache License\n",             // once is enough for all who use it
		"github.com/hashicorp/errwrap", // whose the text is
	} {
		assert.Contains(t, full, text)
	}
}
