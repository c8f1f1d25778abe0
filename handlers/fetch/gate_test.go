package fetch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// A provider may ask for a pause, but not forever.
func TestPausesAreBounded(t *testing.T) {
	t.Parallel()
	h := &handler{provider: func(schema.Provider) (pipeline.Provider, bool) { return nil, false }}
	for says, want := range map[time.Duration]time.Duration{
		0: defaultPause, -time.Second: defaultPause, time.Millisecond: time.Millisecond, 1000 * time.Hour: 24 * time.Hour,
	} {
		assert.Equal(t, want, pauseAfter(h.limits("p"), &pipeline.QuoteError{Code: schema.CodeRateLimited, RetryAfter: says}), says)
	}
}

// A call that was granted before its provider asked for a pause, and not begun, is
// not made.
func TestAPauseHoldsBackWhatWasGranted(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	h := &handler{now: func() time.Time { return now }}
	g := newGate(h.now)
	g.pause(now.Add(5 * time.Second))
	g.pause(now.Add(3 * time.Second)) // an older one, later
	_, called, err := h.call(t.Context(), g, request{Provider: "p", Deadline: schema.NewTime(now.Add(time.Minute))})
	assert.False(t, called)
	assert.ErrorContains(t, err, "rate_limited: the provider wants to be left alone for another 5s")
}
