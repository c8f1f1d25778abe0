package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestSilenceIsAFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := scripts(sends(silent, 1), sends(idle, 1, 2))
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(14 * time.Second)
		assert.Len(t, provider.connections(), 1, "not yet")
		settle(4 * time.Second)
		calls := provider.connections()
		require.Len(t, calls, 2)
		assert.GreaterOrEqual(t, calls[1].Sub(calls[0]), 15*time.Second)
		shown := get(t, rig, "s")
		assert.Equal(t, stream.Active, shown.Status)
		assert.EqualValues(t, 1, shown.Reconnects)
		assert.Equal(t, "nothing came for 15s", shown.LastError)
		assert.Equal(t, []string{"trade-1", "trade-1", "trade-2"}, sent(rig), "the repeat has the same id")
		assert.Zero(t, shown.Gaps)
		settle(40 * time.Second)
		assert.Len(t, provider.connections(), 2, "signs of life are enough")
	})
}

func TestPausesBetweenConnectionsGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := scripts(fails(errCut))
		runner := newHandler(t, provider, map[string]any{"backoff_min": "1s", "backoff_max": "8s"})
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(90 * time.Second)
		calls := provider.connections()
		require.Greater(t, len(calls), 10)
		expected := time.Second
		different := map[time.Duration]bool{}
		for i := 1; i < len(calls); i++ {
			pause := calls[i].Sub(calls[i-1])
			different[pause] = true
			assert.GreaterOrEqual(t, pause, expected/2)
			assert.LessOrEqual(t, pause, expected*3/2)
			expected = min(expected*3/2, 8*time.Second)
		}
		assert.Greater(t, len(different), 5, "they differ by chance")
		shown := get(t, rig, "s")
		assert.Equal(t, stream.Failing, shown.Status)
		assert.Equal(t, "cut off", shown.LastError)
		assert.True(t, shown.Owned)
		assert.InDelta(t, len(calls)-1, shown.Reconnects, 1)
	})
}

func TestAProviderThatAsksForPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := scripts(fails(&pipeline.QuoteError{Code: schema.CodeRateLimited, Reason: "429", RetryAfter: time.Minute}), idle)
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(58 * time.Second)
		assert.Len(t, provider.connections(), 1)
		settle(4 * time.Second)
		assert.Len(t, provider.connections(), 2)
	})
}

func TestFaultsThatAreShown(t *testing.T) {
	t.Parallel()
	wrong := func(change func(*pipeline.StreamMessage)) streamFunc {
		return func(_ context.Context, f func(pipeline.StreamMessage) error) error {
			m := trade(1)
			change(&m)
			return f(m)
		}
	}
	for name, test := range map[string]struct {
		script streamFunc
		want   string
	}{
		"explained":     {fails(errCut), "cut off"},
		"not explained": {fails(errors.New("key=canary")), "the provider failed in a way that it does not explain"},
		"no error":      {fails(nil), "the provider failed in a way that it does not explain"},
		"a panic":       {func(context.Context, func(pipeline.StreamMessage) error) error { panic("canary") }, "the provider failed in a way that it does not explain"},
		"not asked for": {wrong(func(m *pipeline.StreamMessage) { m.Symbol = "B" }), "a quote came for a symbol that no one asked for"},
		"empty":         {wrong(func(m *pipeline.StreamMessage) { m.RawResponse = nil }), "a message of 0 bytes, not within 1 and 262144"},
		"too large":     {wrong(func(m *pipeline.StreamMessage) { m.RawResponse = make([]byte, 1<<18+1) }), "a message of 262145 bytes, not within 1 and 262144"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				runner := newHandler(t, scripts(test.script), nil)
				command(t, rig, runner, started("s", "p"))
				defer process(t, rig.Emitter(), runner)()
				settle(2 * time.Second)
				shown := get(t, rig, "s")
				assert.Equal(t, stream.Failing, shown.Status)
				assert.Equal(t, test.want, shown.LastError)
				assert.NotNil(t, shown.LastErrorAt)
				assert.Empty(t, sent(rig))
			})
		})
	}
}

func TestAProviderThatCannotStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner := newHandler(t, struct{ pipeline.Provider }{}, nil)
		command(t, rig, runner, started("s", "p"), started("u", "unknown"))
		defer process(t, rig.Emitter(), runner)()
		settle(time.Second)
		assert.Equal(t, `no provider "p" that streams in this binary`, get(t, rig, "s").LastError)
		assert.Equal(t, `no provider "unknown" that streams in this binary`, get(t, rig, "u").LastError)
	})
}

func TestPausesBeginAnewAfterAConnectionThatHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		cut := fails(errCut)
		held := func(ctx context.Context, f func(pipeline.StreamMessage) error) error {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			_ = idle(ctx, f) // until it is cut
			return errCut
		}
		provider := scripts(cut, cut, cut, cut, held, idle)
		runner := newHandler(t, provider, map[string]any{"backoff_min": "1s", "backoff_max": "30s"})
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(50 * time.Second)
		calls := provider.connections()
		require.Len(t, calls, 6)
		assert.LessOrEqual(t, calls[5].Sub(calls[4]), 20*time.Second+1500*time.Millisecond)
		assert.Equal(t, stream.Active, get(t, rig, "s").Status)
	})
}
