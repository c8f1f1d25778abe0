package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/internal/contracttest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// brokenPorts are all ports, each of which fails at every call.
type brokenPorts struct{ fail func() error }

func (b brokenPorts) Publish(context.Context, schema.Payload) (string, error) { return "", b.fail() }

func (b brokenPorts) PublishAs(context.Context, string, schema.Payload) (string, error) {
	return "", b.fail()
}

func (b brokenPorts) Facts(context.Context, []processedprices.Moment) (map[processedprices.Moment][]processedprices.Fact, error) {
	return nil, b.fail()
}

func (b brokenPorts) Corrections(context.Context, processedprices.CorrectionQuery) ([]processedprices.Correction, error) {
	return nil, b.fail()
}

func (b brokenPorts) Correction(context.Context, string) (processedprices.Correction, error) {
	return processedprices.Correction{}, b.fail()
}

// brokenPortsOfAdjustments are apart because of Get.
type brokenPortsOfAdjustments struct{ brokenPorts }

func (b brokenPortsOfAdjustments) Of(context.Context, schema.Provider, schema.Symbol) ([]adjustments.Adjustment, error) {
	return nil, b.fail()
}

func (b brokenPortsOfAdjustments) Get(context.Context, string) (adjustments.Adjustment, error) {
	return adjustments.Adjustment{}, b.fail()
}

func (b brokenPortsOfAdjustments) Factors(context.Context, schema.Provider, schema.Symbol) (adjustments.Factors, error) {
	return adjustments.Factors{}, b.fail()
}

func (b brokenPorts) Latest(context.Context, schema.Provider, schema.Symbol) (latestprices.Price, error) {
	return latestprices.Price{}, b.fail()
}

func (b brokenPorts) LatestOf(context.Context, schema.Provider, []schema.Symbol) ([]*latestprices.Price, error) {
	return nil, b.fail()
}

func (b brokenPorts) Holders(context.Context, schema.Symbol, []schema.Provider) ([]schema.Provider, error) {
	return nil, b.fail()
}

func (b brokenPorts) Symbols(context.Context, latestprices.SymbolQuery) ([]latestprices.Symbol, error) {
	return nil, b.fail()
}

func (b brokenPorts) Prices(context.Context, processedprices.Query) ([]processedprices.Price, error) {
	return nil, b.fail()
}

func (b brokenPorts) PricesOf(context.Context, []processedprices.Query) ([][]processedprices.Price, error) {
	return nil, b.fail()
}

func (b brokenPorts) Average(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
	return movingaverages.Average{}, b.fail()
}

func (b brokenPorts) AveragesOf(context.Context, schema.Provider, []schema.Symbol, int) ([]*movingaverages.Average, error) {
	return nil, b.fail()
}

func (b brokenPorts) AsOf(context.Context, schema.Provider, schema.Symbol, int, schema.Time) (movingaverages.Average, error) {
	return movingaverages.Average{}, b.fail()
}

func (b brokenPorts) History(context.Context, int, processedprices.Query) ([]movingaverages.Point, error) {
	return nil, b.fail()
}

func (b brokenPorts) Wait(context.Context, string) (requests.Request, error) {
	return requests.Request{}, b.fail()
}

func (b brokenPorts) WaitCaughtUp(context.Context) error { return b.fail() }

// brokenPortsOfJobs and brokenPortsOfStreams have methods of the same names.
type brokenPortsOfJobs struct{ brokenPorts }

func (b brokenPortsOfJobs) Get(context.Context, string) (jobs.Job, error) {
	return jobs.Job{}, b.fail()
}

func (b brokenPortsOfJobs) List(context.Context, jobs.Place, int) ([]jobs.Job, error) {
	return nil, b.fail()
}

func (b brokenPorts) Open(context.Context, []string) (int, []string, error) { return 0, nil, b.fail() }

type brokenPortsOfRequests struct{ brokenPorts }

func (b brokenPortsOfRequests) Get(context.Context, string) (requests.Detail, error) {
	return requests.Detail{}, b.fail()
}

type brokenPortsOfStreams struct{ brokenPorts }

func (b brokenPortsOfStreams) Get(context.Context, string) (httpapi.Stream, error) {
	return httpapi.Stream{}, b.fail()
}

func (b brokenPortsOfStreams) List(context.Context, int) ([]httpapi.Stream, error) {
	return nil, b.fail()
}

type brokenPortsOfBackfills struct{ brokenPorts }

func (b brokenPortsOfBackfills) Get(context.Context, string) (httpapi.Backfill, error) {
	return httpapi.Backfill{}, b.fail()
}

func (b brokenPortsOfBackfills) Covering(context.Context, schema.Provider, schema.Symbol, schema.Time, schema.Time) (string, error) {
	return "", b.fail()
}

func (b brokenPortsOfBackfills) List(context.Context, int) ([]httpapi.Backfill, error) {
	return nil, b.fail()
}

type brokenPortsOfRebuilds struct{ brokenPorts }

func (brokenPortsOfRebuilds) Projections() []string {
	return []string{"latest-prices", "moving-averages"}
}

func (b brokenPortsOfRebuilds) Start(context.Context, string, projections.Order) (projections.Rebuild, error) {
	return projections.Rebuild{}, b.fail()
}

func (b brokenPortsOfRebuilds) Get(context.Context, string) (projections.Rebuild, error) {
	return projections.Rebuild{}, b.fail()
}

func (b brokenPortsOfRebuilds) List(context.Context, int) ([]projections.Rebuild, error) {
	return nil, b.fail()
}

func (b brokenPortsOfRebuilds) Cancel(context.Context, string) (projections.Rebuild, error) {
	return projections.Rebuild{}, b.fail()
}

func (b brokenPortsOfRebuilds) Promote(context.Context, string, bool) (projections.Rebuild, error) {
	return projections.Rebuild{}, b.fail()
}

func (b brokenPortsOfRebuilds) RollBack(context.Context, string, bool) (projections.Rebuild, error) {
	return projections.Rebuild{}, b.fail()
}

type brokenPortsOfDeadLetters struct{ brokenPorts }

func (b brokenPortsOfDeadLetters) List(context.Context, string, int) ([]httpapi.DeadLetterSummary, error) {
	return nil, b.fail()
}

func (b brokenPortsOfDeadLetters) Get(context.Context, int64) (httpapi.DeadLetter, error) {
	return httpapi.DeadLetter{}, b.fail()
}

func (b brokenPortsOfDeadLetters) Count(context.Context, httpapi.WhichDeadLetters) ([]httpapi.StageDeadLetters, error) {
	return nil, b.fail()
}

func (b brokenPortsOfDeadLetters) Retry(context.Context, httpapi.WhichDeadLetters) (httpapi.DeadLetterRetry, error) {
	return httpapi.DeadLetterRetry{}, b.fail()
}

func (b brokenPortsOfDeadLetters) ReadRetry(context.Context, string) (httpapi.DeadLetterRetry, error) {
	return httpapi.DeadLetterRetry{}, b.fail()
}

func (b brokenPortsOfDeadLetters) Discard(context.Context, httpapi.WhichDeadLetters) (int64, error) {
	return 0, b.fail()
}

type brokenIndicator struct {
	bands
	brokenPorts
}

func (b brokenIndicator) Points(context.Context, projections.IndicatorQuery) ([]projections.Point, error) {
	return nil, b.fail()
}

type brokenLive struct {
	noLive
	brokenPorts
}

func (b brokenLive) Open(context.Context, live.Request) (httpapi.LiveStream, error) {
	return nil, b.fail()
}

type brokenPipeline struct{ brokenPorts }

func (brokenPipeline) Flow() []httpapi.TopicFlow { return nil }

func (b brokenPipeline) Stages(context.Context) ([]httpapi.StagePosition, error) {
	return nil, b.fail()
}

func newBrokenAPI(t testing.TB, fail func() error) http.Handler {
	b := brokenPorts{fail}
	return newAPI(t, func(s *setup) {
		s.RateLimitPerMinute, s.Hosts = -1, []string{}
		s.Historians = []schema.Provider{"coinbase"}
		s.Providers, s.Streamers = append(s.Providers, "coinbase"), []schema.Provider{"coinbase"} // as in the document's examples
		s.Commands, s.LatestPrices, s.Symbols, s.Prices, s.Corrections, s.Averages, s.Requests = b, b, b, b, b, b, b
		s.Jobs, s.Streams, s.RequestDetails = brokenPortsOfJobs{b}, brokenPortsOfStreams{b}, brokenPortsOfRequests{b}
		s.Rebuilds, s.DeadLetters, s.Pipeline = brokenPortsOfRebuilds{b}, brokenPortsOfDeadLetters{b}, brokenPipeline{b}
		s.Backfills = brokenPortsOfBackfills{b}
		s.Adjustments = brokenPortsOfAdjustments{b}
		s.Live = brokenLive{brokenPorts: b}
		s.ProviderStatus = func(context.Context) (map[schema.Provider]httpapi.ProviderStatus, error) { return nil, b.fail() }
		s.Indicators = map[string]httpapi.Indicator{"bands": brokenIndicator{brokenPorts: b}}
		s.Readiness = func(context.Context) []httpapi.Check {
			if err := b.fail(); !errors.Is(err, httpapi.ErrUnavailable) {
				panic(err)
			}
			return []httpapi.Check{{Name: "database", State: httpapi.CheckFailed, Reason: "down"}}
		}
		s.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if err := b.fail(); !errors.Is(err, httpapi.ErrUnavailable) { // they need no database
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		})
	})
}

// TestFaultsOfPorts: an operation has the status of a fault in the document if, and
// only if, the faults of what it needs lead to it.
func TestFaultsOfPorts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail   func() error
		status int
	}{
		"unavailable": {func() error { return httpapi.ErrUnavailable }, http.StatusServiceUnavailable},
		"broken":      {func() error { return errors.New("no such column") }, http.StatusInternalServerError},
		"panicking":   {func() error { panic("no such memory") }, http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api, d := newBrokenAPI(t, test.fail), mustContract(t)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			g := contracttest.NewGenerator(d, rand.New(rand.NewPCG(seed, 0)), contracttest.Options{MaxCreated: 1,
				Symbols: []string{"AAPL"}, Providers: []string{"simulated", "yahoo_finance"}, MaxBody: httpapi.MaxBody})
			want, got := map[string]bool{}, map[string]bool{}
			for _, o := range d.Operations() {
				// Indicators that are known have paths of their own.
				if slices.Contains(o.Statuses(), test.status) && o.Path != "/api/v1/indicators/{indicator}" && o.Path != "/dashboard/actions" { // see TestActions
					want[o.String()] = true
				}
			}
			for range 5_000 {
				r := g.Next()
				if r.Raw != nil {
					continue
				}
				a := serveRequest(t, api, r)
				r.Statuses = nil // a fault of ours comes in place of what else is wrong
				if err := d.Judge(r, a); err != nil {
					t.Fatalf("%v\n%s", err, r.Curl(""))
				}
				if o := d.Find(r.Method, r.DecodedPath()); o != nil && a.Status == test.status {
					got[o.String()] = true
				}
			}
			// A span at random is rarely one: see TestBackfillsOfADatabaseThatIsDown.
			delete(want, "POST /api/v1/backfills")
			delete(got, "POST /api/v1/backfills")
			if !maps.Equal(got, want) {
				t.Errorf("%d resulted from %q,\nthe document has it of %q", test.status, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
			}
		})
	}
}

// serveRequest answers a request without a network.
func serveRequest(t testing.TB, api http.Handler, r contracttest.Request) contracttest.Answer {
	t.Helper()
	parsed, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r.Bytes())))
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Curl(""))
	}
	parsed.RemoteAddr = "127.0.0.1:50000"
	w := httptest.NewRecorder()
	api.ServeHTTP(w, parsed)
	a := contracttest.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}
	if r.Method == http.MethodHead {
		a.Body = nil // a server keeps it back
	}
	return a
}
