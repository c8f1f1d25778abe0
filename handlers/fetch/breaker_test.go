package fetch_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// A provider that cannot be reached is not asked for a while, and then once.
func TestTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig, calls := pipelinetest.New(t), newDiary()
		down := pipeline.Quotef(schema.CodeUnavailable, "connection refused")
		p := newScripted(calls.of(failing(down)))
		known := providers{"p": p, "q": newScripted(answering)}
		runner := newHandler(t, known, quiet)
		defer process(t, rig, runner)()
		number := 0
		ask := func(timeout time.Duration) string {
			number++
			id := fmt.Sprint("r", number)
			enter(t, rig, runner, request(id, "p", "A", timeout))
			synctest.Wait()
			return id
		}
		for range 5 {
			ask(time.Minute)
		}
		assert.Len(t, calls.since(), 5)
		outcomes(t, rig)
		time.Sleep(3 * time.Second)
		begin := time.Now()
		id := ask(time.Minute)
		enter(t, rig, runner, request("other", "q", "A", time.Minute))
		synctest.Wait()
		assert.Empty(t, calls.since())
		got := outcomes(t, rig)
		failed, after := failure(t, got, id, begin)
		assert.Equal(t, schema.CodeUnavailable, failed.Code)
		assert.Contains(t, failed.Reason, "tried again at 2000-01-01T00:00:10Z")
		assert.Zero(t, after)
		assert.IsType(t, schema.QuoteFetched{}, got["other"][0].Payload, "the others do not mind")

		// One probe, which fails; then one that hangs, while the others wait.
		time.Sleep(7*time.Second + time.Millisecond)
		ask(time.Minute)
		assert.Equal(t, []string{"10s A"}, calls.since())
		ask(time.Minute)
		assert.Empty(t, calls.since())
		time.Sleep(10*time.Second + time.Millisecond)
		answer := make(chan struct{})
		p.quote = calls.of(func(context.Context, schema.Symbol) (schema.RawResponse, error) {
			<-answer
			return []byte("x"), nil
		})
		ask(time.Minute)
		outcomes(t, rig)
		for range 3 {
			ask(time.Minute)
		}
		assert.Equal(t, []string{"20s A"}, calls.since(), "one probe at a time")
		assert.Empty(t, outcomes(t, rig))
		close(answer)
		synctest.Wait()
		assert.Len(t, calls.since(), 3)
		assert.Len(t, outcomes(t, rig), 4)
	})
}

// What a provider answers, even if it is no price, does not open the breaker, nor
// does what is our own fault.
func TestWhatTheBreakerDoesNotMind(t *testing.T) {
	t.Parallel()
	unavailable := pipeline.Quotef(schema.CodeUnavailable, "status 503")
	for name, test := range map[string]struct {
		errs    []error // in turn
		timeout time.Duration
		asked   int // of 20
	}{
		"unavailable":       {[]error{unavailable}, time.Minute, 5},
		"slow":              {[]error{context.DeadlineExceeded}, time.Minute, 5},
		"given no time":     {[]error{context.DeadlineExceeded}, 900 * time.Millisecond, 20},
		"unknown symbol":    {[]error{pipeline.Quotef(schema.CodeUnknownSymbol, "")}, time.Minute, 20},
		"unauthorized":      {[]error{pipeline.Quotef(schema.CodeUnauthorized, "")}, time.Minute, 20},
		"not configured":    {[]error{pipeline.Quotef(schema.CodeNotConfigured, "")}, time.Minute, 20},
		"a bad response":    {[]error{pipeline.Quotef(schema.CodeBadResponse, "")}, time.Minute, 20},
		"a bug":             {[]error{fmt.Errorf("index out of range")}, time.Minute, 20},
		"now and then":      {[]error{unavailable, unavailable, unavailable, unavailable, nil}, time.Minute, 20},
		"a bug in between":  {[]error{unavailable, fmt.Errorf("index out of range")}, time.Minute, 9},
		"a refusal between": {[]error{unavailable, pipeline.Quotef(schema.CodeUnknownSymbol, "")}, time.Minute, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig, asked := pipelinetest.New(t), 0
				p := newScripted(func(context.Context, schema.Symbol) (schema.RawResponse, error) {
					asked++
					return []byte("x"), test.errs[(asked-1)%len(test.errs)]
				})
				runner := newHandler(t, providers{"p": p}, quiet)
				defer process(t, rig, runner)()
				for i := range 20 {
					enter(t, rig, runner, request(fmt.Sprint(i), "p", "A", test.timeout))
					synctest.Wait()
				}
				assert.Equal(t, test.asked, asked)
				assert.Len(t, outcomes(t, rig), 20)
			})
		})
	}
}
