package log

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// NewPauses returns the pauses between attempts at a log or a database that does not
// answer: from 20 ms, growing by half each time, up to 2 s, each half as long or half as
// long again by chance.
func NewPauses() *backoff.ExponentialBackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 20*time.Millisecond, 2*time.Second
	return pauses
}

// Pause waits for d or until ctx is done, and says whether it was d.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
