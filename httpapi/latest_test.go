package httpapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

const (
	latestAAPL = "/api/v1/prices/latest?symbol=AAPL"
	aapl185    = `{"symbol":"AAPL","price":185.75,"timestamp":"2025-06-15T14:30:00.000000Z","provider":"finnhub"}`
)

func TestLatestAnswersAFreshPriceWithoutAFetch(t *testing.T) {
	t.Parallel()
	log := &commands{}
	api := newAPI(t, func(s *setup) { s.Commands, s.LatestPrices = log, knows("185.75", 4*time.Second) })
	w := get(t, api, "/api/v1/prices/latest?symbol=aapl&provider=finnhub")
	expect(t, w, http.StatusOK, aapl185)
	if got := w.Header().Get("Cache-Control"); got != "max-age=1" {
		t.Errorf("Cache-Control %q", got)
	}
	if published := log.all(); len(published) != 0 {
		t.Errorf("published %v", published)
	}
}

func TestLatestFetchesWhatIsNotFresh(t *testing.T) {
	t.Parallel()
	unchanged := observed("185.75")
	unchanged.State = requests.Unchanged
	tests := []struct {
		name    string
		target  string
		known   latestFunc
		outcome requests.Request
	}{
		{"nothing known", latestAAPL, noLatest, observed("185.75")},
		{"known price too old", latestAAPL, knows("1", 5*time.Second), observed("185.75")},
		{"client accepts no age", latestAAPL + "&max_age=0", knows("1", 0), observed("185.75")},
		{"closed market", latestAAPL, noLatest, unchanged},
		{"default provider by an empty name", latestAAPL + "&provider=", noLatest, observed("185.75")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			log := &commands{}
			api := newAPI(t, func(s *setup) {
				s.Commands, s.LatestPrices, s.Requests = log, test.known, becomes(test.outcome)
				s.FetchTimeout = 7 * time.Second
			})
			expect(t, get(t, api, test.target), http.StatusOK, aapl185)
			checkFetchRequest(t, log.all(), 7*time.Second)
		})
	}
}

func checkFetchRequest(t *testing.T, published []schema.Payload, timeout time.Duration) {
	t.Helper()
	if len(published) != 1 {
		t.Fatalf("published %v, want one request", published)
	}
	asked := published[0].(schema.FetchRequested)
	if err := asked.Validate(); err != nil {
		t.Error(err)
	}
	if asked.Symbol != "AAPL" || asked.Provider != "finnhub" || asked.JobID != "" {
		t.Errorf("asked for %+v", asked)
	}
	if got := asked.Deadline.Sub(asked.RequestedAt.Time); got != timeout {
		t.Errorf("deadline after %v, want %v", got, timeout)
	}
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if !uuid.MatchString(asked.RequestID) {
		t.Errorf("request id %q is no UUID", asked.RequestID)
	}
}

func TestLatestPricesAreExact(t *testing.T) {
	t.Parallel()
	for _, price := range []string{"0.00001304", "123456789012345678.123456789012345678", "3"} {
		api := newAPI(t, func(s *setup) { s.LatestPrices = knows(price, 0) })
		var body struct{ Price json.RawMessage }
		w := get(t, api, latestAAPL)
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || string(body.Price) != price {
			t.Errorf("%s is answered as %s (%v)", price, body.Price, err)
		}
	}
}

func TestLatestMaxAge(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.LatestPrices, s.Requests = knows("1", 10*time.Minute), becomes(observed("185.75"))
	})
	expect(t, get(t, api, latestAAPL+"&max_age=3600"), http.StatusOK,
		`{"symbol":"AAPL","price":1,"timestamp":"2025-06-15T14:30:00.000000Z","provider":"finnhub"}`)
	expect(t, get(t, api, latestAAPL+"&max_age=60"), http.StatusOK, aapl185)
}

func TestLatestWithoutAPrice(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		outcome requests.Request
		status  int
		detail  string
	}{
		{"answer says unknown symbol", failed(requests.Rejected, schema.CodeUnknownSymbol, "no data"),
			http.StatusNotFound, "Symbol AAPL is not known to finnhub"},
		{"status says unknown symbol", failed(requests.Failed, schema.CodeUnknownSymbol, "404"),
			http.StatusNotFound, "Symbol AAPL is not known to finnhub"},
		{"bad price", failed(requests.Rejected, schema.CodeBadPrice, "price is 0"),
			http.StatusBadGateway, "No price from finnhub for AAPL: bad_price: price is 0"},
		{"no key", failed(requests.Failed, schema.CodeNotConfigured, "no API key"),
			http.StatusBadGateway, "No price from finnhub for AAPL: not_configured: no API key"},
		{"provider's rate limit", failed(requests.Failed, schema.CodeRateLimited, "30 calls a second"),
			http.StatusBadGateway, "No price from finnhub for AAPL: rate_limited: 30 calls a second"},
		{"provider's timeout", failed(requests.Failed, schema.CodeTimeout, "no answer within 8s"),
			http.StatusGatewayTimeout, "No answer from finnhub for AAPL in time: no answer within 8s"},
		{"outcome that is none", failed(requests.Pending, "", ""),
			http.StatusInternalServerError, "Internal Server Error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, func(s *setup) { s.Requests = becomes(test.outcome) })
			w := get(t, api, latestAAPL)
			expect(t, w, test.status, `{"detail":"`+test.detail+`"}`)
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control %q", got)
			}
		})
	}
}

func TestLatestTimesOut(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, func(s *setup) { s.FetchTimeout, s.OutcomeGrace = 4*time.Second, time.Second })
		start := time.Now()
		w := get(t, api, latestAAPL)
		expect(t, w, http.StatusGatewayTimeout, `{"detail":"No outcome for AAPL at finnhub within 5s: the workers are behind, or none is running"}`)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("waited %v, want deadline and grace: 5s", took)
		}
	})
}

func TestStaleAllow(t *testing.T) {
	t.Parallel()
	stale := `{"symbol":"AAPL","price":180.5,"timestamp":"2025-06-15T14:30:00.000000Z","provider":"finnhub"}`
	broken := &commands{err: httpapi.ErrUnavailable}
	tests := []struct {
		name   string
		change func(*setup)
		status int
		age    string
	}{
		{"provider failed", func(s *setup) {
			s.Requests = becomes(failed(requests.Failed, schema.CodeUnavailable, "502"))
		}, http.StatusOK, "90"},
		{"provider timed out", func(s *setup) {
			s.Requests = becomes(failed(requests.Failed, schema.CodeTimeout, "8s"))
		}, http.StatusOK, "90"},
		{"nothing can be asked", func(s *setup) { s.Commands = broken }, http.StatusOK, "90"},
		{"symbol no longer known", func(s *setup) {
			s.Requests = becomes(failed(requests.Rejected, schema.CodeUnknownSymbol, "delisted"))
		}, http.StatusNotFound, ""},
		{"a fault of ours", func(s *setup) {
			s.Commands = &commands{err: errors.New("bug")}
		}, http.StatusInternalServerError, ""},
		{"nothing is known", func(s *setup) {
			s.LatestPrices = latestFunc(noLatest)
			s.Requests = becomes(failed(requests.Failed, schema.CodeUnavailable, "502"))
		}, http.StatusBadGateway, ""},
		{"there is a fresh one", func(s *setup) { s.Requests = becomes(observed("180.5")) }, http.StatusOK, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			api := newAPI(t, func(s *setup) {
				s.Now = func() time.Time { return now }
				s.LatestPrices = latestFunc(func(ctx context.Context, p schema.Provider, y schema.Symbol) (latestprices.Price, error) {
					price, err := knows("180.5", 0)(ctx, p, y)
					price.ReceivedAt = schema.NewTime(now.Add(-90500 * time.Millisecond))
					return price, err
				})
				test.change(s)
			})
			w := get(t, api, latestAAPL+"&stale=allow")
			if test.status == http.StatusOK {
				expect(t, w, http.StatusOK, stale)
			}
			if w.Code != test.status || w.Header().Get("Age") != test.age {
				t.Errorf("%d, Age %q; want %d, %q", w.Code, w.Header().Get("Age"), test.status, test.age)
			}
			if denied := get(t, api, latestAAPL+"&stale=deny"); test.age != "" && denied.Code == http.StatusOK {
				t.Error("a stale price is given without stale=allow")
			}
		})
	}
}

func TestProviders(t *testing.T) {
	t.Parallel()
	var asked schema.Provider
	api := newAPI(t, func(s *setup) {
		s.LatestPrices = latestFunc(func(ctx context.Context, p schema.Provider, y schema.Symbol) (latestprices.Price, error) {
			asked = p
			return knows("1", 0)(ctx, p, y)
		})
	})
	for name, want := range map[string]schema.Provider{
		"yahoo_finance": "yahoo", "yahoo": "yahoo", "simulated": "simulated", "": "finnhub",
	} {
		if w := get(t, api, latestAAPL+"&provider="+name); w.Code != http.StatusOK || asked != want {
			t.Errorf("%q: %d, asked %s, want %s", name, w.Code, asked, want)
		} else if named := cmp.Or(name, "finnhub"); !strings.Contains(w.Body.String(), `"provider":"`+named+`"`) {
			t.Errorf("%q is answered as %s", name, w.Body)
		}
	}
	const unknown = `{"detail":"Unknown provider \"nyse\"; known are finnhub, simulated, yahoo, yahoo_finance"}`
	expect(t, get(t, api, latestAAPL+"&provider=nyse"), http.StatusBadRequest, unknown)
	long := get(t, api, latestAAPL+"&provider="+strings.Repeat("é", 10_000))
	if long.Code != http.StatusBadRequest || long.Body.Len() > 300 {
		t.Errorf("a long name: %d with %d bytes", long.Code, long.Body.Len())
	}
	expect(t, get(t, api, "/api/v1/prices/moving-average?symbol=A&provider=nyse"), http.StatusBadRequest, unknown)
	expect(t, poll(t, api, `{"symbols":["A"],"interval":60,"provider":"nyse"}`), http.StatusBadRequest, unknown)
}

func TestETag(t *testing.T) {
	t.Parallel()
	price := "185.75"
	api := newAPI(t, func(s *setup) {
		s.LatestPrices = latestFunc(func(ctx context.Context, p schema.Provider, y schema.Symbol) (latestprices.Price, error) {
			return knows(price, 0)(ctx, p, y)
		})
	})
	etag := get(t, api, latestAAPL).Header().Get("ETag")
	for _, condition := range []string{etag, "W/" + etag, `"other", ` + etag, "*"} {
		w := get(t, api, latestAAPL, "If-None-Match", condition)
		expect(t, w, http.StatusNotModified, "")
		if w.Header().Get("ETag") != etag || w.Header().Get("Cache-Control") != "max-age=1" {
			t.Errorf("304 without its headers: %v", w.Header())
		}
	}
	price = "185.76"
	if w := get(t, api, latestAAPL, "If-None-Match", etag); w.Code != http.StatusOK || w.Header().Get("ETag") == etag {
		t.Errorf("a new price: %d with %s", w.Code, w.Header().Get("ETag"))
	}
	head := httptest.NewRecorder()
	api.ServeHTTP(head, request(http.MethodHead, latestAAPL, ""))
	if head.Code != http.StatusOK || head.Header().Get("ETag") == "" {
		t.Errorf("HEAD: %d %v", head.Code, head.Header())
	}
}
