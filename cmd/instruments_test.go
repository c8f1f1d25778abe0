package cmd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheInstrumentsDocument runs the commands of docs/instruments.md against a service with
// the symbol map of the document, in their order, and compares what they print.
func TestTheInstrumentsDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/instruments.md")
	require.NoError(t, err)
	document := string(text)
	symbols := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(document)[1]
	env := newStack(t, environment{})
	require.NoError(t, os.MkdirAll(env["DATA_DIR"], 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(env["DATA_DIR"], "symbols.yaml"), []byte(symbols), 0o600))
	p := start(t, env)
	compared := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```(?:\n\n```(text|json)\n(.*?)```)?").FindAllStringSubmatch(document, -1) {
		lines := strings.Split(strings.TrimSpace(block[1]), "\n")
		for i, line := range lines {
			args := arguments(strings.ReplaceAll(line, " handlers/", " ../handlers/")) // tests run in cmd
			command := func() (int, string, string) { return p.asClient(args...) }
			if args[0] == "ingest" {
				command = func() (int, string, string) { return run(t, p.env, alone(args...)...) }
			}
			if i < len(lines)-1 || block[3] == "" {
				status, _, stderr := command()
				require.Zero(t, status, "%s: %s", line, stderr)
				continue
			}
			compared++
			require.EventuallyWithT(t, func(c *assert.CollectT) { // a price that was just read is on its way
				status, stdout, stderr := command()
				assert.Zero(c, status, "%s: %s", line, stderr)
				if block[2] == "json" {
					var compact strings.Builder
					assert.NoError(c, compactJSON(&compact, stdout))
					stdout = compact.String() + "\n"
				}
				assert.Equal(c, block[3], regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, ""), line)
			}, 20*time.Second, 50*time.Millisecond)
		}
	}
	assert.Equal(t, 4, compared)
	var page struct {
		Items []struct{ Symbol, Instrument string }
	}
	require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/symbols?provider=csv").body), &page))
	for _, item := range page.Items {
		assert.Equal(t, "DUCAT", item.Instrument, item.Symbol)
	}
	assert.Len(t, page.Items, 3)
}

// A map that cannot be read ends the start: the service does not answer as if there were
// none.
func TestASymbolMapThatCannotBeRead(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/instruments.md")
	require.NoError(t, err)
	said := regexp.MustCompile("(?s)```text\n(pricemill: .*?)```").FindStringSubmatch(string(text))[1]
	symbols := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(string(text))[1]
	env := newStack(t, environment{"HTTP_ADDR": "127.0.0.1:0"})
	require.NoError(t, os.MkdirAll(env["DATA_DIR"], 0o700))
	path := filepath.Join(env["DATA_DIR"], "symbols.yaml")
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(symbols, "csv:DUCAT-ROME", "cvs:DUCAT-ROME", 1)), 0o600))
	status, _, stderr := run(t, env, "serve")
	assert.Equal(t, 2, status)
	// The list is that of the binary: this one lacks the definitions that main.go adds.
	said, _, found := strings.Cut(strings.ReplaceAll(said, "./data/symbols.yaml", path), "known are ")
	require.True(t, found)
	assert.Contains(t, stderr, said+"known are ")

	status, _, stderr = run(t, env.with(environment{"SYMBOL_MAP_FILE": filepath.Join(t.TempDir(), "none.yaml")}), "serve")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "SYMBOL_MAP_FILE")
	assert.Contains(t, stderr, "no such file")
}

func compactJSON(to *strings.Builder, text string) error {
	var buffer json.RawMessage
	if err := json.Unmarshal([]byte(text), &buffer); err != nil {
		return err
	}
	compact, err := json.Marshal(buffer)
	to.Write(compact)
	return err
}
