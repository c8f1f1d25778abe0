package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
)

// misreadService answers a price and another field. By definition .c is the price and .other
// is right: they differ for symbols that begin with W, .c is missing for those with A, and
// .other for those with N.
func misreadService(t testing.TB) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		symbol := r.URL.Query().Get("s")
		c, other := `"c":10.5,`, `"other":10.5,`
		switch symbol[:1] {
		case "W":
			other = `"other":20.25,`
		case "A":
			c = ""
		case "N":
			other = ""
		}
		_, _ = fmt.Fprintf(w, `{%s%s"t":1582641000}`, c, other)
	}))
	t.Cleanup(server.Close)
	return server
}

// renormalizationOf is what a command printed with -o json.
func renormalizationOf(t testing.TB, stdout string) projections.Renormalization {
	t.Helper()
	var n projections.Renormalization
	require.NoError(t, json.Unmarshal([]byte(stdout), &n), stdout)
	return n
}

// TestRenormalize: answers that were misread are read again; what serves changes at once,
// back, and again.
func TestRenormalize(t *testing.T) {
	t.Parallel()
	directory := declare(t, acmeDefinition)
	p := start(t, environment{"PROVIDERS_DIR": directory, "ACME_API_KEY": canaryKey, "ACME_BASE_URL": misreadService(t).URL, "DEBUG": "true"})
	const latest = "/api/v1/prices/latest?provider=acme&symbol="
	for _, symbol := range []string{"R1", "R2", "W1", "W2", "N1"} {
		assert.Equal(t, fmt.Sprintf(`{"symbol":%q,"price":10.5,"timestamp":"2020-02-25T14:30:00.000000Z","provider":"acme"}`, symbol), strings.TrimSpace(p.get(latest+symbol).body))
	}
	assert.NotEqual(t, http.StatusOK, p.get(latest+"A1").status)
	require.Zero(t, p.stop())

	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(strings.Replace(acmeDefinition, ".c,", ".other,", 1)), 0o600))
	p = start(t, p.env)
	status, stdout, stderr := run(t, p.env, "renormalize", "acme", "--dry-run", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	dry := renormalizationOf(t, stdout)
	assert.Equal(t, [4]int64{6, 2, 1, 1}, [4]int64{dry.Answers, dry.Revised, dry.Withdrawn, dry.Added}, stdout)

	status, stdout, stderr = run(t, p.env, "renormalize", "acme", "--reason", "the wrong field", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	n := renormalizationOf(t, stdout)
	assert.Equal(t, [4]int64{6, 2, 1, 1}, [4]int64{n.Answers, n.Revised, n.Withdrawn, n.Added}, stdout)
	assert.Equal(t, projections.RenormalizationReady, n.State)

	prices := func() string {
		var all []string
		for _, symbol := range []string{"R1", "W1", "W2", "N1", "A1"} {
			var history struct{ Items []struct{ Price json.Number } }
			body := p.get("/api/v1/prices/history?provider=acme&symbol=" + symbol).body
			require.NoError(t, json.Unmarshal([]byte(body), &history), body)
			text := symbol
			for _, one := range history.Items {
				text += " " + one.Price.String()
			}
			all = append(all, text)
		}
		return strings.Join(all, ", ")
	}
	const before, after = "R1 10.5, W1 10.5, W2 10.5, N1 10.5, A1", "R1 10.5, W1 20.25, W2 20.25, N1, A1 10.5"
	assert.Equal(t, before, prices())
	for _, step := range []struct{ action, want string }{{"promote", after}, {"rollback", before}, {"promote", after}} {
		status, stdout, stderr = run(t, p.env, "renormalize", step.action, n.ID)
		require.Zero(t, status, stdout+stderr)
		assert.Equal(t, step.want, prices())
		status, stdout, stderr = run(t, p.env, "verify")
		require.Zero(t, status, stdout+stderr)
	}
	assert.Contains(t, p.get("/api/v1/prices/moving-average?provider=acme&symbol=W1").body, `"value":20.25`)

	// What comes by now was read right, and a rebuild reads the log as what serves does.
	assert.Contains(t, p.get(latest+"W3").body, `"price":20.25`)
	status, stdout, stderr = run(t, p.env, "rebuild", "processed-prices", "--promote", "if-equal")
	require.Zero(t, status, stdout+stderr)
	status, stdout, stderr = run(t, p.env, "renormalize", "--reason", "again", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	assert.Equal(t, projections.RenormalizationUnchanged, renormalizationOf(t, stdout).State, stdout)
	require.Zero(t, p.stop())
}
