package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// infinity is what the data source Infinity takes of a target of a panel.
type infinity struct {
	URL        string
	Type       string
	URLOptions struct {
		Method string
		Params []struct{ Key, Value string }
	} `json:"url_options"`
	RootSelector string `json:"root_selector"`
	Columns      []struct{ Selector, Type string }
}

// charted starts a service with a few prices of two symbols.
func charted(t *testing.T, more environment) *program {
	t.Helper()
	p := start(t, environment{"PLUGINS": "candles", "MIN_POLL_INTERVAL": "1s"}.with(more))
	accepted := p.post("/api/v1/prices/poll", `{"symbols":["ACME","GLOBEX"],"interval":1,"provider":"simulated"}`)
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
	for _, target := range []string{"prices/history", "indicators/candles", "prices/moving-average/history"} {
		require.Eventually(t, func() bool {
			return strings.Contains(p.get("/api/v1/"+target+"?symbol=ACME").body, `"timestamp"`)
		}, 20*time.Second, 20*time.Millisecond, target)
	}
	require.Eventually(t, func() bool {
		known := p.get("/api/v1/symbols").body
		return strings.Contains(known, `"ACME"`) && strings.Contains(known, `"GLOBEX"`)
	}, 20*time.Second, 20*time.Millisecond, "symbols")
	return p
}

// TestTheGrafanaExample sends each query of docs/grafana/dashboard.json, as Infinity does,
// and finds each column in the answer, of its type.
func TestTheGrafanaExample(t *testing.T) {
	t.Parallel()
	p := charted(t, nil)
	text, err := os.ReadFile("../docs/grafana/dashboard.json")
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			Title   string
			Targets []infinity
		}
	}
	require.NoError(t, json.Unmarshal(text, &board))
	replace := strings.NewReplacer("$symbol", "ACME", "$provider", "simulated",
		"${__from:date:iso}", time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"),
		"${__to:date:iso}", time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"))
	queries := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			queries++
			query := url.Values{}
			for _, param := range target.URLOptions.Params {
				query.Set(param.Key, replace.Replace(param.Value))
			}
			got := p.get(target.URL + "?" + query.Encode())
			require.Equal(t, http.StatusOK, got.status, "%s: %s", panel.Title, got.body)
			rows, _ := got.field(t, target.RootSelector).([]any)
			require.NotEmpty(t, rows, panel.Title)
			for _, column := range target.Columns {
				value, there := rows[0].(map[string]any)[column.Selector]
				require.True(t, there, "%s has no %s", panel.Title, column.Selector)
				switch column.Type {
				case "number":
					if _, isNumber := value.(json.Number); !isNumber {
						assert.Nil(t, value, "%s: %s is neither a number nor null", panel.Title, column.Selector)
					}
				case "timestamp":
					_, err := time.Parse(time.RFC3339Nano, fmt.Sprint(value))
					assert.NoError(t, err, "%s: %s", panel.Title, column.Selector)
				default:
					assert.IsType(t, "", value, column.Selector)
				}
			}
		}
	}
	assert.Equal(t, 4, queries)
}

// The data feed of TradingView's charts, from search to bars.
func TestTheDataFeed(t *testing.T) {
	t.Parallel()
	p := charted(t, nil)
	var found []struct{ Ticker string }
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/udf/search?query=cm&exchange=simulated").body), &found))
		return len(found) == 1
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, "simulated:ACME", found[0].Ticker)
	symbol := p.get("/api/v1/udf/symbols?symbol=" + found[0].Ticker)
	assert.Equal(t, "true", symbol.header.Get("Pricemill-Simulated"))
	assert.Equal(t, "ACME at simulated (simulated)", symbol.field(t, "description"))
	now := time.Now().Unix()
	for _, resolution := range []string{"1S", "1", "1D"} {
		bars := p.get("/api/v1/udf/history?symbol=" + found[0].Ticker + "&resolution=" + resolution +
			"&countback=10&from=" + strconv.FormatInt(now-3600, 10) + "&to=" + strconv.FormatInt(now+3600, 10))
		assert.Equal(t, "ok", bars.field(t, "s"), bars.body)
	}
	none := p.get("/api/v1/udf/history?symbol=" + found[0].Ticker + "&resolution=1&from=10&to=20")
	assert.JSONEq(t, `{"s":"no_data"}`, none.body)
}

// Last prices are metrics where a setting asks for them, of no more symbols than it says.
func TestLastPricesAsMetrics(t *testing.T) {
	t.Parallel()
	none := charted(t, nil)
	assert.NotContains(t, none.get("/metrics").body, "pricemill_last_price")
	p := charted(t, environment{"METRICS_LAST_PRICES": "1"})
	var known struct {
		Items []struct {
			LastPrice json.Number `json:"last_price"`
		}
	}
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/symbols").body), &known))
		return len(known.Items) == 2
	}, 20*time.Second, 20*time.Millisecond)
	// The price moves each second.
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/symbols").body), &known))
		return strings.Contains(p.get("/metrics").body, `pricemill_last_price{provider="simulated",symbol="ACME"} `+known.Items[0].LastPrice.String()+"\n")
	}, 20*time.Second, 20*time.Millisecond)
	text := p.get("/metrics").body
	assert.Regexp(t, `pricemill_last_price_timestamp_seconds\{provider="simulated",symbol="ACME"\} 1\.\d+e\+09`, text)
	assert.NotContains(t, text, "GLOBEX", "the second one")
}
