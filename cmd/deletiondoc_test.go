package cmd_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// varyingDeletion is what differs from one deletion to the next.
var varyingDeletion = regexp.MustCompile(`20[0-9]{2}-[0-9-]+T[0-9:.]+Z|[0-9a-f]{8}-[0-9a-f-]{27}`)

// TestTheDeletionDocument runs the commands of docs/deletion.md in their order, and compares
// what they print.
func TestTheDeletionDocument(t *testing.T) {
	t.Parallel()
	if onServices() {
		t.Skip("a log on Kafka keeps its records")
	}
	p := start(t, nil)
	text, err := os.ReadFile("../docs/deletion.md")
	require.NoError(t, err)
	compared := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)\n```(?:\n\n```text\n(.*?)```)?").FindAllStringSubmatch(string(text), -1) {
		args := arguments(strings.ReplaceAll(block[1], " handlers/", " ../handlers/")) // tests run in cmd
		if slices.Contains(args, "--yes") {
			p.stopped()
		}
		status, stdout, stderr := run(t, p.env, args...)
		require.Zero(t, status, "%s: %s", block[1], stderr)
		if args[0] == "ingest" {
			awaitDrained(t, p.env)
		}
		if block[2] != "" {
			compared++
			stdout = regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, "")
			assert.Equal(t, varyingDeletion.ReplaceAllString(block[2], "…"), varyingDeletion.ReplaceAllString(stdout, "…"), block[1])
		}
	}
	assert.Equal(t, 3, compared)
}
