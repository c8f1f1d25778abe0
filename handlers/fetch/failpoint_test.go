package fetch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TestFailpointsOfFetch: whatever is lost between an answer and its outcome, the
// provider is asked again, if need be, and each request has one outcome.
func TestFailpointsOfFetch(t *testing.T) {
	if !failpoint.Enabled {
		t.Skip("needs failpoints: go test -tags failpoints") // Fail would skip inside of a bubble, unseen
	}
	injected := errors.New("injected")
	for point, asked := range map[failpoint.Point]int{
		failpoint.FetchAnswered:   2, // the answer is gone
		failpoint.StoreCommitting: 2, // and so it is here
		failpoint.StoreCommitted:  1, // the outcome is stored, although no one heard of it
	} {
		t.Run(string(point), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answered, failed := false, false
				rig := pipelinetest.New(t)
				known := providers{"p": newScripted(func(context.Context, schema.Symbol) (schema.RawResponse, error) {
					answered = true
					return schema.RawResponse("answer"), nil
				})}
				runner := newHandler(t, known, quiet)
				enter(t, rig, runner, request("r", "p", "A", time.Minute))
				pipelinetest.Fail(t, point, 0, func(context.Context) error {
					if !answered || failed {
						return nil // not the claim
					}
					failed = true
					return injected
				})
				require.ErrorIs(t, runner.Run(t.Context(), rig.Emitter()), injected)
				stop := process(t, rig, runner)
				synctest.Wait()
				stop()
				assert.Equal(t, asked, known["p"].total())
				assert.Len(t, outcomes(t, rig)["r"], 1)
				assert.Empty(t, open(t, rig.DB))
			})
		})
	}
}

// TestFailpointOfAClaim: the answer for a commit is lost that claims a request. The
// process does not know that it has the claim, and must not wait for itself.
func TestFailpointOfAClaim(t *testing.T) {
	if !failpoint.Enabled {
		t.Skip("needs failpoints: go test -tags failpoints") // Fail would skip inside of a bubble, unseen
	}
	injected := errors.New("injected")
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"p": newScripted(answering)}
		runner := newHandler(t, known, quiet)
		enter(t, rig, runner, request("r", "p", "A", time.Minute))
		pipelinetest.Fail(t, failpoint.StoreCommitted, 1, func(context.Context) error { return injected })
		err := runner.Run(t.Context(), rig.Emitter())
		require.ErrorIs(t, err, injected)
		require.ErrorIs(t, err, store.ErrCommit)
		assert.Equal(t, []string{"r "}, open(t, rig.DB), "given up on the way out")
		stop := process(t, rig, runner)
		synctest.Wait()
		stop()
		assert.Equal(t, 1, known["p"].total())
		assert.Len(t, outcomes(t, rig)["r"], 1)
	})
}
