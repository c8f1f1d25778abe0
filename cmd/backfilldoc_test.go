package cmd_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheBackfillDocument runs the commands of docs/backfill.md, and compares what they print,
// but for the ids of backfills. acme.yaml is the definition of docs/providers.md with the history
// of this page.
func TestTheBackfillDocument(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	client := p.env.with(environment{"HTTP_ADDR": p.url[len("http://"):]})
	text, err := os.ReadFile("../docs/backfill.md")
	require.NoError(t, err)
	providers, err := os.ReadFile("../docs/providers.md")
	require.NoError(t, err)
	directory := t.TempDir()
	write := func(file string, parts ...[]byte) {
		require.NoError(t, os.WriteFile(filepath.Join(directory, file), slices.Concat(parts...), 0o600))
	}
	first := func(kind string, of []byte) []byte {
		block := regexp.MustCompile("(?s)```" + kind + "\n(.*?)```").FindSubmatch(of)
		require.NotNil(t, block, kind)
		return block[1]
	}
	write("acme.yaml", first("yaml", providers), first("yaml", text))
	write("page.json", first("json", text))
	id := regexp.MustCompile(`backfill_[a-z2-7]{8}`)
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```\n\n```text\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, blocks, 3)
	for _, block := range blocks {
		printed := ""
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			args := arguments(line)
			for i, arg := range args {
				if arg == "acme.yaml" || arg == "page.json" {
					args[i] = filepath.Join(directory, arg)
				}
			}
			status, stdout, stderr := run(t, client, args...)
			require.Zero(t, status, "%s: %s", line, stderr)
			printed = regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, "")
		}
		assert.Equal(t, block[2], id.ReplaceAllString(printed, "backfill_abc12345"))
	}
}
