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

// subject is what requests are counted by: a key, or else the address of a client.
type subject struct {
	address clientAddress
	key     string // its id
}

// rateLimiter limits requests by key, and those without one by client address.
type rateLimiter struct {
	perMinute     int // not positive: no limit
	limitLoopback bool
	now           func() time.Time

	mu      sync.Mutex
	clients map[subject]*list.Element
	recent  *list.List // of *client, the last to ask in front
}

type client struct {
	subject subject
	bucket  *rate.Limiter
}

func newRateLimiter(config Config) *rateLimiter {
	return &rateLimiter{
		perMinute:     config.RateLimitPerMinute,
		limitLoopback: config.LimitLoopback,
		now:           config.Now,
		clients:       map[subject]*list.Element{},
		recent:        list.New(),
	}
}

// wrap answers 429 in place of next where a client asks too often.
func (l *rateLimiter) wrap(next http.Handler, fail func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, perMinute := l.limits(r)
		if perMinute <= 0 {
			next.ServeHTTP(w, r)
			return
		}
		v := l.ask(who, perMinute)
		w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=60`, perMinute))
		w.Header().Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=%d`, v.remaining, wholeSeconds(v.full)))
		if !v.allowed {
			w.Header().Set("Retry-After", strconv.Itoa(max(1, wholeSeconds(v.next))))
			fail(w, r, newError(codeRateLimited, "Rate limit exceeded: %d requests per minute", perMinute))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limits returns for whom a request counts, and how many they may make each minute; not
// positive for any number.
func (l *rateLimiter) limits(r *http.Request) (who subject, perMinute int) {
	switch r.URL.Path {
	case "/health", "/livez", "/readyz", "/metrics": // anyone who asks these watches over us
		return subject{}, 0
	}
	from := clientOf(r.RemoteAddr)
	perMinute = l.perMinute
	if from.isLoopback() && !l.limitLoopback {
		perMinute = 0
	}
	key := callerOf(r).key
	if key == nil {
		return subject{address: from}, perMinute
	}
	if key.RatePerMinute > 0 {
		perMinute = key.RatePerMinute
	}
	return subject{key: key.ID}, perMinute
}

// verdict is the state of a client's bucket after it asked.
type verdict struct {
	allowed   bool
	remaining int
	next      time.Duration // until one request is allowed again
	full      time.Duration // until the whole quota is
}

func (l *rateLimiter) ask(who subject, perMinute int) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	bucket := l.bucket(who, perMinute)
	allowed := bucket.AllowN(now, 1)
	tokens := bucket.TokensAt(now)
	perToken := float64(time.Minute) / float64(perMinute)
	return verdict{
		allowed:   allowed,
		remaining: max(0, int(math.Floor(tokens))),
		next:      time.Duration(max(0, 1-tokens) * perToken),
		full:      time.Duration(max(0, float64(perMinute)-tokens) * perToken),
	}
}

func (l *rateLimiter) bucket(who subject, perMinute int) *rate.Limiter {
	if known, ok := l.clients[who]; ok {
		l.recent.MoveToFront(known)
		return known.Value.(*client).bucket
	}
	if len(l.clients) >= maxClients {
		oldest := l.recent.Remove(l.recent.Back()).(*client)
		delete(l.clients, oldest.subject)
	}
	bucket := rate.NewLimiter(rate.Limit(float64(perMinute)/60), perMinute)
	l.clients[who] = l.recent.PushFront(&client{who, bucket})
	return bucket
}

// wholeSeconds rounds up, but not for the dust that floating point leaves.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Round(time.Millisecond).Seconds())) }
