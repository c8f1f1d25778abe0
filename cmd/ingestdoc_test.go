package cmd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheIngestDocument runs the commands of docs/ingest.md, and compares what its dry
// runs print, letter for letter.
func TestTheIngestDocument(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	text, err := os.ReadFile("../docs/ingest.md")
	require.NoError(t, err)
	dry := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?").FindAllStringSubmatch(string(text), -1) {
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			args := arguments(line)
			if strings.Contains(line, "--dry-run") {
				dry++
			} else {
				args = alone(args...)
			}
			status, stdout, stderr := run(t, env, args...)
			require.Zero(t, status, "%s: %s", line, stderr)
			if block[2] != "" {
				assert.Equal(t, block[2], regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, ""), line)
			}
		}
	}
	files, err := os.ReadDir("testdata/files")
	require.NoError(t, err)
	assert.Equal(t, len(files), dry, "each file is shown")
}
