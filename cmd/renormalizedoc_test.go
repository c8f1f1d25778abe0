package cmd_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheRenormalizeDocument runs the commands of docs/renormalize.md, and compares what they
// print, but for ids and times of receipt.
func TestTheRenormalizeDocument(t *testing.T) {
	t.Parallel()
	directory := declare(t, acmeDefinition)
	p := start(t, environment{"PROVIDERS_DIR": directory, "ACME_API_KEY": canaryKey, "ACME_BASE_URL": misreadService(t).URL, "DEBUG": "true"})
	for _, symbol := range []string{"R1", "R2", "W1", "W2", "N1", "A1"} {
		p.get("/api/v1/prices/latest?provider=acme&symbol=" + symbol)
	}
	require.Zero(t, p.stop())
	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(strings.Replace(acmeDefinition, ".c,", ".other,", 1)), 0o600))
	p = start(t, p.env)
	client := p.env.with(environment{"HTTP_ADDR": p.url[len("http://"):]})
	ids := regexp.MustCompile(`(renormalization|rebuild)_[a-z2-7]{8}`)
	received := regexp.MustCompile(`20[3-9]\d-[\d-]+T[\d:.]+Z|202[1-9]-[\d-]+T[\d:.]+Z`)
	compared, id := 0, "renormalization_abc12345"
	_, commands := pageCommands(t, "renormalize.md")
	for _, c := range commands {
		status, stdout, stderr := run(t, client, arguments(strings.ReplaceAll(c.line, "renormalization_abc12345", id))...)
		require.Zero(t, status, "%s: %s", c.line, stderr)
		if found := regexp.MustCompile(`renormalization_[a-z2-7]{8}`).FindString(stdout); found != "" && id == "renormalization_abc12345" {
			id = found
		}
		if c.shown != "" {
			compared++
			assert.Equal(t, c.shown, received.ReplaceAllString(ids.ReplaceAllString(printed(stdout), "${1}_abc12345"), "2020-02-25T14:30:00.000000Z"))
		}
	}
	assert.Equal(t, 5, compared)
	require.Zero(t, p.stop())
}
