package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/projections/instruments"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// What is known of symbols is in their list: what the map says first, and the state of the
// market at this moment.
func TestSymbolsAreDescribed(t *testing.T) {
	t.Parallel()
	now := eventTime.Time
	symbol := func(provider schema.Provider, symbol schema.Symbol) latestprices.Symbol {
		return latestprices.Symbol{Provider: provider, Symbol: symbol, Prices: 1, First: eventTime, Last: eventTime, LastPrice: schema.MustDecimal("1")}
	}
	mapped, err := symbolmap.New([]symbolmap.Instrument{{Name: "APPLE", Currency: "USD", Class: "equity",
		Members: []symbolmap.Member{{Provider: "yahoo", Symbol: "AAPL"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var asked []instruments.Market
	api := newAPI(t, func(s *setup) {
		s.Symbols = symbolList{symbol("finnhub", "X"), symbol("yahoo", "AAPL"), symbol("yahoo", "BTC-USD")}
		s.SymbolMap = mapped
		s.Now = func() time.Time { return now }
		s.Instruments = func(_ context.Context, of []instruments.Market) ([]schema.Instrument, error) {
			asked = of
			return []schema.Instrument{{},
				{Currency: "EUR", Venue: "NMS", Timezone: "America/New_York",
					Session: &schema.Session{Begin: eventTime.Add(-8 * time.Hour), End: eventTime.Add(-time.Hour)}},
				{Class: "crypto", Hours: schema.HoursAlways, TickSize: schema.MustDecimal("0.01")}}, nil
		}
	})
	const rest = `"count":1,"first_timestamp":"2025-06-15T14:30:00.000000Z","last_timestamp":"2025-06-15T14:30:00.000000Z","last_price":1`
	expect(t, get(t, api, "/api/v1/symbols"), http.StatusOK, `{"items":[`+
		`{"symbol":"X","provider":"finnhub",`+rest+`,"market":"unknown"},`+
		`{"symbol":"AAPL","provider":"yahoo",`+rest+`,"instrument":"APPLE","currency":"USD","venue":"NMS","class":"equity","timezone":"America/New_York",`+
		`"session":{"begin":"2025-06-15T06:30:00.000000Z","end":"2025-06-15T13:30:00.000000Z"},"market":"closed"},`+
		`{"symbol":"BTC-USD","provider":"yahoo",`+rest+`,"class":"crypto","tick_size":0.01,"hours":"always","market":"open"}]}`)
	if len(asked) != 3 || asked[1] != (instruments.Market{Provider: "yahoo", Symbol: "AAPL"}) {
		t.Errorf("asked for %v", asked)
	}
}

// A price says whether its market is open, and is answered also where that cannot be read.
func TestTheMarketOfAPrice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		about schema.Instrument
		err   error
		want  string
	}{
		"open":      {schema.Instrument{Hours: schema.HoursAlways}, nil, "open"},
		"closed":    {schema.Instrument{Session: &schema.Session{Begin: schema.NewTime(time.Now().Add(-3 * time.Hour)), End: schema.NewTime(time.Now().Add(-2 * time.Hour))}}, nil, "closed"},
		"unknown":   {schema.Instrument{Currency: "USD"}, nil, "unknown"},
		"no answer": {schema.Instrument{}, httpapi.ErrUnavailable, ""},
		"a fault":   {schema.Instrument{}, errors.New("a fault"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, func(s *setup) {
				s.LatestPrices = knows("1", 0)
				s.Instruments = func(context.Context, []instruments.Market) ([]schema.Instrument, error) {
					return []schema.Instrument{test.about}, test.err
				}
			})
			w := get(t, api, "/api/v1/prices/latest?symbol=AAPL")
			if w.Code != http.StatusOK || w.Header().Get("Pricemill-Market") != test.want {
				t.Errorf("%d, %v", w.Code, w.Header())
			}
		})
	}
	api := newAPI(t, func(s *setup) {
		s.Symbols = symbolList{{Provider: "yahoo", Symbol: "A", Prices: 1}}
		s.Instruments = func(context.Context, []instruments.Market) ([]schema.Instrument, error) {
			return nil, httpapi.ErrUnavailable
		}
	})
	if w := get(t, api, "/api/v1/symbols"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a list without what is known: %d", w.Code)
	}
}
