package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// averages answers every question with the question.
func averages(asked *string) averageFunc {
	return func(_ context.Context, p schema.Provider, s schema.Symbol, window int) (movingaverages.Average, error) {
		*asked = fmt.Sprintf("%s %s %d", p, s, window)
		return movingaverages.Average{
			Provider: p, Symbol: s, Window: window, Value: schema.MustDecimal("184.92"), Timestamp: eventTime,
		}, nil
	}
}

func TestMovingAverage(t *testing.T) {
	t.Parallel()
	var asked string
	api := newAPI(t, func(s *setup) { s.Averages, s.DefaultWindow = averages(&asked), 20 })
	tests := []struct{ query, asked, symbol, window string }{
		{"symbol=AAPL&window=5&provider=finnhub", "finnhub AAPL 5", "AAPL", "5"},
		{"symbol=btc-usd&provider=yahoo_finance&window=1000", "yahoo BTC-USD 1000", "BTC-USD", "1000"},
		{"symbol=AAPL", "finnhub AAPL 20", "AAPL", "20"},
	}
	for _, test := range tests {
		w := get(t, api, "/api/v1/prices/moving-average?"+test.query)
		expect(t, w, http.StatusOK, `{"symbol":"`+test.symbol+`","window_size":`+test.window+
			`,"value":184.92,"timestamp":"2025-06-15T14:30:00.000000Z"}`)
		if asked != test.asked {
			t.Errorf("%s: asked for %s, want %s", test.query, asked, test.asked)
		}
		etag := w.Header().Get("ETag")
		again := get(t, api, "/api/v1/prices/moving-average?"+test.query, "If-None-Match", etag)
		expect(t, again, http.StatusNotModified, "")
	}
}

func TestMovingAverageNotFound(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Averages = averageFunc(func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
			return movingaverages.Average{}, fmt.Errorf("reading: %w", projections.ErrNotFound)
		})
	})
	expect(t, get(t, api, "/api/v1/prices/moving-average?symbol=AAPL&window=5"), http.StatusNotFound,
		`{"detail":"Moving average not found"}`)
}
