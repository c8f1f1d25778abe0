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
	text, err := os.ReadFile("../docs/renormalize.md")
	require.NoError(t, err)
	ids := regexp.MustCompile(`(renormalization|rebuild)_[a-z2-7]{8}`)
	received := regexp.MustCompile(`20[3-9]\d-[\d-]+T[\d:.]+Z|202[1-9]-[\d-]+T[\d:.]+Z`)
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```\n\n```text\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, blocks, 5)
	id := ""
	for _, block := range blocks {
		printed := ""
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			status, stdout, stderr := run(t, client, arguments(strings.ReplaceAll(line, "renormalization_abc12345", id))...)
			require.Zero(t, status, "%s: %s", line, stderr)
			if found := regexp.MustCompile(`renormalization_[a-z2-7]{8}`).FindString(stdout); found != "" && id == "" {
				id = found
			}
			printed = regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, "")
		}
		assert.Equal(t, block[2], received.ReplaceAllString(ids.ReplaceAllString(printed, "${1}_abc12345"), "2020-02-25T14:30:00.000000Z"))
	}
	require.Zero(t, p.stop())
}
