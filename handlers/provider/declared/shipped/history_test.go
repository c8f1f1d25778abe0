package shipped_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// pastTrades is how many trades a service has: more than two pages of 1000.
const pastTrades = 2100

// pastTime is when a trade was, to the tenth of a microsecond, as Kraken tells it.
func pastTime(n int) time.Time {
	return time.Unix(1688669597, 827736900).UTC().Add(time.Duration(n) * 250 * time.Millisecond)
}

// pastService is one with a past, as its documentation describes it.
type pastService struct {
	symbol  schema.Symbol
	known   string // the query by which it knows the symbol
	unknown func(w http.ResponseWriter)
	trade   func(n int) string
	id      func(n int) string
	time    func(n int) time.Time
	answer  func(query url.Values, trades func(first, most int) string) string
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64) // 0 for none
	return n
}

func pastServices() map[schema.Provider]pastService {
	since := func(from time.Time, inclusive bool) (n int) {
		for n < pastTrades && (pastTime(n).Before(from) || !inclusive && pastTime(n).Equal(from)) {
			n++
		}
		return n
	}
	return map[schema.Provider]pastService{
		// https://docs.kraken.com/api/docs/rest-api/get-recent-trades: those after since, and last
		// for the next since; without trades it is the since that was asked for.
		"kraken": {
			symbol: "BTC-USD", known: "pair=XBTUSD",
			unknown: func(w http.ResponseWriter) { fmt.Fprint(w, `{"error":["EQuery:Unknown asset pair"]}`) },
			trade: func(n int) string {
				return fmt.Sprintf(`["30243.%d0000","0.34507674",%d.%07d,"b","m","",%d]`, n%10, pastTime(n).Unix(), pastTime(n).Nanosecond()/100, 61044952+n)
			},
			id:   func(n int) string { return fmt.Sprint(61044952 + n) },
			time: func(n int) time.Time { return pastTime(n).Truncate(time.Microsecond) },
			answer: func(query url.Values, trades func(first, most int) string) string {
				from := since(time.Unix(0, number(query.Get("since"))), false)
				most := int(number(query.Get("count")))
				last := query.Get("since")
				if from < pastTrades {
					last = fmt.Sprint(pastTime(min(from+most, pastTrades) - 1).UnixNano())
				}
				return fmt.Sprintf(`{"error":[],"result":{"XXBTZUSD":%s,"last":%q}}`, trades(from, most), last)
			},
		},
		// https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints:
		// by fromId, inclusive, or those since startTime.
		"binance": {
			symbol: "BTC-USDT", known: "symbol=BTCUSDT",
			unknown: func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"code":-1121,"msg":"Invalid symbol."}`)
			},
			trade: func(n int) string {
				return fmt.Sprintf(`{"a":%d,"p":"30243.%d0000000","q":"4.70443515","f":27781,"l":27781,"T":%d,"m":true,"M":true}`, 26129+n, n%10, pastTime(n).UnixMilli())
			},
			id:   func(n int) string { return fmt.Sprint(26129 + n) },
			time: func(n int) time.Time { return pastTime(n).Truncate(time.Millisecond) },
			answer: func(query url.Values, trades func(first, most int) string) string {
				first := int(number(query.Get("fromId"))) - 26129
				if at := query.Get("startTime"); at != "" {
					first = since(time.UnixMilli(number(at)), true)
				}
				return trades(first, int(number(query.Get("limit"))))
			},
		},
	}
}

func (s pastService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.RawQuery, s.known) {
		s.unknown(w)
		return
	}
	fmt.Fprint(w, s.answer(r.URL.Query(), func(first, most int) string {
		var all []string
		for n := max(0, first); n < pastTrades && len(all) < most; n++ {
			all = append(all, s.trade(n))
		}
		return "[" + strings.Join(all, ",") + "]"
	}))
}

// TestHistories holds each definition with a history to what a backfill needs.
func TestHistories(t *testing.T) {
	t.Parallel()
	past := pastServices()
	for _, known := range services() {
		s := known.Name
		d := shippedDefinition(t, s)
		p, err := d.New(pipeline.Env{})
		require.NoError(t, err)
		service, described := past[s]
		if _, has := p.(pipeline.Historian); !has {
			require.False(t, described, s)
			continue
		}
		require.True(t, described, "%s has a history: describe its service here", s)
		historian := func(t testing.TB, service http.Handler) pipeline.Historian {
			server := httptest.NewServer(service)
			t.Cleanup(server.Close)
			p, err := d.New(pipeline.Env{Settings: map[string]any{"base_url": server.URL}})
			require.NoError(t, err)
			return p.(pipeline.Historian)
		}
		h := providertest.History{Name: s, Symbol: service.symbol, Unknown: "NOPE-USD", Answering: historian,
			New: func(t testing.TB) pipeline.Historian { return historian(t, service) }}
		for n := range pastTrades {
			h.Entries = append(h.Entries, pipeline.HistoryEntry{ID: schema.DeriveID("stream", string(s), string(service.symbol), service.id(n)),
				RawResponse: schema.RawResponse(service.trade(n)), Time: schema.NewTime(service.time(n))})
		}
		t.Run(string(s), func(t *testing.T) {
			t.Parallel()
			providertest.RunHistory(t, h)
		})
	}
}
