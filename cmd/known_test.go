package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/pricemill/pricemill/projections/instruments"
)

// TestAClosedMarketIsNotAnOutage: a service whose market has closed answers with an old price,
// and we say so; the symbol is listed with what the answer tells.
func TestAClosedMarketIsNotAnOutage(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(-time.Hour).Truncate(time.Second)
	yahoo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, fmt.Sprintf(`{"chart":{"result":[{"meta":{"symbol":"AAPL","currency":"USD","exchangeName":"NMS","instrumentType":"EQUITY",
			"exchangeTimezoneName":"America/New_York","regularMarketPrice":189.97,"regularMarketTime":%[1]d,
			"currentTradingPeriod":{"regular":{"start":%[2]d,"end":%[1]d}}}}],"error":null}}`, end.Unix(), end.Add(-6*time.Hour).Unix()))
	}))
	t.Cleanup(yahoo.Close)
	p := start(t, environment{"PLUGINS": "instruments", "YAHOO_BASE_URL": yahoo.URL})
	p.eventually("/api/v1/prices/latest?symbol=AAPL&provider=yahoo&max_age=0", http.StatusOK)
	require.Eventually(t, func() bool { // the projection reads the answer in its own time, and is asked every ten seconds
		got := p.get("/api/v1/prices/latest?symbol=AAPL&provider=yahoo&max_age=3600")
		return got.status == http.StatusOK && got.header.Get("Pricemill-Market") == "closed"
	}, time.Minute, 50*time.Millisecond)
	var list struct{ Items []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/symbols?provider=yahoo").body), &list))
	require.Len(t, list.Items, 1)
	for field, want := range map[string]any{"currency": "USD", "venue": "NMS", "class": "equity", "timezone": "America/New_York", "market": "closed"} {
		assert.Equal(t, want, list.Items[0][field], field)
	}
	assert.Contains(t, list.Items[0], "session")
	status, stdout, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, stdout+stderr)
}
