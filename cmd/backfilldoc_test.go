package cmd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheBackfillDocument runs the commands of docs/backfill.md, and compares what they print,
// but for the ids of backfills.
func TestTheBackfillDocument(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	client := p.env.with(environment{"HTTP_ADDR": p.url[len("http://"):]})
	text, err := os.ReadFile("../docs/backfill.md")
	require.NoError(t, err)
	id := regexp.MustCompile(`backfill_[a-z2-7]{8}`)
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```\n\n```text\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, blocks, 2)
	for _, block := range blocks {
		printed := ""
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			status, stdout, stderr := run(t, client, arguments(line)...)
			require.Zero(t, status, "%s: %s", line, stderr)
			printed = regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, "")
		}
		assert.Equal(t, block[2], id.ReplaceAllString(printed, "backfill_abc12345"))
	}
}
