package httpapi_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// gate holds every request back until it is opened.
type gate struct {
	opened  chan struct{}
	outcome requests.Request
}

func newGate(outcome requests.Request) *gate { return &gate{make(chan struct{}), outcome} }

func (g *gate) Wait(ctx context.Context, id string) (requests.Request, error) {
	select {
	case <-ctx.Done():
		return requests.Request{}, ctx.Err()
	case <-g.opened:
		return becomes(g.outcome)(ctx, id)
	}
}

// crowd is clients that ask at the same time, each with its own context.
type crowd struct {
	sync.WaitGroup
	api     http.Handler
	answers []*httptest.ResponseRecorder
	leave   []context.CancelFunc
	dropped atomic.Int32 // connections that were ended without an answer
}

// join adds a client and returns when it can get no further.
func (c *crowd) join(t *testing.T, target string) {
	r := request(http.MethodGet, target, "")
	ctx, cancel := context.WithCancel(r.Context())
	w := httptest.NewRecorder()
	c.answers, c.leave = append(c.answers, w), append(c.leave, cancel)
	t.Cleanup(cancel)
	c.Go(func() {
		if drops(c.api, w, r.WithContext(ctx)) {
			c.dropped.Add(1)
		}
	})
	synctest.Wait()
}

func TestManyClientsShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, held := &commands{}, newGate(observed("185.75"))
		c := crowd{api: newAPI(t, func(s *setup) {
			s.Commands, s.Requests, s.RateLimitPerMinute = log, held, -1
		})}
		for range 100 {
			c.join(t, latestAAPL)
		}
		c.join(t, "/api/v1/prices/latest?symbol=MSFT")
		c.join(t, latestAAPL+"&provider=yahoo")
		close(held.opened)
		c.Wait()
		for i, w := range c.answers {
			if w.Code != http.StatusOK {
				t.Errorf("client %d: %d %s", i, w.Code, w.Body)
			}
		}
		if n := len(log.all()); n != 3 {
			t.Errorf("%d fetch requests for three different prices", n)
		}
	})
}

func TestAFetchOutlivesTheClientThatBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged strings.Builder
		log, held := &commands{}, newGate(observed("185.75"))
		c := crowd{api: newAPI(t, func(s *setup) {
			s.Commands, s.Requests = log, held
			s.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})}
		c.join(t, latestAAPL)
		c.join(t, latestAAPL)
		c.leave[0]()
		synctest.Wait()
		if c.dropped.Load() != 1 || c.answers[0].Body.Len() != 0 || !strings.Contains(logged.String(), "status=499") {
			t.Errorf("the client that left: %d dropped, %v\n%s", c.dropped.Load(), c.answers[0], &logged)
		}
		// No one is left for a moment; the next client joins all the same.
		c.leave[1]()
		synctest.Wait()
		c.join(t, latestAAPL)
		close(held.opened)
		c.Wait()
		expect(t, c.answers[2], http.StatusOK, aapl185)
		if n := len(log.all()); n != 1 {
			t.Errorf("%d fetch requests, want 1", n)
		}
	})
}

func TestAllClientsOfAFailedFetchLearnWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := newGate(failed(requests.Failed, schema.CodeUnavailable, "connection refused"))
		c := crowd{api: newAPI(t, func(s *setup) { s.Requests = held })}
		c.join(t, latestAAPL)
		c.join(t, latestAAPL)
		close(held.opened)
		c.Wait()
		for _, w := range c.answers {
			expect(t, w, http.StatusBadGateway, `{"detail":"No price from finnhub for AAPL: unavailable: connection refused"}`)
		}
	})
}

// TestAPriceThatCameInMeanwhile: between the look of the first client and its
// flight a price comes in. It will do for that client, but not for one that
// joined and accepts no age.
func TestAPriceThatCameInMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		look := make(chan struct{})
		log := &commands{}
		c := crowd{api: newAPI(t, func(s *setup) {
			s.Commands, s.Requests = log, becomes(observed("185.75"))
			s.LatestPrices = latestFunc(func(ctx context.Context, p schema.Provider, y schema.Symbol) (latestprices.Price, error) {
				switch looks.Add(1) {
				case 2: // the first client's flight
					<-look
					return knows("7", 0)(ctx, p, y)
				case 1, 3: // the two clients, before they fly
					return noLatest(ctx, p, y)
				}
				return knows("7", 0)(ctx, p, y)
			})
		})}
		c.join(t, latestAAPL)
		c.join(t, latestAAPL+"&max_age=0")
		close(look)
		c.Wait()
		expect(t, c.answers[0], http.StatusOK, strings.Replace(aapl185, "185.75", "7", 1))
		expect(t, c.answers[1], http.StatusOK, aapl185)
		if n := len(log.all()); n != 1 {
			t.Errorf("%d fetch requests, want 1", n)
		}
	})
}

func TestAPanicOfAPortIsAnInternalError(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	api := newAPI(t, func(s *setup) {
		s.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		s.Requests = waitFunc(func(context.Context, string) (requests.Request, error) { panic("secret") })
	})
	expect(t, get(t, api, latestAAPL), http.StatusInternalServerError, `{"detail":"Internal Server Error"}`)
	if !strings.Contains(logged.String(), "secret") || !strings.Contains(logged.String(), "fetch_test.go") {
		t.Errorf("the log has no panic with its stack: %s", &logged)
	}
}

func TestCloseEndsFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, nil)
		c := crowd{api: api}
		c.join(t, latestAAPL)
		api.Close()
		c.Wait()
		c.join(t, latestAAPL)
		c.Wait()
		for _, w := range c.answers {
			expect(t, w, http.StatusServiceUnavailable, `{"detail":"Service temporarily unavailable"}`)
		}
	})
}

func TestCloseWaitsForFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Bool
		let := make(chan struct{})
		api := newAPI(t, func(s *setup) {
			s.Requests = waitFunc(func(ctx context.Context, _ string) (requests.Request, error) {
				<-ctx.Done()
				<-let // a query that takes its time to end
				return requests.Request{}, ctx.Err()
			})
		})
		c := crowd{api: api}
		c.join(t, latestAAPL)
		c.Go(func() {
			api.Close()
			closed.Store(true)
		})
		synctest.Wait()
		if closed.Load() {
			t.Error("closed while a fetch still uses its ports")
		}
		close(let)
		c.Wait()
	})
}

func TestAFaultOfThePortThatWaits(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Requests = waitFunc(func(context.Context, string) (requests.Request, error) {
			return requests.Request{}, httpapi.ErrUnavailable
		})
	})
	w := get(t, api, latestAAPL)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
