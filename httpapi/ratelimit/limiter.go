package ratelimit

import (
	"container/list"
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

// MaxClients bounds the clients whose buckets a process knows, some 300 bytes each. Beyond
// it the one that was silent longest is forgotten.
const MaxClients = 10_000

// Remote keeps buckets for several processes. redis.Client is one.
type Remote interface {
	// Take is a request of a client of so many a minute, by the clock of the remote: the
	// level of the bucket after it, in 60,000,000 a request. carried is a level that is
	// known from elsewhere: it counts where the remote has no bucket, and with overrule where
	// its own is lower. An error comes at once while the remote is known not to answer.
	Take(ctx context.Context, client string, perMinute int, carried int64, overrule bool) (level int64, allowed bool, err error)
}

// Config describes a limiter. The zero value keeps all in the process.
type Config struct {
	Remote Remote       // nil for none
	DB     *store.Store // nil for none
	// Now is the clock of the process. Nil means time.Now.
	Now func() time.Time
	// Logger is told when the database fails, and when it answers again. Nil tells no one.
	Logger *slog.Logger
}

// Place is where a bucket was kept when a request was counted.
type Place int

// The places that there are.
const (
	InProcess Place = iota
	InDatabase
	InRemote
	places
)

// Limiter counts the requests of clients. It is safe for concurrent use.
type Limiter struct {
	cfg     Config
	bank    bank   // nil for none
	id      string // of this process, in the bank
	began   time.Time
	counted [places]atomic.Uint64

	mu      sync.Mutex
	clients map[string]*list.Element
	recent  *list.List // of *client, the last to ask in front

	database databaseState
}

// client is what a process knows of a client. Times are microseconds since the limiter began.
type client struct {
	name      string
	perMinute int
	asked     int64
	// known is the bucket as the last answer had it, from is the place it came from.
	known bucket
	from  Place
	block block
}

// New returns a limiter. One with a database needs Run.
func New(cfg Config) *Limiter {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Limiter{cfg: cfg, id: rand.Text(), began: cfg.Now(), clients: map[string]*list.Element{}, recent: list.New()}
	if cfg.DB != nil {
		l.bank = table{cfg.DB}
	}
	l.database.slots = make(chan struct{}, refillsAtOnce)
	return l
}

// Counted is how many requests were counted in a place.
func (l *Limiter) Counted(in Place) uint64 { return l.counted[in].Load() }

func (l *Limiter) now() int64 { return l.cfg.Now().Sub(l.began).Microseconds() }

// Ask counts a request of a client that may make so many a minute, 1 to MaxPerMinute, and
// says whether it is allowed. It always answers: where nothing shared does in time, by what
// this process knows.
func (l *Limiter) Ask(ctx context.Context, name string, perMinute int) Verdict {
	perMinute = min(max(perMinute, 1), MaxPerMinute)
	ctx = context.WithoutCancel(ctx) // a request that was cancelled counts too
	v, in := l.ask(ctx, name, perMinute)
	l.counted[in].Add(1)
	return v
}

func (l *Limiter) ask(ctx context.Context, name string, perMinute int) (Verdict, Place) {
	if l.cfg.Remote != nil {
		if v, ok := l.askRemote(ctx, name, perMinute); ok {
			return v, InRemote
		}
	}
	if l.bank != nil {
		if v, ok := l.askDatabase(name, perMinute); ok {
			return v, InDatabase
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.client(name, perMinute)
	after, allowed := c.known.take(c.asked, perMinute)
	// What is refused changes nothing, as in Redis, but for a clock that was set back.
	if allowed || after.at < c.known.at {
		c.known, c.from = after, InProcess
	}
	return after.verdict(allowed, perMinute), InProcess
}

func (l *Limiter) askRemote(ctx context.Context, name string, perMinute int) (Verdict, bool) {
	l.mu.Lock()
	c := l.client(name, perMinute)
	asked := c.asked
	// Without the part of a request, which may be the difference of two clocks.
	carried, overrule := whole(c.known.drained(asked, perMinute).level), c.from != InRemote
	l.mu.Unlock()
	level, allowed, err := l.cfg.Remote.Take(ctx, name, perMinute, carried, overrule)
	if err != nil {
		return Verdict{}, false
	}
	after := bucket{level, asked}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.asked == asked || after.level > c.known.drained(asked, perMinute).level { // else a later answer was faster
		c.known, c.from = after, InRemote
	}
	return after.verdict(allowed, perMinute), true
}

// client is that of a name, which asks now. The limiter is locked.
func (l *Limiter) client(name string, perMinute int) *client {
	now := l.now()
	if known, ok := l.clients[name]; ok {
		l.recent.MoveToFront(known)
		c := known.Value.(*client)
		c.perMinute, c.asked = perMinute, now
		return c
	}
	if len(l.clients) >= MaxClients {
		oldest := l.recent.Remove(l.recent.Back()).(*client)
		delete(l.clients, oldest.name)
	}
	c := &client{name: name, perMinute: perMinute, asked: now, known: bucket{at: now}, from: l.home()}
	l.clients[name] = l.recent.PushFront(c)
	return c
}

// home is where buckets are kept while everything answers: a client that is new has nothing
// to take along to there.
func (l *Limiter) home() Place {
	switch {
	case l.cfg.Remote != nil:
		return InRemote
	case l.bank != nil:
		return InDatabase
	}
	return InProcess
}
