package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// quoted is a price of a member, by how long before now it was received; its event time is
// later the shorter the price.
type quoted struct {
	price string
	age   time.Duration
	event int // seconds after eventTime
}

// viewed makes an API with an instrument APPLE of the members finnhub:AAPL, yahoo:AAPL,
// yahoo:APC, and one of simulated prices.
func viewed(t *testing.T, known map[string]quoted, change func(*setup)) (*httpapi.API, *commands) {
	t.Helper()
	instruments, err := symbolmap.New([]symbolmap.Instrument{
		{Name: "APPLE", Currency: "USD", Class: "equity", Members: []symbolmap.Member{{Provider: "finnhub", Symbol: "AAPL"}, {Provider: "yahoo", Symbol: "AAPL"}, {Provider: "yahoo", Symbol: "APC"}}},
		{Name: "GAME", Members: []symbolmap.Member{{Provider: "simulated", Symbol: "GAME1"}}},
		{Name: "ONE", Members: []symbolmap.Member{{Provider: "finnhub", Symbol: "SAME"}}},
		{Name: "TWO", Members: []symbolmap.Member{{Provider: "yahoo", Symbol: "SAME"}}},
	})
	require.NoError(t, err)
	log := &commands{}
	now := time.Now()
	return newAPI(t, func(s *setup) {
		s.SymbolMap, s.Simulated, s.Commands, s.RateLimitPerMinute = instruments, []schema.Provider{"simulated"}, log, -1
		s.Now = func() time.Time { return now }
		s.LatestPrices = latestFunc(func(_ context.Context, p schema.Provider, symbol schema.Symbol) (latestprices.Price, error) {
			q, found := known[string(p)+":"+string(symbol)]
			if !found {
				return latestprices.Price{}, projections.ErrNotFound
			}
			return latestprices.Price{Provider: p, Symbol: symbol, Price: schema.MustDecimal(q.price),
				Timestamp: eventTime.Add(time.Duration(q.event) * time.Second), ReceivedAt: schema.NewTime(now.Add(-q.age))}, nil
		})
		if change != nil {
			change(s)
		}
	}), log
}

type viewAnswer struct {
	Symbol, Timestamp, Provider string
	Price, Value                json.Number
	Instrument                  struct{ Name, Currency, Class string }
	Members                     []struct {
		Provider, Symbol, Status string
		Price, Value             json.Number
	}
}

func (v viewAnswer) statuses() string {
	var all []string
	for _, m := range v.Members {
		all = append(all, m.Status)
	}
	return strings.Join(all, " ")
}

func TestLatestAcrossProviders(t *testing.T) {
	t.Parallel()
	all := map[string]quoted{"finnhub:AAPL": {"185", 3 * time.Second, 1}, "yahoo:AAPL": {"186", 40 * time.Second, 2}, "yahoo:APC": {"187.01", 90 * time.Second, 0}, "simulated:GAME1": {"1", 0, 0}}
	for name, test := range map[string]struct {
		known           map[string]quoted
		query           string
		price, statuses string
		age             string
	}{
		"median of an odd number":   {all, "symbol=APPLE&provider=median", "186", "counted chosen counted", "90"},
		"median of an even number":  {all, "symbol=APPLE&provider=median&max_age=60", "185.5", "chosen chosen stale", "40"},
		"by the symbol of a member": {all, "symbol=apc&provider=median", "186", "counted chosen counted", "90"},
		"the freshest":              {all, "symbol=apple&provider=freshest", "186", "counted chosen counted", "40"},
		"the freshest that counts":  {all, "symbol=APPLE&provider=freshest&max_age=10", "185", "chosen stale stale", "3"},
		"any":                       {all, "symbol=APPLE&provider=any", "185", "chosen stale stale", "3"},
		"any, the first is not fresh": {map[string]quoted{"finnhub:AAPL": {"185", time.Hour, 1}, "yahoo:APC": {"187", time.Second, 0}},
			"symbol=APPLE&provider=any", "187", "stale unknown chosen", "1"},
		"an older one will do": {map[string]quoted{"yahoo:AAPL": {"186", time.Hour, 2}}, "symbol=APPLE&provider=median&stale=allow", "186", "unknown chosen unknown", "3600"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api, log := viewed(t, test.known, nil)
			w := get(t, api, "/api/v1/prices/latest?"+test.query)
			require.Equal(t, http.StatusOK, w.Code, w.Body)
			var got viewAnswer
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			assert.Equal(t, test.price, got.Price.String())
			assert.Equal(t, test.statuses, got.statuses())
			assert.Equal(t, "APPLE", got.Symbol)
			assert.Contains(t, test.query, "provider="+got.Provider)
			assert.Equal(t, struct{ Name, Currency, Class string }{"APPLE", "USD", "equity"}, got.Instrument)
			assert.Equal(t, test.age, w.Header().Get("Age"))
			assert.Equal(t, "max-age=1", w.Header().Get("Cache-Control"))
			assert.Empty(t, w.Header().Get("Pricemill-Simulated"))
			assert.Empty(t, log.all(), "no provider is asked")

			again := get(t, api, "/api/v1/prices/latest?"+test.query, "If-None-Match", w.Header().Get("ETag"))
			assert.Equal(t, http.StatusNotModified, again.Code)
			assert.Equal(t, test.age, again.Header().Get("Age"))
		})
	}
	api, _ := viewed(t, all, nil)
	assert.Equal(t, "true", get(t, api, "/api/v1/prices/latest?symbol=GAME&provider=median").Header().Get("Pricemill-Simulated"))
}

// any asks one provider, the first of the map that can be asked, and only where no member is
// fresh; the others ask none.
func TestAnyAsksOneProvider(t *testing.T) {
	t.Parallel()
	old := map[string]quoted{"yahoo:AAPL": {"186", time.Hour, 2}}
	for name, test := range map[string]struct {
		outcome         requests.Request
		query           string
		status          int
		price, statuses string
	}{
		"a price":            {observed("185"), "provider=any", http.StatusOK, "185", "unknown chosen stale"},
		"although max_age=0": {observed("185"), "provider=any&max_age=0", http.StatusOK, "185", "unknown chosen stale"},
		"none":               {failed(requests.Failed, schema.CodeUnavailable, "down"), "provider=any", http.StatusBadGateway, "", ""},
		"none, an older":     {failed(requests.Failed, schema.CodeUnavailable, "down"), "provider=any&stale=allow", http.StatusOK, "186", "unknown unknown chosen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known := map[string]quoted{"yahoo:APC": old["yahoo:AAPL"]}
			api, log := viewed(t, known, func(s *setup) {
				outcome := test.outcome
				outcome.Provider, outcome.Symbol = "yahoo", "AAPL"
				s.Requests = becomes(outcome)
				// finnhub is not configured, so yahoo is the first that can be asked.
			})
			w := get(t, api, "/api/v1/prices/latest?symbol=APPLE&"+test.query)
			require.Equal(t, test.status, w.Code, w.Body)
			require.Len(t, log.all(), 1)
			asked := log.all()[0].(schema.FetchRequested)
			assert.Equal(t, schema.Quote{Provider: "yahoo", Symbol: "AAPL", RequestID: w.Header().Get("Pricemill-Request")}, asked.Quote)
			if test.price == "" {
				return
			}
			var got viewAnswer
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			assert.Equal(t, test.price, got.Price.String())
			assert.Equal(t, test.statuses, got.statuses())
		})
	}
	api, log := viewed(t, old, func(s *setup) {
		s.ProviderInfo = func() []httpapi.ProviderInfo { return []httpapi.ProviderInfo{{Name: "finnhub"}, {Name: "yahoo"}} }
	})
	w := get(t, api, "/api/v1/prices/latest?symbol=APPLE&provider=any")
	assert.Equal(t, http.StatusNotFound, w.Code, "none can be asked")
	assert.Contains(t, w.Body.String(), "stale=allow answers of older ones")
	assert.Empty(t, log.all())
}

func TestViewsThatAreRefused(t *testing.T) {
	t.Parallel()
	api, log := viewed(t, map[string]quoted{"finnhub:AAPL": {"185", time.Hour, 1}, "finnhub:MSFT": {"1", 0, 0}, "yahoo:SAME": {"1", 0, 0}}, nil)
	without := newAPI(t, nil)
	for _, test := range []struct {
		api    *httpapi.API
		target string
		status int
		want   string
	}{
		{api, "latest?symbol=MSFT&provider=median", http.StatusNotFound, "No instrument of the symbol map is named MSFT, or has a member of this symbol"},
		{api, "latest?symbol=SAME&provider=freshest", http.StatusUnprocessableEntity, "members of several instruments have this symbol: ONE, TWO; name one of them"},
		{api, "latest?symbol=APPLE&provider=median", http.StatusNotFound, "No member of APPLE has a price that was received less than 2m0s ago; stale=allow answers of older ones, the last of "},
		{api, "latest?symbol=TWO&provider=freshest&max_age=0", http.StatusNotFound, "No member of TWO"},
		{api, "latest?symbol=ONE&provider=freshest&stale=allow", http.StatusNotFound, ", or any price"},
		{api, "latest?provider=median", http.StatusUnprocessableEntity, "Field required"},
		{without, "latest?symbol=APPLE&provider=median", http.StatusNotFound, "There is no symbol map, and provider=median needs one: see SYMBOL_MAP_FILE"},
		{without, "moving-average?symbol=APPLE&provider=any", http.StatusNotFound, "There is no symbol map"},
		{api, "moving-average?symbol=ONE&provider=any", http.StatusNotFound, "Moving average not found: no member of ONE has a price"},
		{api, "moving-average?symbol=SAME&provider=any", http.StatusUnprocessableEntity, "ONE, TWO"},
		{api, "moving-average?symbol=ONE&provider=any&window=0", http.StatusUnprocessableEntity, "window"},
		{api, "history?symbol=APPLE&provider=median", http.StatusBadRequest, "provider=median is for GET latest and GET moving-average alone"},
		{api, "moving-averages?symbols=APPLE&provider=any", http.StatusBadRequest, "provider=any is for"},
	} {
		w := get(t, test.api, "/api/v1/prices/"+test.target)
		assert.Equal(t, test.status, w.Code, "%s: %s", test.target, w.Body)
		assert.Contains(t, w.Body.String(), test.want, test.target)
		assert.Empty(t, w.Header().Get("Age"), test.target)
	}
	assert.Empty(t, log.all())
	assert.Equal(t, http.StatusBadRequest, poll(t, api, `{"symbols":["APPLE"],"interval":60,"provider":"any"}`).Code)

	_, err := httpapi.New(httpapi.Config{Providers: []schema.Provider{"median"}, DefaultProvider: "median", ProviderAliases: map[string]schema.Provider{"any": "median"}}, httpapi.Ports{})
	require.ErrorContains(t, err, `Providers: "median" stands for prices of several providers`)
	require.ErrorContains(t, err, `ProviderAliases: "any" stands for prices of several providers`)
}

func TestAveragesAcrossProviders(t *testing.T) {
	t.Parallel()
	values := map[string]string{"finnhub:AAPL": "185", "yahoo:AAPL": "186", "yahoo:APC": "188"}
	for name, test := range map[string]struct {
		query, value, statuses, timestamp string
	}{
		"median":       {"provider=median&window=3", "186", "counted chosen counted", "2025-06-15T14:30:02.000000Z"},
		"freshest":     {"provider=freshest&window=3", "188", "counted counted chosen", "2025-06-15T14:30:02.000000Z"},
		"any":          {"provider=any&window=3", "185", "chosen counted counted", "2025-06-15T14:30:00.000000Z"},
		"as of a time": {"provider=median&window=3&as_of=2025-01-01T00:00:00Z", "186", "counted chosen counted", "2025-01-01T00:00:00.000000Z"},
	} {
		api, log := viewed(t, nil, func(s *setup) {
			s.Averages = averageFunc(func(_ context.Context, p schema.Provider, symbol schema.Symbol, window int) (movingaverages.Average, error) {
				value, found := values[string(p)+":"+string(symbol)]
				if !found {
					return movingaverages.Average{}, projections.ErrNotFound
				}
				event := map[string]int{"185": 0, "186": 1, "188": 2}[value]
				return movingaverages.Average{Provider: p, Symbol: symbol, Window: window, Value: schema.MustDecimal(value), Timestamp: eventTime.Add(time.Duration(event) * time.Second)}, nil
			})
		})
		w := get(t, api, "/api/v1/prices/moving-average?symbol=APPLE&"+test.query)
		require.Equal(t, http.StatusOK, w.Code, "%s: %s", name, w.Body)
		var got viewAnswer
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		assert.Equal(t, test.value, got.Value.String(), name)
		assert.Equal(t, test.statuses, got.statuses(), name)
		assert.Equal(t, test.timestamp, got.Timestamp, name)
		assert.Empty(t, log.all())
		again := get(t, api, "/api/v1/prices/moving-average?symbol=APPLE&"+test.query, "If-None-Match", w.Header().Get("ETag"))
		assert.Equal(t, http.StatusNotModified, again.Code)
	}
}

func TestSymbolsNameTheirInstrument(t *testing.T) {
	t.Parallel()
	api, _ := viewed(t, nil, func(s *setup) {
		s.Symbols = symbolList{{Provider: "yahoo", Symbol: "APC", Prices: 1, First: eventTime, Last: eventTime, LastPrice: schema.MustDecimal("1")},
			{Provider: "finnhub", Symbol: "APC", Prices: 1, First: eventTime, Last: eventTime, LastPrice: schema.MustDecimal("1")}}
	})
	var page struct{ Items []map[string]any }
	require.NoError(t, json.Unmarshal(get(t, api, "/api/v1/symbols").Body.Bytes(), &page))
	require.Len(t, page.Items, 2)
	assert.Equal(t, "APPLE", page.Items[0]["instrument"])
	assert.NotContains(t, page.Items[1], "instrument")
}
