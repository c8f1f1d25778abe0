package httpapi

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/httpapi/ratelimit"
)

// Limits counts requests of clients. ratelimit.Limiter is one.
type Limits interface {
	// Ask counts a request of a client that may make so many a minute. It always answers.
	Ask(ctx context.Context, client string, perMinute int) ratelimit.Verdict
}

// rateLimiter limits requests by key, and those without one by client address.
type rateLimiter struct {
	perMinute     int // not positive: no limit
	limitLoopback bool
	limits        Limits
}

// newRateLimiter counts in the process where there are no limits that others share.
func newRateLimiter(config Config, limits Limits) *rateLimiter {
	if limits == nil {
		limits = ratelimit.New(ratelimit.Config{Now: config.Now})
	}
	return &rateLimiter{perMinute: config.RateLimitPerMinute, limitLoopback: config.LimitLoopback, limits: limits}
}

// wrap answers 429 in place of next where a client asks too often.
func (l *rateLimiter) wrap(next http.Handler, fail func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, perMinute := l.limitOf(r)
		if perMinute <= 0 {
			next.ServeHTTP(w, r)
			return
		}
		v := l.limits.Ask(r.Context(), who, perMinute)
		w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=60`, perMinute))
		w.Header().Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=%d`, v.Remaining, wholeSeconds(v.Full)))
		if !v.Allowed {
			w.Header().Set("Retry-After", strconv.Itoa(max(1, wholeSeconds(v.Next))))
			fail(w, r, newError(codeRateLimited, "Rate limit exceeded: %d requests per minute", perMinute))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limitOf returns for whom a request counts, and how many they may make each minute; not
// positive for any number.
func (l *rateLimiter) limitOf(r *http.Request) (who string, perMinute int) {
	switch r.URL.Path {
	case "/health", "/livez", "/readyz", "/metrics": // anyone who asks these watches over us
		return "", 0
	}
	from := clientOf(r.RemoteAddr)
	perMinute = l.perMinute
	if from.isLoopback() && !l.limitLoopback {
		perMinute = 0
	}
	key := callerOf(r).key
	if key != nil && key.RatePerMinute > 0 {
		perMinute = key.RatePerMinute
	}
	if perMinute <= 0 {
		return "", perMinute
	}
	return subjectOf(r), perMinute
}

// subjectOf is by what requests are counted: the id of their key, or else the address of
// their client.
func subjectOf(r *http.Request) string {
	if key := callerOf(r).key; key != nil {
		return "key:" + key.ID
	}
	if from := clientOf(r.RemoteAddr); from.IsValid() {
		return "address:" + from.String()
	}
	return "address:" // all that have none
}

// wholeSeconds rounds up, but not for a part of a millisecond.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Round(time.Millisecond).Seconds())) }
