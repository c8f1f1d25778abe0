package fetch_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// many are requests of one timeout, each for a symbol of its own whose name begins
// with prefix. Those of jobs name one.
func many(n int, prefix string, timeout time.Duration, job bool) []schema.FetchRequested {
	var all []schema.FetchRequested
	for i := range n {
		r := request(fmt.Sprint(prefix, i), "p", schema.Symbol(fmt.Sprint(strings.ToUpper(prefix), i)), timeout)
		if job {
			r.JobID = "poll_abc12345"
		}
		all = append(all, r)
	}
	return all
}

// taking answers after some time.
func taking(d time.Duration) quoteFunc {
	return func(ctx context.Context, s schema.Symbol) (schema.RawResponse, error) {
		time.Sleep(d)
		return answering(ctx, s)
	}
}

// answered counts the answers to requests whose ids begin with prefix.
func answered(got map[string][]schema.Event, prefix string) int {
	n := 0
	for id, events := range got {
		if _, ok := events[0].Payload.(schema.QuoteFetched); ok && strings.HasPrefix(id, prefix) {
			n++
		}
	}
	return n
}

// rigOf runs a worker for one provider.
func rigOf(t *testing.T, quote quoteFunc, limits ...pipeline.Limit) (*pipelinetest.Rig, pipeline.Runner, func()) {
	t.Helper()
	rig, p := pipelinetest.New(t), newScripted(quote)
	p.limits = limits
	runner := newHandler(t, providers{"p": p}, quiet)
	return rig, runner, process(t, rig, runner)
}

// However many jobs wait, and however slow their calls are, a client's request is
// asked at once: it waits for none of them.
func TestAClientWaitsForNoJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig, runner, stop := rigOf(t, taking(5*time.Second))
		defer stop()
		enter(t, rig, runner, many(500, "job", 10*time.Second, true)...)
		time.Sleep(time.Second)
		begin := time.Now()
		enter(t, rig, runner, request("client", "p", "A", 10*time.Second))
		time.Sleep(6 * time.Second)
		got := outcomes(t, rig)["client"]
		require.Len(t, got, 1)
		require.IsType(t, schema.QuoteFetched{}, got[0].Payload)
		assert.Equal(t, 5*time.Second, got[0].Payload.(schema.QuoteFetched).ReceivedAt.Sub(begin))
	})
}

// However many clients ask, every fifth call is a job's.
func TestClientsLeaveCallsToJobs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limits []pipeline.Limit
		takes  time.Duration
		within time.Duration
		jobs   int // answers to jobs by then
	}{
		"slots are scarce": {nil, time.Second, 10*time.Second + time.Millisecond, 30},
		"calls are scarce": {[]pipeline.Limit{{Calls: 60, Per: time.Minute}}, time.Millisecond, 59 * time.Second, 12},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig, runner, stop := rigOf(t, taking(test.takes), test.limits...)
				defer stop()
				enter(t, rig, runner, append(many(400, "client", 10*time.Minute, false), many(100, "job", 10*time.Minute, true)...)...)
				time.Sleep(test.within)
				got := outcomes(t, rig)
				jobs, all := answered(got, "job"), answered(got, "")
				assert.InDelta(t, test.jobs, jobs, 4, "of %d answers", all)
				assert.Greater(t, all, 4*jobs, "clients come first")
			})
		})
	}
}

// Jobs leave a twentieth of a budget to clients, so that one who comes after them
// need not wait until calls come free.
func TestJobsLeaveCallsToClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig, runner, stop := rigOf(t, answering, pipeline.Limit{Calls: 60, Per: time.Minute})
		defer stop()
		enter(t, rig, runner, many(100, "job", 10*time.Second, true)...)
		time.Sleep(10 * time.Second)
		assert.Equal(t, 57, answered(outcomes(t, rig), "job"))
		enter(t, rig, runner, many(5, "client", 10*time.Second, false)...)
		time.Sleep(time.Second)
		got := outcomes(t, rig)
		assert.Equal(t, 3, answered(got, "client"))
		assert.Len(t, got, 5, "the others are refused at once")
	})
}
