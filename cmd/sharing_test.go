package cmd_test

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/internal/redistest"
)

// metric is a value in /metrics; 0 where it is missing.
func (p *program) metric(name string) float64 {
	p.t.Helper()
	for lines := bufio.NewScanner(strings.NewReader(p.get("/metrics").body)); lines.Scan(); {
		if text, found := strings.CutPrefix(lines.Text(), name+" "); found {
			value, err := strconv.ParseFloat(text, 64)
			require.NoError(p.t, err)
			return value
		}
	}
	return 0
}

func keptIn(place string) string {
	return `pricemill_rate_limit_requests_total{kept_in="` + place + `"}`
}

// spendInTurns sends requests with a key to each of several processes in turn until all
// refuse, and counts those that were allowed and those that came back meanwhile.
func spendInTurns(t *testing.T, key string, perMinute int, all ...*program) (allowed, back int) {
	t.Helper()
	began := time.Now()
	for refused := 0; refused < 2*len(all); {
		for _, p := range all {
			switch status := p.statusWith("/version", key); status {
			case http.StatusOK:
				allowed, refused = allowed+1, 0
			case http.StatusTooManyRequests:
				refused++
			default:
				require.Equal(t, http.StatusOK, status)
			}
		}
	}
	return allowed, int(time.Since(began) / (time.Minute / time.Duration(perMinute)))
}

// checkShared spends the limits of new keys until all was counted in one place, which a machine
// that is very busy may keep from happening.
func checkShared(t *testing.T, place string, all ...*program) {
	t.Helper()
	const perMinute = 30
	for i := range 10 {
		name := fmt.Sprint(place, i, "-", time.Now().UnixNano())
		key := all[0].newKey(name, apikeys.Read, "--rate", fmt.Sprint(perMinute))
		for _, p := range all {
			p.key = key
			require.Eventually(t, func() bool { return p.statusWith("/livez", key) == http.StatusOK }, 20*time.Second, 10*time.Millisecond)
		}
		counted := func() (here, elsewhere float64) {
			for _, p := range all {
				for _, other := range []string{"redis", "database", "process"} {
					if n := p.metric(keptIn(other)); other == place {
						here += n
					} else {
						elsewhere += n
					}
				}
			}
			return here, elsewhere
		}
		hereBefore, elsewhereBefore := counted()
		allowed, back := spendInTurns(t, key, perMinute, all...)
		here, elsewhere := counted()
		if elsewhere > elsewhereBefore {
			t.Logf("%d of %d requests were counted elsewhere", int(elsewhere-elsewhereBefore), allowed)
			continue
		}
		assert.GreaterOrEqual(t, here-hereBefore, float64(perMinute))
		assert.GreaterOrEqual(t, allowed, perMinute)
		assert.LessOrEqual(t, allowed, perMinute+back)
		return
	}
	assert.Fail(t, "not all requests were counted in one place", place)
}

// TestLimitsAreSharedByRedis: two processes and one Redis allow as many requests as one
// process would. When Redis is killed they continue by the database, and say so; when it
// is back, it is used again.
func TestLimitsAreSharedByRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "canary")
	env := newStack(t, environment{"REDIS_URL": "redis://:canary@" + server.Address() + "/2"})
	one, two := spawnAPI(t, env), spawnAPI(t, env)
	both := []*program{one, two}
	checkShared(t, "redis", both...)

	server.Kill()
	const down = "redis does not answer: the database shares the limits until it does"
	for _, p := range both {
		for range 5 {
			assert.Equal(t, http.StatusOK, p.statusWith("/metrics", p.key))
		}
		p.eventuallyHolds("/readyz", `"name":"redis","state":"warning"`)
		assert.Equal(t, http.StatusOK, p.get("/readyz").status)
		assert.Zero(t, p.metric("pricemill_redis_up"))
	}
	checkShared(t, "database", both...)

	server.Run()
	for _, p := range both {
		p.eventuallyHolds("/readyz", `"name":"redis","state":"ok"`)
		assert.NotZero(t, p.metric("pricemill_redis_failures_total"))
		assert.InDelta(t, 1, p.metric("pricemill_redis_up"), 0)
	}
	checkShared(t, "redis", both...)
	for _, p := range both {
		assert.Len(t, p.logs.all(down), 1)
		p.logs.await(t, "redis answers again")
		assert.NotContains(t, p.logs.String(), "canary")
	}
}

// TestLimitsAreSharedByTheDatabase is the same without Redis.
func TestLimitsAreSharedByTheDatabase(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	checkShared(t, "database", spawnAPI(t, env), spawnAPI(t, env))
}

// TestNewsThroughRedis: a process that only answers requests is woken by what another one
// commits, and needs no Redis to see it.
func TestNewsThroughRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	env := newStack(t, environment{"REDIS_URL": server.URL()})
	_, l := spawn(t, env)
	l.await(t, running)
	api := spawnAPI(t, env)
	fresh := func() {
		t.Helper()
		got := api.eventually("/api/v1/prices/latest?symbol=AAPL&max_age=0", http.StatusOK)
		assert.Equal(t, "AAPL", got.field(t, "symbol"))
	}
	require.Eventually(t, func() bool { fresh(); return api.metric("pricemill_redis_wakeups_total") > 1 }, 30*time.Second, 10*time.Millisecond)
	server.Kill()
	fresh()
	server.Run()
	before := api.metric("pricemill_redis_wakeups_total")
	require.Eventually(t, func() bool { fresh(); return api.metric("pricemill_redis_wakeups_total") > before+1 }, 30*time.Second, 10*time.Millisecond)
}

// TestRedisURLs: what is wrong is said, without the URL.
func TestRedisURLs(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"redis://user:canary@127.0.0.1:6379/1":   "",
		"rediss://:canary@redis.example":         "",
		"canary":                                 "REDIS_URL: not a URL",
		"postgres://:canary@127.0.0.1":           `REDIS_URL: there is no Redis at "postgres"`,
		"redis://:canary@127.0.0.1/canary":       "REDIS_URL: the path is not the number of a database",
		"redis://127.0.0.1:6379?password=canary": "REDIS_URL: there are no parameters",
	} {
		status, stdout, stderr := run(t, environment{"REDIS_URL": url}, "config")
		assert.NotContains(t, stdout+stderr, "canary", url)
		if want == "" {
			assert.Zero(t, status, stderr)
			assert.Regexp(t, `REDIS_URL +\*\*\* `, stdout)
			continue
		}
		assert.Equal(t, 2, status, url)
		assert.Contains(t, stderr, want)
	}
}
