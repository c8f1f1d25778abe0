package httpapi

import (
	"container/list"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxClients bounds the clients whose rate is remembered, some 200 bytes each.
// Beyond it the one that was silent longest is forgotten, and starts again.
const maxClients = 10_000

// rateLimiter limits requests by client address.
type rateLimiter struct {
	perMinute     int // not positive: no limit
	limitLoopback bool
	now           func() time.Time

	mu      sync.Mutex
	clients map[clientAddress]*list.Element
	recent  *list.List // of *client, the last to ask in front
}

type client struct {
	address clientAddress
	bucket  *rate.Limiter
}

func newRateLimiter(config Config) *rateLimiter {
	return &rateLimiter{
		perMinute:     config.RateLimitPerMinute,
		limitLoopback: config.LimitLoopback,
		now:           config.Now,
		clients:       map[clientAddress]*list.Element{},
		recent:        list.New(),
	}
}

// wrap answers 429 in place of next where a client asks too often.
func (l *rateLimiter) wrap(next http.Handler, fail func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address, limited := l.limits(r)
		if !limited {
			next.ServeHTTP(w, r)
			return
		}
		v := l.ask(address)
		w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=60`, l.perMinute))
		w.Header().Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=%d`, v.remaining, wholeSeconds(v.full)))
		if !v.allowed {
			w.Header().Set("Retry-After", strconv.Itoa(max(1, wholeSeconds(v.next))))
			fail(w, r, newError(codeRateLimited, "Rate limit exceeded: %d requests per minute", l.perMinute))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limits reports whether a request counts, and for whom.
func (l *rateLimiter) limits(r *http.Request) (clientAddress, bool) {
	if l.perMinute <= 0 {
		return clientAddress{}, false
	}
	switch r.URL.Path {
	case "/health", "/livez", "/readyz", "/metrics": // anyone who asks these watches over us
		return clientAddress{}, false
	}
	from := clientOf(r.RemoteAddr)
	return from, l.limitLoopback || !from.isLoopback()
}

// verdict is the state of a client's bucket after it asked.
type verdict struct {
	allowed   bool
	remaining int
	next      time.Duration // until one request is allowed again
	full      time.Duration // until the whole quota is
}

func (l *rateLimiter) ask(address clientAddress) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	bucket := l.bucket(address)
	allowed := bucket.AllowN(now, 1)
	tokens := bucket.TokensAt(now)
	perToken := float64(time.Minute) / float64(l.perMinute)
	return verdict{
		allowed:   allowed,
		remaining: max(0, int(math.Floor(tokens))),
		next:      time.Duration(max(0, 1-tokens) * perToken),
		full:      time.Duration(max(0, float64(l.perMinute)-tokens) * perToken),
	}
}

func (l *rateLimiter) bucket(address clientAddress) *rate.Limiter {
	if known, ok := l.clients[address]; ok {
		l.recent.MoveToFront(known)
		return known.Value.(*client).bucket
	}
	if len(l.clients) >= maxClients {
		oldest := l.recent.Remove(l.recent.Back()).(*client)
		delete(l.clients, oldest.address)
	}
	bucket := rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
	l.clients[address] = l.recent.PushFront(&client{address, bucket})
	return bucket
}

// wholeSeconds rounds up, but not for the dust that floating point leaves.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Round(time.Millisecond).Seconds())) }
