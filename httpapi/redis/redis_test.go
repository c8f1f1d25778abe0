package redis_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/httpapi/ratelimit"
	"github.com/pricemill/pricemill/httpapi/redis"
	"github.com/pricemill/pricemill/internal/redistest"
	"github.com/pricemill/pricemill/internal/tlstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal is a log that tests read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

// open returns a client of a Redis at a URL that runs until the test ends.
func open(t *testing.T, url, installation string) (*redis.Client, *journal) {
	t.Helper()
	address, err := redis.ParseURL(url)
	require.NoError(t, err)
	return openAt(t, address, installation, redis.Patience)
}

// openPatient is open, for tests that Redis has to answer, however busy the machine is.
func openPatient(t *testing.T, url, installation string) *redis.Client {
	t.Helper()
	address, err := redis.ParseURL(url)
	require.NoError(t, err)
	c, _ := openAt(t, address, installation, time.Minute)
	return c
}

func openAt(t *testing.T, address redis.Address, installation string, patience time.Duration) (*redis.Client, *journal) {
	t.Helper()
	said := &journal{}
	c := redis.Open(t.Context(), redis.Config{Address: address, Installation: installation, Patience: patience, Logger: slog.New(slog.NewTextHandler(said, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait(); assert.NoError(t, c.Close()) })
	return c, said
}

// clock says what time it is told.
type clock struct{ micros atomic.Int64 }

func (c *clock) now() time.Time { return time.UnixMicro(c.micros.Load()) }

// watched is a remote that sets a clock to the time of each answer.
type watched struct {
	t      rapid.TB
	client *redis.Client
	clock  *clock
}

func (w watched) Take(ctx context.Context, client string, perMinute int, carried int64, overrule bool) (int64, bool, error) {
	level, allowed, at, err := w.client.TakeAt(ctx, client, perMinute, carried, overrule)
	require.NoError(w.t, err)
	w.clock.micros.Store(at)
	return level, allowed, nil
}

// TestRedisAgreesWithTheProcess: a limiter on Redis answers as one that counts by itself
// would with the clock of Redis, whatever limits and pauses are.
func TestRedisAgreesWithTheProcess(t *testing.T) {
	t.Parallel()
	c := openPatient(t, redistest.SharedURL(t), rand.Text())
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		time0 := &clock{}
		time0.micros.Store(time.Now().UnixMicro())
		shared := ratelimit.New(ratelimit.Config{Remote: watched{t, c, time0}})
		alone := ratelimit.New(ratelimit.Config{Now: time0.now})
		name := fmt.Sprint("client", runs)
		perMinute := rapid.OneOf(rapid.IntRange(1, 10), rapid.IntRange(1, 1000), rapid.IntRange(1, ratelimit.MaxPerMinute)).Draw(t, "per minute")
		allowed := 0
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			if rapid.IntRange(0, 9).Draw(t, "pause") == 0 {
				time.Sleep(time.Duration(rapid.IntRange(0, 3000).Draw(t, "microseconds")) * time.Microsecond)
			}
			if rapid.IntRange(0, 19).Draw(t, "new limit") == 0 {
				perMinute = rapid.IntRange(1, 1000).Draw(t, "per minute then")
			}
			got := shared.Ask(t.Context(), name, perMinute)
			want := alone.Ask(t.Context(), name, perMinute)
			require.Equal(t, want, got)
			if got.Allowed {
				allowed++
			}
		}
		require.EqualValues(t, shared.Counted(ratelimit.InRemote), alone.Counted(ratelimit.InProcess))
	})
}

// TestProcessesShareExactly: of many requests at once over several clients of Redis, exactly
// as many are allowed as the limit says.
func TestProcessesShareExactly(t *testing.T) {
	t.Parallel()
	url, here, there := redistest.SharedURL(t), rand.Text(), rand.Text()
	const limit, processes = 50, 4 // too few come back while the test runs: one in 1.2 s
	var limiters [processes]*ratelimit.Limiter
	for i := range limiters {
		c := openPatient(t, url, here)
		limiters[i] = ratelimit.New(ratelimit.Config{Remote: c})
	}
	other := openPatient(t, url, there)
	var allowed atomic.Int64
	began := time.Now()
	var all sync.WaitGroup
	for i := range processes * limit {
		all.Go(func() {
			if limiters[i%processes].Ask(t.Context(), "c", limit).Allowed {
				allowed.Add(1)
			}
		})
	}
	all.Wait()
	back := int64(time.Since(began) / (time.Minute / limit))
	for _, l := range limiters {
		require.EqualValues(t, limit, l.Counted(ratelimit.InRemote), "all by Redis")
	}
	assert.GreaterOrEqual(t, allowed.Load(), int64(limit))
	assert.LessOrEqual(t, allowed.Load(), limit+back)

	// Another installation on the same Redis has buckets of its own, and each expires.
	assert.True(t, ratelimit.New(ratelimit.Config{Remote: other}).Ask(t.Context(), "c", limit).Allowed)
	keys, err := other.Keys(t.Context())
	require.NoError(t, err)
	assert.Contains(t, keys, "pricemill:"+there+":rate:c")
	ms, err := other.ExpiresIn(t.Context(), "c")
	require.NoError(t, err)
	assert.Greater(t, ms, int64(0))
	assert.LessOrEqual(t, ms, int64(60_001))
}

// TestRedisIsKilled: no one waits for a Redis that is gone or hangs, the log says it once,
// and once it is back it is used again; what was spent meanwhile and before is not forgotten.
func TestRedisIsKilled(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct{ down, up func(*redistest.Server) }{
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Run},
		"frozen": {(*redistest.Server).Freeze, (*redistest.Server).Thaw},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const limit = 60
			server := redistest.Start(t)
			c, said := open(t, server.URL(), "x")
			l := ratelimit.New(ratelimit.Config{Remote: c})
			began := time.Now()
			spend := func(n int) (allowed int) {
				for range n {
					if l.Ask(t.Context(), "c", limit).Allowed {
						allowed++
					}
				}
				return allowed
			}
			require.Equal(t, 20, spend(20))
			require.Nil(t, c.Down())
			end.down(server)
			asked := time.Now()
			require.Equal(t, 20, spend(20))
			waited := time.Since(asked)
			require.NotNil(t, c.Down())
			assert.Less(t, waited, 20*redis.Patience, "not each request waits")
			end.up(server)
			require.Eventually(t, func() bool { return c.Down() == nil }, 30*time.Second, 10*time.Millisecond)
			before := l.Counted(ratelimit.InRemote)
			allowed := spend(40)
			assert.EqualValues(t, before+40, l.Counted(ratelimit.InRemote))
			back := int(time.Since(began) / (time.Minute / limit))
			assert.LessOrEqual(t, 40+allowed, limit+back+1)
			assert.Equal(t, 1, said.count("redis does not answer"), said.text.String())
			assert.Equal(t, 1, said.count("redis answers again"))
		})
	}
}

// TestRedisThatIsNotThere: a start without Redis is a start.
func TestRedisThatIsNotThere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	c, said := open(t, server.URL(), "x")
	require.NotNil(t, c.Down())
	_, _, err := c.Take(t.Context(), "c", 60, 0, false)
	require.ErrorIs(t, err, redis.ErrDown)
	require.ErrorIs(t, c.Tell(t.Context()), redis.ErrDown)
	assert.Equal(t, 1, said.count("redis does not answer"))
	server.Run()
	require.Eventually(t, func() bool { return c.Down() == nil }, 30*time.Second, 10*time.Millisecond)
	_, allowed, err := c.Take(t.Context(), "c", 60, 0, false)
	require.NoError(t, err)
	assert.True(t, allowed)
}

// TestPasswordAndTLS: by a user with a password and over TLS, and what is wrong is said
// without the password.
func TestPasswordAndTLS(t *testing.T) {
	t.Parallel()
	authority := tlstest.New(t)
	certFile, keyFile := tlstest.Files(t, authority.Issue(t))
	server := redistest.StartTLS(t, certFile, keyFile, authority.File,
		"--user", "mill", "on", ">canary-secret", "~*", "&*", "+@all", "--requirepass", "canary-secret")
	for url, want := range map[string]string{
		"rediss://mill:canary-secret@" + server.Address() + "/3": "",
		"rediss://:canary-secret@" + server.Address():            "",
		"rediss://mill:canary-wrong@" + server.Address():         "WRONGPASS",
		"rediss://" + server.Address():                           "NOAUTH",
		"redis://mill:canary-secret@" + server.Address():         "re", // a reset, or no answer that is one of Redis
	} {
		address, err := redis.ParseURL(url)
		require.NoError(t, err)
		if strings.HasPrefix(url, "rediss") {
			address = address.Trusting(authority.Pool())
		}
		c, said := openAt(t, address, "x", redis.Patience)
		if want == "" {
			assert.Nil(t, c.Down(), url)
		} else if assert.NotNil(t, c.Down(), url) {
			assert.Contains(t, c.Down().Err.Error(), want)
		}
		assert.Zero(t, said.count("canary"))
	}
	address, err := redis.ParseURL("rediss://mill:canary-secret@" + server.Address())
	require.NoError(t, err)
	c, _ := openAt(t, address.Trusting(tlstest.New(t).Pool()), "x", redis.Patience)
	require.NotNil(t, c.Down(), "the certificate is of another authority")
	assert.Contains(t, c.Down().Err.Error(), "certificate")
}

// TestNews: a process hears what others tell, and not itself, also after Redis was down.
func TestNews(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := open(t, server.URL(), "x")
	two, _ := open(t, server.URL(), "x")
	stranger, _ := open(t, server.URL(), "y")
	ctx, cancel := context.WithCancel(t.Context())
	var hearing sync.WaitGroup
	var heard, own atomic.Int64
	hearing.Go(func() { one.Hear(ctx, func() { heard.Add(1) }) })
	hearing.Go(func() { two.Hear(ctx, func() { own.Add(1) }) })
	defer func() { cancel(); hearing.Wait() }()
	comes := func() {
		t.Helper()
		before := heard.Load()
		require.Eventually(t, func() bool { _ = two.Tell(ctx); return heard.Load() > before }, 30*time.Second, 10*time.Millisecond)
	}
	comes()
	require.Eventually(t, func() bool { return own.Load() > 0 }, 30*time.Second, 10*time.Millisecond, "that it is subscribed")
	mine := own.Load()
	require.NoError(t, stranger.Tell(ctx))
	comes()
	assert.Equal(t, mine, own.Load(), "neither its own nor another installation's")
	server.Kill()
	server.Run()
	comes()
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"redis://h":                       "h:6379",
		"redis://user:canary@h:1":         "h:1",
		"rediss://:canary@[::1]:6380/15":  "[::1]:6380",
		"redis://h/":                      "h:6379",
		"":                                "not a URL",
		"canary":                          "not a URL",
		"h:6379":                          "there is no Redis at \"h\"",
		"http://:canary@h":                "there is no Redis at \"http\"",
		"redis://:canary@":                "the host is missing",
		"redis://:canary@h:99999":         "the port is not within",
		"redis://:canary@h:0":             "the port is not within",
		"redis://:canary@h:x":             "not a URL",
		"redis://:canary@h/canary":        "the path is not the number",
		"redis://:canary@h/-1":            "the path is not the number",
		"redis://:canary@h/1/2":           "the path is not the number",
		"redis://h?password=canary":       "there are no parameters",
		"redis://h/0#canary":              "there are no parameters",
		"redis://:canary%zz@h":            "not a URL",
		"unix://:canary@/run/redis.sock":  "there is no Redis at \"unix\"",
		"redis://:canary@h\x00canary/1:2": "not a URL",
	} {
		a, err := redis.ParseURL(url)
		if err != nil {
			assert.Contains(t, err.Error(), want, url)
			assert.NotContains(t, err.Error(), "canary", url)
			continue
		}
		assert.Equal(t, want, a.String(), url)
	}
}

// BenchmarkTake is what a request costs that is counted in Redis.
func BenchmarkTake(b *testing.B) {
	address, err := redis.ParseURL(redistest.SharedURL(b))
	require.NoError(b, err)
	c := redis.Open(b.Context(), redis.Config{Address: address, Installation: rand.Text(), Logger: slog.New(slog.DiscardHandler)})
	defer func() { assert.NoError(b, c.Close()) }()
	l := ratelimit.New(ratelimit.Config{Remote: c})
	for b.Loop() {
		l.Ask(b.Context(), "c", ratelimit.MaxPerMinute)
	}
	require.Zero(b, l.Counted(ratelimit.InProcess))
}
