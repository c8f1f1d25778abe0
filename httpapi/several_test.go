package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// TestSeveralPrices: one answer in the order of the request, each symbol once, and what is
// not there by name.
func TestSeveralPrices(t *testing.T) {
	t.Parallel()
	const (
		aapl = `{"symbol":"AAPL","price":1.5,"timestamp":"2025-06-15T14:30:00.000000Z","provider":"finnhub","received_at":"2025-06-15T14:30:10.000000Z"}`
		msft = `{"symbol":"MSFT","price":1.5,"timestamp":"2025-06-15T14:30:00.000000Z","provider":"finnhub","received_at":"2025-06-15T14:30:00.000000Z"}`
	)
	received := map[schema.Symbol]schema.Time{"AAPL": eventTime.Add(10 * time.Second), "MSFT": eventTime}
	api := newAPI(t, func(s *setup) {
		s.LatestPrices = latestFunc(func(_ context.Context, p schema.Provider, symbol schema.Symbol) (latestprices.Price, error) {
			at, known := received[symbol]
			if !known {
				return latestprices.Price{}, projections.ErrNotFound
			}
			return latestprices.Price{Provider: p, Symbol: symbol, Price: schema.MustDecimal("1.5"), Timestamp: eventTime, ReceivedAt: at}, nil
		})
		s.Now = func() time.Time { return eventTime.Add(70 * time.Second).Time }
	})
	for _, test := range []struct{ query, prices, missing string }{
		{"symbols=AAPL", aapl, ``},
		{"symbols=msft,NOPE,AAPL,aapl", msft + "," + aapl, `"NOPE"`},
		{"symbols=NOPE,NADA", ``, `"NOPE","NADA"`},
		{"symbols=AAPL,MSFT&max_age=70", aapl + "," + msft, ``},
		{"symbols=AAPL,MSFT&max_age=69", aapl, `"MSFT"`},
		{"symbols=AAPL,MSFT&max_age=0", ``, `"AAPL","MSFT"`},
	} {
		w := get(t, api, "/api/v1/prices?"+test.query)
		expect(t, w, http.StatusOK, `{"prices":[`+test.prices+`],"missing":[`+test.missing+`]}`)
		expect(t, get(t, api, "/api/v1/prices?"+test.query, "If-None-Match", w.Header().Get("ETag")), http.StatusNotModified, "")
	}
}

func TestSeveralAverages(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Averages = averageFunc(func(_ context.Context, p schema.Provider, symbol schema.Symbol, window int) (movingaverages.Average, error) {
			if symbol == "NOPE" {
				return movingaverages.Average{}, projections.ErrNotFound
			}
			return movingaverages.Average{Provider: p, Symbol: symbol, Window: window, Value: schema.MustDecimal("2.5"), Timestamp: eventTime}, nil
		})
		s.DefaultWindow = 20
	})
	of := func(symbol, window string) string {
		return `{"symbol":"` + symbol + `","window_size":` + window + `,"value":2.5,"timestamp":"2025-06-15T14:30:00.000000Z"}`
	}
	for _, test := range []struct{ query, averages, missing string }{
		{"symbols=MSFT,AAPL", of("MSFT", "20") + "," + of("AAPL", "20"), ``},
		{"symbols=nope,AAPL&window=3", of("AAPL", "3"), `"NOPE"`},
	} {
		expect(t, get(t, api, "/api/v1/prices/moving-averages?"+test.query), http.StatusOK,
			`{"averages":[`+test.averages+`],"missing":[`+test.missing+`]}`)
	}
}

// TestSeveralAreRefused: what is wrong with a question, on both routes.
func TestSeveralAreRefused(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	api := newAPI(t, func(s *setup) {
		s.LatestPrices = latestFunc(func(context.Context, schema.Provider, schema.Symbol) (latestprices.Price, error) {
			return latestprices.Price{}, down
		})
		s.Averages = averageFunc(func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
			return movingaverages.Average{}, down
		})
	})
	hundred := strings.TrimSuffix(strings.Repeat("A,", 100), ",")
	for _, route := range []string{"/api/v1/prices", "/api/v1/prices/moving-averages"} {
		for query, want := range map[string]struct {
			status int
			says   string
		}{
			"":                            {http.StatusUnprocessableEntity, `"loc":["query","symbols"]`},
			"?symbols=":                   {http.StatusUnprocessableEntity, `"loc":["query","symbols",0]`},
			"?symbols=A,,B":               {http.StatusUnprocessableEntity, `"loc":["query","symbols",1]`},
			"?symbols=" + hundred + ",B":  {http.StatusUnprocessableEntity, `100`},
			"?symbols=A&provider=nowhere": {http.StatusBadRequest, `nowhere`},
			"?symbols=A&symbol=B":         {http.StatusUnprocessableEntity, `"loc":["query","symbol"]`},
			"?symbols=" + hundred:         {http.StatusInternalServerError, `Internal Server Error`},
		} {
			w := get(t, api, route+query)
			if w.Code != want.status || !strings.Contains(w.Body.String(), want.says) {
				t.Errorf("%s%.40s: %d %s, want %d and %s", route, query, w.Code, w.Body, want.status, want.says)
			}
		}
	}
}
