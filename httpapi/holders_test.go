package httpapi_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// holders knows which providers have prices of every symbol, and none of the prices.
type holders []schema.Provider

// LatestOf finds none.
func (holders) LatestOf(_ context.Context, _ schema.Provider, symbols []schema.Symbol) ([]*latestprices.Price, error) {
	return make([]*latestprices.Price, len(symbols)), nil
}

func (holders) Latest(ctx context.Context, p schema.Provider, s schema.Symbol) (latestprices.Price, error) {
	return noLatest(ctx, p, s)
}

func (h holders) Holders(_ context.Context, _ schema.Symbol, among []schema.Provider) ([]schema.Provider, error) {
	if among == nil {
		return h, nil
	}
	return slices.DeleteFunc(slices.Clone(among), func(p schema.Provider) bool { return !slices.Contains(h, p) }), nil
}

// simulatedDefault makes the simulated provider the default, as it is without a key.
func simulatedDefault(s *setup) {
	s.DefaultProvider, s.Simulated = "simulated", []schema.Provider{"simulated"}
}

func ofSimulated(outcome requests.Request) requests.Request {
	outcome.Provider = "simulated"
	return outcome
}

// TestAnswersThatRestOnSimulatedPrices: every route that answers with prices, or with
// figures made of them, says in a header that they are made up, in JSON, CSV and 304;
// answers with the prices of a real provider, and those with no price, do not.
func TestAnswersThatRestOnSimulatedPrices(t *testing.T) {
	t.Parallel()
	var asked string
	prices := pastPrices{{ID: 1, Price: schema.MustDecimal("1"), Timestamp: eventTime, ReceivedAt: eventTime}}
	full := newAPI(t, func(s *setup) {
		simulatedDefault(s)
		s.LatestPrices, s.Averages, s.Prices = knows("185.75", time.Second), pastAverages{averages(&asked)}, prices
		s.Symbols = symbolList{knownSymbol("finnhub"), knownSymbol("simulated")}
	})
	fetching := newAPI(t, func(s *setup) {
		simulatedDefault(s)
		s.Requests = becomes(ofSimulated(observed("185.75")))
	})
	stale := newAPI(t, func(s *setup) {
		simulatedDefault(s)
		s.LatestPrices, s.Requests = knows("185.75", time.Hour), becomes(ofSimulated(failed(requests.Failed, schema.CodeUnavailable, "down")))
	})
	empty := newAPI(t, simulatedDefault)
	for _, test := range []struct {
		api    http.Handler
		target string
		want   string
	}{
		{full, "/api/v1/prices/latest?symbol=AAPL", "true"},
		{full, "/api/v1/prices/latest?symbol=AAPL&provider=simulated", "true"},
		{full, "/api/v1/prices/latest?symbol=AAPL&provider=finnhub", ""},
		{fetching, "/api/v1/prices/latest?symbol=AAPL", "true"},
		{stale, "/api/v1/prices/latest?symbol=AAPL&stale=allow", "true"},
		{stale, "/api/v1/prices/latest?symbol=AAPL", ""}, // 502
		{full, "/api/v1/prices/moving-average?symbol=AAPL", "true"},
		{full, "/api/v1/prices/moving-average?symbol=AAPL&as_of=2025-06-15T14:30:00Z", "true"},
		{full, "/api/v1/prices/moving-average?symbol=AAPL&provider=finnhub", ""},
		{empty, "/api/v1/prices/moving-average?symbol=AAPL", ""}, // 404
		{full, "/api/v1/prices/history?symbol=AAPL", "true"},
		{full, "/api/v1/prices/history?symbol=AAPL&provider=finnhub", ""},
		{empty, "/api/v1/prices/history?symbol=AAPL", ""},
		{full, "/api/v1/prices/moving-average/history?symbol=AAPL", "true"},
		{full, "/api/v1/prices/moving-average/history?symbol=AAPL&provider=finnhub", ""},
		{empty, "/api/v1/prices/moving-average/history?symbol=AAPL", ""},
		{full, "/api/v1/indicators/bands?symbol=AAPL", "true"},
		{full, "/api/v1/indicators/bands?symbol=AAPL&provider=finnhub", ""},
		{full, "/api/v1/symbols", "true"},
		{full, "/api/v1/symbols?provider=finnhub", ""},
		{empty, "/api/v1/symbols", ""},
	} {
		w := get(t, test.api, test.target)
		if got := w.Header().Get("Pricemill-Simulated"); got != test.want {
			t.Errorf("%s: %d, Pricemill-Simulated is %q, want %q", test.target, w.Code, got, test.want)
		}
		if w.Code != http.StatusOK {
			continue
		}
		if again := get(t, test.api, test.target, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified ||
			again.Header().Get("Pricemill-Simulated") != test.want {
			t.Errorf("%s again: %d %v", test.target, again.Code, again.Header())
		}
		if strings.Contains(test.target, "history") {
			if list := get(t, test.api, test.target, "Accept", "text/csv"); list.Header().Get("Pricemill-Simulated") != test.want {
				t.Errorf("%s as CSV: %v", test.target, list.Header())
			}
		}
	}
}

func knownSymbol(p schema.Provider) latestprices.Symbol {
	return latestprices.Symbol{Provider: p, Symbol: "AAPL", Prices: 1, First: eventTime, Last: eventTime, LastPrice: schema.MustDecimal("1")}
}

// pastAverages has one average in its history.
type pastAverages struct{ averageFunc }

func (pastAverages) History(context.Context, int, processedprices.Query) ([]movingaverages.Point, error) {
	return []movingaverages.Point{{Value: schema.MustDecimal("1"), Place: projections.Place{Timestamp: eventTime, ID: 1}}}, nil
}

// TestAnswersWithoutPricesNameWhoHasThem: a 404 says in its detail, and an empty list
// in a header, which other providers have prices of the symbol.
func TestAnswersWithoutPricesNameWhoHasThem(t *testing.T) {
	t.Parallel()
	with := func(h holders) http.Handler {
		return newAPI(t, func(s *setup) {
			s.LatestPrices, s.Requests = h, becomes(failed(requests.Rejected, schema.CodeUnknownSymbol, "no such"))
		})
	}
	one, two, none, itself := with(holders{"yahoo"}), with(holders{"simulated", "yahoo"}), with(nil), with(holders{"finnhub"})
	for _, test := range []struct {
		api          http.Handler
		path, detail string
	}{
		{none, "latest", "Symbol AAPL is not known to finnhub"},
		{itself, "latest", "Symbol AAPL is not known to finnhub"},
		{one, "latest", "Symbol AAPL is not known to finnhub; other providers with prices of AAPL: yahoo"},
		{two, "latest", "Symbol AAPL is not known to finnhub; other providers with prices of AAPL: simulated, yahoo"},
		{none, "moving-average", "Moving average not found"},
		{itself, "moving-average", "Moving average not found"},
		{one, "moving-average", "Moving average not found; other providers with prices of AAPL: yahoo"},
		{two, "moving-average", "Moving average not found; other providers with prices of AAPL: simulated, yahoo"},
	} {
		expect(t, get(t, test.api, "/api/v1/prices/"+test.path+"?symbol=AAPL"), http.StatusNotFound, `{"detail":"`+test.detail+`"}`)
	}
	for _, list := range []string{"/api/v1/prices/history", "/api/v1/prices/moving-average/history", "/api/v1/indicators/nothing"} {
		for _, test := range []struct {
			holders holders
			want    string
		}{{nil, ""}, {holders{"finnhub"}, ""}, {holders{"yahoo"}, "yahoo"}, {holders{"simulated", "yahoo"}, "simulated, yahoo"}} {
			api := newAPI(t, func(s *setup) {
				s.LatestPrices = test.holders
				s.Indicators["nothing"] = noPoints{}
			})
			w := get(t, api, list+"?symbol=AAPL")
			expect(t, w, http.StatusOK, `{"items":[]}`)
			if got := w.Header().Get("Pricemill-Other-Providers"); got != test.want {
				t.Errorf("%s, known to %v: %q", list, test.holders, got)
			}
		}
	}
	full := newAPI(t, func(s *setup) {
		s.LatestPrices = holders{"yahoo"}
		s.Prices = pastPrices{{ID: 1, Price: schema.MustDecimal("1"), Timestamp: eventTime, ReceivedAt: eventTime}}
	})
	if w := get(t, full, "/api/v1/prices/history?symbol=AAPL"); w.Header().Get("Pricemill-Other-Providers") != "" {
		t.Errorf("a list that is not empty: %v", w.Header())
	}
}

// TestTheDefaultProviderDoesNotMakeUpAPrice of a symbol that only another provider
// has ever had: not in an answer and not in a job, unless it is asked for by name.
func TestTheDefaultProviderDoesNotMakeUpAPrice(t *testing.T) {
	t.Parallel()
	log := &commands{}
	with := func(prices holders) http.Handler {
		return newAPI(t, func(s *setup) {
			simulatedDefault(s)
			s.Commands, s.LatestPrices, s.Requests = log, prices, becomes(ofSimulated(observed("1")))
		})
	}
	elsewhere, nowhere, both := with(holders{"yahoo"}), with(nil), with(holders{"simulated", "yahoo"})
	const refused = `{"detail":"The default provider, simulated, would make up a price of AAPL; other providers with prices of AAPL: yahoo; to simulate it all the same, say provider=simulated"}`
	expect(t, get(t, elsewhere, latestAAPL), http.StatusNotFound, refused)
	expect(t, get(t, elsewhere, latestAAPL+"&provider="), http.StatusNotFound, refused)
	expect(t, get(t, elsewhere, latestAAPL+"&max_age=0&stale=allow"), http.StatusNotFound, refused)
	expect(t, poll(t, elsewhere, `{"symbols":["AAPL","MSFT"],"interval":60}`), http.StatusBadRequest, refused)
	expect(t, poll(t, elsewhere, `{"symbols":["AAPL"],"interval":60,"provider":null}`), http.StatusBadRequest, refused)
	gone := strings.Replace(refused, "AAPL: yahoo", "AAPL: zed", 1)
	expect(t, get(t, with(holders{"zed"}), latestAAPL), http.StatusNotFound, gone) // its definition was removed
	if published := log.all(); len(published) != 0 {
		t.Errorf("published %v", published)
	}
	for _, allowed := range []struct {
		api    http.Handler
		target string
	}{{elsewhere, latestAAPL + "&provider=simulated"}, {nowhere, latestAAPL}, {both, latestAAPL}} {
		if w := get(t, allowed.api, allowed.target); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", allowed.target, w.Code, w.Body)
		}
	}
	for _, allowed := range []struct {
		api      http.Handler
		provider string
	}{{elsewhere, `,"provider":"simulated"`}, {nowhere, ""}, {both, ""}, {elsewhere, `,"provider":"yahoo"`}} {
		if w := poll(t, allowed.api, `{"symbols":["AAPL"],"interval":60`+allowed.provider+`}`); w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s", allowed.provider, w.Code, w.Body)
		}
	}
	real := newAPI(t, func(s *setup) { // finnhub is the default: it does not make prices up
		s.LatestPrices, s.Requests = holders{"yahoo"}, becomes(observed("185.75"))
	})
	expect(t, get(t, real, latestAAPL), http.StatusOK, aapl185)
}

// TestAFailingLookUpOfHolders is not passed off as an answer.
func TestAFailingLookUpOfHolders(t *testing.T) {
	t.Parallel()
	for _, target := range []string{latestAAPL, "/api/v1/prices/moving-average?symbol=AAPL", "/api/v1/prices/history?symbol=AAPL"} {
		api := newAPI(t, func(s *setup) {
			simulatedDefault(s)
			s.LatestPrices = brokenHolders{}
		})
		if w := get(t, api, target); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

type brokenHolders struct{ holders }

func (brokenHolders) Holders(context.Context, schema.Symbol, []schema.Provider) ([]schema.Provider, error) {
	return nil, httpapi.ErrUnavailable
}

// TestLatestSaysThatAnOlderPriceIsThere: a client of a provider that cannot be asked,
// such as csv, learns how to get what there is.
func TestLatestSaysThatAnOlderPriceIsThere(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.LatestPrices, s.Requests = knows("185.75", time.Hour), becomes(failed(requests.Failed, schema.CodeNotConfigured, "no key"))
	})
	expect(t, get(t, api, latestAAPL), http.StatusBadGateway,
		`{"detail":"No price from finnhub for AAPL: not_configured: no key; stale=allow gives the last one, of 2025-06-15T14:30:00Z"}`)
}

// noPoints is an indicator without any.
type noPoints struct{}

func (noPoints) Indicator() projections.IndicatorDoc { return bands{}.Indicator() }

func (noPoints) Points(context.Context, projections.IndicatorQuery) ([]projections.Point, error) {
	return nil, nil
}
