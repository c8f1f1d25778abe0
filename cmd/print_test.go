package cmd_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tableColumns is how wide a table is at most where its words allow that.
const tableColumns = 100

// TestATableFits: on a terminal a sentence in the last cell continues below where it begins, with
// no word lost; a line that cannot be broken stays whole.
func TestATableFits(t *testing.T) {
	t.Parallel()
	const header = "INDICATOR  ON  PARAMETERS  DESCRIPTION\n"
	const head = "vwap       no  -           " // 27 columns
	for name, test := range map[string]struct{ description, want string }{
		"short":              {"short", head + "short\n"},
		"to the last column": {strings.Repeat("x", 36) + " " + strings.Repeat("y", 36), head + strings.Repeat("x", 36) + " " + strings.Repeat("y", 36) + "\n"},
		"one more":           {strings.Repeat("x", 36) + " " + strings.Repeat("y", 37), head + strings.Repeat("x", 36) + "\n" + strings.Repeat(" ", 27) + strings.Repeat("y", 37) + "\n"},
		"three lines":        {strings.TrimSpace(strings.Repeat("words ", 25)), head + strings.TrimSpace(strings.Repeat("words ", 12)) + "\n" + strings.Repeat(" ", 27) + strings.TrimSpace(strings.Repeat("words ", 12)) + "\n" + strings.Repeat(" ", 27) + "words\n"},
		"one word":           {strings.Repeat("x", 120), head + strings.Repeat("x", 120) + "\n"},
		"quoted":             {`"` + strings.Repeat("words ", 25) + `"`, head + `"` + strings.Repeat("words ", 25) + `"` + "\n"},
		"two bytes a letter": {strings.Repeat("ä", 36) + " " + strings.Repeat("ö", 36), head + strings.Repeat("ä", 36) + " " + strings.Repeat("ö", 36) + "\n"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			assert.NoError(t, json.NewEncoder(w).Encode(map[string]any{"items": []any{map[string]any{"name": "vwap", "on": false, "description": test.description}}}))
		}))
		t.Cleanup(server.Close)
		status, stdout, stderr := run(t, environment{"COLUMNS": "100"}, "indicators", "--url", server.URL)
		require.Zero(t, status, stderr)
		assert.Equal(t, header+test.want, stdout, name)
		status, stdout, stderr = run(t, environment{}, "indicators", "--url", server.URL)
		require.Zero(t, status, stderr)
		assert.Equal(t, header+strings.TrimSpace(head+test.description), strings.TrimSpace(stdout), "a row is a line in a pipe: %s", name)
	}
}

// TestListsFit: all plugins, and all settings, with what each means. A value may be
// anything.
func TestListsFit(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"plugins", "config"} {
		status, stdout, stderr := run(t, environment{"COLUMNS": "100", "DATA_DIR": "a\tb\nc"}, command)
		require.Zero(t, status, stderr)
		for line := range strings.Lines(stdout) {
			assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), tableColumns, line)
		}
		if command == "config" {
			assert.Contains(t, stdout, `"a\tb\nc"`)
		}
	}
}
