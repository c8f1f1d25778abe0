package fetch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
)

// Whatever text a budget is read from, no more calls are free than the limit
// allows; each that is granted is one fewer; and what is written is read as it was.
func FuzzBudget(f *testing.F) {
	for _, seed := range []string{`{}`, `{"60000":{"1750000000000":3}}`, `{"1000":{"5":1},"60000":{"6":2}}`, `{"60000":{"1":-5}}`,
		`{"60000":{"9223372036854775807":1}}`, `{"-1":{"-9223372036854775808":1}}`, `null`, `[]`, ``, `{"x":{}}`, `{"60000":null}`} {
		f.Add(seed, int64(1_750_000_000_000))
	}
	limits := []pipeline.Limit{{Calls: 5, Per: time.Minute}, {Calls: 2, Per: time.Second}}
	f.Fuzz(func(t *testing.T, text string, now int64) {
		if now < 0 || now > 4_000_000_000_000 { // the clock of a database, until 2096
			return
		}
		b, err := newBudget(limits, 0, text)
		if err != nil {
			return
		}
		granted := 0
		for forecast := b.forecast(now); granted < 10; granted++ {
			if forecast.next() > now {
				break
			}
			forecast.take()
		}
		require.LessOrEqual(t, granted, 2, "the tighter limit")
		b.spend(now + 1000)
		written, err := b.text(now)
		require.NoError(t, err)
		again, err := newBudget(limits, 0, written)
		require.NoError(t, err)
		rewritten, err := again.text(now)
		require.NoError(t, err)
		require.Equal(t, written, rewritten)
		b.end(now+1000, now)
	})
}
