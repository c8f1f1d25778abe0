package cmd_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestChartInATerminal: the newest price is on the right, and its digits are as the
// service wrote them.
func TestChartInATerminal(t *testing.T) {
	t.Parallel()
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		if r.URL.Query().Get("symbol") == "NONE" {
			_, _ = io.WriteString(w, `{"items":[]}`)
			return
		}
		var items []string
		for i := range 40 {
			items = append(items, fmt.Sprintf(`{"symbol":"AAPL","provider":"finnhub","price":%d.50000000000000001,"timestamp":"2025-06-15T14:30:%02dZ"}`, 140-i, 59-i))
		}
		_, _ = io.WriteString(w, `{"items":[`+strings.Join(items, ",")+`]}`)
	}))
	t.Cleanup(server.Close)
	status, stdout, stderr := run(t, nil, "chart", "aapl", "--url", server.URL, "--provider", "finnhub", "--width", "40", "--height", "5", "--points", "40")
	require.Zero(t, status, stderr)
	assert.Equal(t, "/api/v1/prices/history?symbol=aapl&limit=40&provider=finnhub", asked)
	lines := strings.Split(stdout, "\n")
	assert.Contains(t, lines[0], " 140.5", "the highest price is the topmost label")
	assert.Regexp(t, `╭|─`, lines[0][len(lines[0])/2:], "prices that rise end at the top right")
	assert.Contains(t, stdout, "AAPL at finnhub: 140.50000000000000001, the last of 40 prices from 2025-06-15 14:30:20 to 2025-06-15 14:30:59 UTC\n")

	status, stdout, stderr = run(t, nil, "chart", "NONE", "--url", server.URL)
	require.Zero(t, status, stderr)
	assert.Equal(t, "no prices of NONE\n", stdout)
	for _, bad := range []string{"--points=1", "--points=1001", "--width=9", "--height=101"} {
		status, _, stderr = run(t, nil, "chart", "AAPL", "--url", server.URL, bad)
		assert.Equal(t, 2, status, "%s: %s", bad, stderr)
	}
}
