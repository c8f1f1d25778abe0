package cmd_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	text, commands := pageCommands(t, "backfill.md")
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
	write("acme.yaml", first("yaml", providers), first("yaml", []byte(text)))
	write("page.json", first("json", []byte(text)))
	id := regexp.MustCompile(`backfill_[a-z2-7]{8}`)
	compared := 0
	for _, c := range commands {
		for i, arg := range c.args {
			if arg == "acme.yaml" || arg == "page.json" {
				c.args[i] = filepath.Join(directory, arg)
			}
		}
		status, stdout, stderr := run(t, client, c.args...)
		require.Zero(t, status, "%s: %s", c.line, stderr)
		if c.shown != "" {
			compared++
			assert.Equal(t, c.shown, id.ReplaceAllString(printed(stdout), "backfill_abc12345"))
		}
	}
	assert.Equal(t, 3, compared)
}
