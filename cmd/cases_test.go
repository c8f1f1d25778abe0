package cmd_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// caseFile is a file in the form of a real download.
func caseFile(name string) string {
	return filepath.Join("../handlers/provider/csv/testdata/cases", name)
}

// values are the times and values of a series of a symbol of files, newest first, once
// there are so many.
func (p *program) values(path, symbol, value string, count int) (points []string) {
	p.t.Helper()
	var body struct{ Items []map[string]any }
	require.Eventually(p.t, func() bool {
		body.Items = nil
		got := p.get("/api/v1" + path + "&limit=1000&provider=csv&symbol=" + url.QueryEscape(symbol)).body
		decoder := json.NewDecoder(strings.NewReader(got))
		decoder.UseNumber()
		return decoder.Decode(&body) == nil && len(body.Items) == count
	}, 20*time.Second, 20*time.Millisecond, "%s of %s: %d points", path, symbol, len(body.Items))
	for _, item := range body.Items {
		points = append(points, item["timestamp"].(string)+" "+item[value].(json.Number).String())
	}
	return points
}

// A file that lists the newest row first gives every series as the file sorted by time.
func TestTheCaseOfAFileThatIsNewestFirst(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(caseFile("newest-first.csv"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "BTC/USD", "SORTED")), "\n")
	slices.Reverse(lines[1:])
	sorted := filepath.Join(t.TempDir(), "sorted.csv")
	require.NoError(t, os.WriteFile(sorted, []byte(strings.Join(lines, "\n")), 0o600))

	p := start(t, environment{"PLUGINS": "ema,bollinger"})
	assert.Equal(t, 30, ingested(t, p.env, caseFile("newest-first.csv")).New)
	assert.Equal(t, 30, ingested(t, p.env, sorted).New)
	for path, value := range map[string]string{"/prices/moving-average/history?window=5": "value", "/indicators/ema?period=12": "value", "/indicators/bollinger?period=20": "upper"} {
		want := p.values(path, "SORTED", value, 30)
		assert.Equal(t, want, p.values(path, "BTC/USD", value, 30), path)
		assert.True(t, slices.IsSortedFunc(want, func(a, b string) int { return strings.Compare(b, a) }), path)
	}
	ema := p.values("/indicators/ema?period=12", "BTC/USD", "value", 30)
	first := strings.Split(lines[1], ",") // the oldest
	assert.Equal(t, first[2]+"T00:00:00.000000Z "+first[1], ema[29], "the first point is the first price")
}

// Equal trades without ids are trades of their own, in the volume too.
func TestTheCaseOfTradesWithoutIDs(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"PLUGINS": "vwap"})
	args := []string{"--id-column", "id", "--size-column", "qty", "--time-format", "unix_ms", caseFile("trades-without-ids-apart.csv")}
	assert.Equal(t, 4, ingested(t, p.env, args...).New)
	again := ingested(t, p.env, args...)
	assert.Equal(t, [2]int{0, 4}, [2]int{again.New, again.Repeated})
	vwap := p.values("/indicators/vwap?", "FXSUSDT", "value", 4)
	assert.True(t, strings.HasSuffix(vwap[0], " 7.500125786163522013"), vwap)
	assert.Equal(t, json.Number("7.50075"), p.get("/api/v1/prices/moving-average?provider=csv&symbol=FXSUSDT").field(t, "value"))
}
