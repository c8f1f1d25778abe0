package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/httpapi/ratelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock says what time it is told.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micros.Store(1_800_000_000_000_000)
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.micros.Load()) }
func (c *clock) advance(d time.Duration) { c.micros.Add(d.Microseconds()) }

// drawPerMinute is a limit, and drawPause a pause in which some of it comes back, or much.
func drawPerMinute(t *rapid.T) int {
	return rapid.OneOf(rapid.IntRange(1, 10), rapid.IntRange(1, 1000), rapid.IntRange(1, ratelimit.MaxPerMinute)).Draw(t, "per minute")
}

func drawPause(t *rapid.T) time.Duration {
	return time.Duration(rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, 2_000_000), rapid.Int64Range(0, 90_000_000)).Draw(t, "pause")) * time.Microsecond
}

// TestBucket compares a limiter with a token bucket of rational numbers.
func TestBucket(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		l := ratelimit.New(ratelimit.Config{Now: c.now})
		perMinute := drawPerMinute(t)
		full := big.NewRat(int64(perMinute), 1)
		perMicro := big.NewRat(int64(perMinute), 60_000_000)
		tokens, one := new(big.Rat).Set(full), big.NewRat(1, 1)
		after := func(missing *big.Rat) time.Duration { // rounded up to a microsecond
			if missing.Sign() <= 0 {
				return 0
			}
			quotient := new(big.Rat).Quo(missing, perMicro)
			n := new(big.Int).Add(quotient.Num(), new(big.Int).Sub(quotient.Denom(), big.NewInt(1)))
			return time.Duration(n.Quo(n, quotient.Denom()).Int64()) * time.Microsecond
		}
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			if rapid.Bool().Draw(t, "pauses") {
				pause := drawPause(t)
				c.advance(pause)
				tokens.Add(tokens, new(big.Rat).Mul(perMicro, big.NewRat(pause.Microseconds(), 1)))
				if tokens.Cmp(full) > 0 {
					tokens.Set(full)
				}
			}
			allowed := tokens.Cmp(one) >= 0
			if allowed {
				tokens.Sub(tokens, one)
			}
			remaining := new(big.Int).Quo(tokens.Num(), tokens.Denom())
			require.Equal(t, ratelimit.Verdict{Allowed: allowed, Remaining: int(remaining.Int64()),
				Next: after(new(big.Rat).Sub(one, tokens)), Full: after(new(big.Rat).Sub(full, tokens))}, l.Ask(t.Context(), "c", perMinute))
		}
	})
}

// TestSharedByBlocks: whatever processes do that reserve requests of a client, and whenever
// they give them back, together they never allow what one bucket would not; and what no
// process holds is allowed.
func TestSharedByBlocks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		vault := ratelimit.NewVault(func() int64 { return c.micros.Load() / 1000 * 1000 })
		processes := make([]*ratelimit.Limiter, rapid.IntRange(1, 3).Draw(t, "processes"))
		for i := range processes {
			processes[i] = ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now})
		}
		alone := ratelimit.New(ratelimit.Config{Now: c.now})
		perMinute := rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(1, 60), rapid.IntRange(1, 2000)).Draw(t, "per minute")
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, len(processes)-1).Draw(t, "process")
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2:
				c.advance(time.Duration(rapid.OneOf(rapid.Int64Range(0, 6_000_000), rapid.Int64Range(0, 30_000_000)).Draw(t, "pause")) * time.Microsecond)
			case 3:
				processes[i].GiveBack(t.Context(), 0)
			case 4: // it dies, and another one begins
				processes[i] = ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now})
			default:
				for range rapid.OneOf(rapid.IntRange(1, 1+perMinute/6), rapid.IntRange(1, perMinute)).Draw(t, "requests") {
					if processes[i].Ask(t.Context(), "c", perMinute).Allowed {
						require.True(t, alone.Ask(t.Context(), "c", perMinute).Allowed, "more than the limit")
					}
				}
			}
		}
		// After two minutes everything that was held has gone, and the whole quota is there.
		c.advance(2 * time.Minute)
		allowed := 0
		for range min(perMinute, 500) {
			if processes[0].Ask(t.Context(), "c", perMinute).Allowed {
				allowed++
			}
		}
		require.Equal(t, min(perMinute, 500), allowed)
	})
}

// TestSpentLate: what is spent late of a block, or of a process that has died, does not
// come back sooner than it would from one bucket.
func TestSpentLate(t *testing.T) {
	t.Parallel()
	for name, dies := range map[string]bool{"its process says so": false, "its process has died": true} {
		c := newClock()
		vault := ratelimit.NewVault(c.micros.Load)
		one, two := ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now}), ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now})
		alone := ratelimit.New(ratelimit.Config{Now: c.now})
		spend := func(l *ratelimit.Limiter, most int) (allowed, ideally int) {
			for range most {
				if !l.Ask(t.Context(), "c", 60).Allowed {
					break
				}
				allowed++
				if alone.Ask(t.Context(), "c", 60).Allowed {
					ideally++
				}
			}
			return allowed, ideally
		}
		spend(one, 1)
		c.advance(9 * time.Second)
		spend(one, 14) // the rest of the block
		c.advance(5 * time.Second)
		if dies {
			one = two
		}
		allowed, ideally := spend(one, 100)
		assert.Equal(t, ideally, allowed, name)
		assert.GreaterOrEqual(t, allowed, 45, name)
	}
}

// TestBlocksCostLittle: most requests ask no one.
func TestBlocksCostLittle(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ perMinute, most int }{{1, 2}, {60, 20}, {600, 30}, {6000, 40}, {1_000_000, 60}} {
		c := newClock()
		vault := ratelimit.NewVault(c.micros.Load)
		l := ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now})
		for range test.perMinute {
			require.True(t, l.Ask(t.Context(), "c", test.perMinute).Allowed)
		}
		for range 1000 {
			require.False(t, l.Ask(t.Context(), "c", test.perMinute).Allowed)
		}
		assert.LessOrEqual(t, vault.Asked, test.most, test.perMinute)
		// At the limit, ten times a second at the most.
		before := vault.Asked
		for range 10_000 {
			c.advance(time.Millisecond)
			l.Ask(t.Context(), "c", test.perMinute)
		}
		assert.LessOrEqual(t, vault.Asked-before, 210, test.perMinute)
	}
}

// TestGivenBack: what a process reserved and does not need serves others.
func TestGivenBack(t *testing.T) {
	t.Parallel()
	c := newClock()
	vault := ratelimit.NewVault(c.micros.Load)
	one, two := ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now}), ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now})
	spend := func(l *ratelimit.Limiter) (allowed int) {
		for allowed < 1000 && l.Ask(t.Context(), "c", 60).Allowed {
			allowed++
		}
		return allowed
	}
	assert.Equal(t, ratelimit.Verdict{Allowed: true, Remaining: 59, Full: time.Second}, one.Ask(t.Context(), "c", 60))
	assert.Equal(t, 45, spend(two), "a quarter of 60 is held by the other process")
	one.GiveBack(t.Context(), time.Second)
	assert.Equal(t, 0, spend(two), "it was used just now")
	one.GiveBack(t.Context(), 0)
	c.advance(time.Second) // two does not ask before that
	assert.Equal(t, 15, spend(two), "14, and one that came back")
}

// failing is a remote that fails when it is told to.
type failing struct {
	*ratelimit.Limiter
	err error
}

func (f *failing) Take(ctx context.Context, client string, perMinute int, carried int64, overrule bool) (int64, bool, error) {
	if f.err != nil {
		return 0, false, f.err
	}
	if overrule && carried > 0 {
		return carried, false, nil // as if it had had nothing
	}
	v := f.Ask(ctx, client, perMinute)
	return (v.Full * time.Duration(perMinute)).Microseconds(), v.Allowed, nil
}

// TestSpentIsSpent: a client does not get its requests again from the next place.
func TestSpentIsSpent(t *testing.T) {
	t.Parallel()
	c := newClock()
	gone := errors.New("gone")
	vault := ratelimit.NewVault(c.micros.Load)
	remote := &failing{Limiter: ratelimit.New(ratelimit.Config{Now: c.now})}
	l := ratelimit.NewInVault(vault, ratelimit.Config{Now: c.now, Remote: remote})
	spend := func(n int) (allowed int) {
		for range n {
			if l.Ask(t.Context(), "c", 60).Allowed {
				allowed++
			}
		}
		return allowed
	}
	assert.Equal(t, 30, spend(30))
	remote.err = gone
	assert.Equal(t, 10, spend(10))
	assert.EqualValues(t, 10, l.Counted(ratelimit.InDatabase))
	vault.Err = gone
	assert.Equal(t, 20, spend(40), "what was reserved, and then by itself")
	assert.NotZero(t, l.Counted(ratelimit.InProcess))
	asked := vault.Asked
	assert.Equal(t, 0, spend(100))
	assert.Equal(t, asked, vault.Asked, "a database that failed is left alone")
	vault.Err = nil
	c.advance(ratelimit.DatabasePause)
	assert.Equal(t, 5, spend(40), "those that came back meanwhile")
	assert.Greater(t, vault.Asked, asked)
	remote.err = nil
	assert.Equal(t, 0, spend(1))
	assert.EqualValues(t, 31, l.Counted(ratelimit.InRemote))
}

// TestClientsThatAreForgotten: memory is bounded.
func TestClientsThatAreForgotten(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := ratelimit.New(ratelimit.Config{Now: c.now})
	for i := range ratelimit.MaxClients {
		require.True(t, l.Ask(t.Context(), fmt.Sprint(i), 1).Allowed)
	}
	require.False(t, l.Ask(t.Context(), "0", 1).Allowed)
	require.True(t, l.Ask(t.Context(), "one more", 1).Allowed)
	require.True(t, l.Ask(t.Context(), "1", 1).Allowed, "it was silent longest")
}

// TestOddLimits: whatever the number is, and whatever the clock does.
func TestOddLimits(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := ratelimit.New(ratelimit.Config{Now: c.now})
	for _, perMinute := range []int{math.MinInt, -1, 0, 1, ratelimit.MaxPerMinute, math.MaxInt} {
		require.True(t, l.Ask(t.Context(), fmt.Sprint(perMinute), perMinute).Allowed)
	}
	require.False(t, l.Ask(t.Context(), "1", 1).Allowed)
	c.advance(-time.Hour)
	require.False(t, l.Ask(t.Context(), "1", 1).Allowed, "the clock was set back")
	c.advance(time.Minute)
	require.True(t, l.Ask(t.Context(), "1", 1).Allowed, "a minute is a minute")
}
