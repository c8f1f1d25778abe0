package fetch_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/fetch"
	"github.com/pricemill/pricemill/handlers/schedule"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// service allows so many calls within any period, and counts them when they
// reach it, which takes a while that no one knows beforehand.
type service struct {
	pipeline.Provider
	limit  pipeline.Limit
	random *rand.Rand
	hurry  int // how many times as fast its line is; 0 is 1

	mu      sync.Mutex
	seen    []time.Time // within the last period
	total   int
	refused int
}

var _ pipeline.Limited = (*service)(nil)

func (s *service) Limits() []pipeline.Limit { return []pipeline.Limit{s.limit} }

func (s *service) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	s.mu.Lock()
	there, back := time.Duration(s.random.IntN(400)), time.Duration(s.random.IntN(400))
	if s.random.IntN(50) == 0 {
		there = 600 // the line is bad
	}
	s.mu.Unlock()
	unit := time.Millisecond / time.Duration(max(1, s.hurry))
	if err := sleep(ctx, there*unit); err != nil {
		return nil, err
	}
	if !s.allows() {
		return nil, &pipeline.QuoteError{Code: schema.CodeRateLimited, Reason: "too many calls", RetryAfter: s.limit.Per}
	}
	if err := sleep(ctx, back*unit); err != nil {
		return nil, err
	}
	return schema.RawResponse("price of " + symbol), nil
}

func (s *service) allows() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.seen = slices.DeleteFunc(s.seen, func(t time.Time) bool { return now.Sub(t) >= s.limit.Per })
	s.seen = append(s.seen, now)
	s.total++
	if len(s.seen) > s.limit.Calls {
		s.refused++
		return false
	}
	return true
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "no answer", Err: ctx.Err()}
	case <-time.After(d):
		return nil
	}
}

// A hundred jobs poll every minute on a key that allows 60 calls a minute, with
// three processes whose clocks differ, for half an hour. The service never sees a call
// too many, nearly all that it allows is used, and all jobs get prices again and
// again.
func TestAHundredJobsOnOneKey(t *testing.T) {
	t.Parallel()
	const jobs, minutes = 100, simulatedMinutes
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	connect := newDatabase(t)
	synctest.Test(t, func(t *testing.T) {
		asked := &service{limit: pipeline.Limit{Calls: 60, Per: time.Minute}, random: rand.New(rand.NewPCG(seed, 0))}
		find := func(schema.Provider) (pipeline.Provider, bool) { return asked, true }
		rig := pipelinetest.On(t, connect(t))
		var created []schema.Payload
		for i := range jobs {
			created = append(created, schema.PollingJobCreated{JobID: fmt.Sprint("job ", i), Symbols: []schema.Symbol{schema.Symbol(fmt.Sprint("S", i))},
				Interval: 60, Provider: "p", CreatedAt: schema.NewTime(time.Now())})
		}
		var fetching *pipelinetest.Stage
		for i, skew := range []time.Duration{0, 700 * time.Millisecond, -time.Second} {
			env := pipeline.Env{Now: func() time.Time { return time.Now().Add(skew) }, Log: quiet, Provider: find}
			fetcher, beside := newHandlerIn(t, env), pipelinetest.On(t, connect(t))
			defer process(t, beside, fetcher)()
			if i > 0 {
				continue
			}
			scheduler, err := schedule.New(env)
			require.NoError(t, err)
			scheduling := rig.StartHandler(t, schedule.Name, scheduler)
			require.NoError(t, scheduling.Deliver(rig.AppendAll(t, created...)...))
			scheduling.Close(t)
			defer process(t, beside, scheduler.(pipeline.Runner))()
			fetching = rig.StartHandler(t, fetch.Name, fetcher.(pipeline.Handler))
			defer fetching.Close(t)
		}
		prices, codes := map[schema.Symbol][]time.Time{}, map[schema.Code]int{}
		begin := time.Now()
		for time.Since(begin) < minutes*time.Minute {
			time.Sleep(time.Second)
			synctest.Wait()
			require.NoError(t, fetching.Deliver(rig.Append(t, rig.Events(t, schema.FetchRequests)...)...))
		}
		for _, e := range rig.Events(t, schema.RawQuotes) {
			q := e.Payload.(schema.QuoteFetched)
			prices[q.Symbol] = append(prices[q.Symbol], q.ReceivedAt.Time)
		}
		for _, e := range rig.Events(t, schema.QuoteOutcomes) {
			codes[e.Payload.(schema.QuoteFailed).Code]++
		}
		assert.Zero(t, asked.refused, "calls that the service refused")
		assert.Len(t, prices, jobs, "symbols with prices")
		longest := time.Duration(0)
		for _, times := range prices {
			times = append(times, begin, time.Now())
			slices.SortFunc(times, time.Time.Compare)
			for i := range times[1:] {
				longest = max(longest, times[i+1].Sub(times[i]))
			}
		}
		t.Logf("%d calls, longest time without a price %v, failures %v", asked.total, longest, codes)
		// Two of five wait for the next minute. A call comes back a little later each
		// minute, as long as someone waits for it then: else it misses one.
		assert.LessOrEqual(t, longest, 3*time.Minute+15*time.Second)
		assert.GreaterOrEqual(t, asked.total, 60*minutes*9/10)
		assert.Equal(t, []schema.Code{schema.CodeRateLimited}, slices.Collect(maps.Keys(codes)), "the reason of all failures")
	})
}
