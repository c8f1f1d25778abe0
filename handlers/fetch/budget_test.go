package fetch

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// model is a service with its calls, and the row that all processes share. Real
// time is in microseconds; the database's clock shows milliseconds.
type model struct {
	limits []pipeline.Limit
	row    string
	now    int64 // µs
	begun  []*call
}

// call is one on its way: it reaches the service at arrival.
type call struct{ latest, arrival, end int64 }

func (m *model) millis() int64 { return m.now / 1000 }

func (m *model) budget(t require.TestingT) *budget {
	b, err := newBudget(m.limits, 0, m.row)
	require.NoError(t, err)
	return b
}

func (m *model) store(t require.TestingT, b *budget) {
	var err error
	m.row, err = b.text(m.millis())
	require.NoError(t, err)
}

// claim lets a process whose clock is wrong by skew claim what it may of open,
// and returns its plan. journey draws how long a call takes to the service and
// to its end.
func (m *model) claim(t require.TestingT, skew time.Duration, slots int, open []request, journey func(left int64) (arrival, end int64)) plan {
	local := schema.NewTime(time.UnixMicro(m.now).Add(skew))
	b := m.budget(t)
	p := view{local: local, now: m.millis(), lineups: []lineup{{provider: "p", limits: m.limits, slots: slots, budget: b, open: open}}}.plan()
	for _, r := range p.serve {
		b.spend(r.latest)
		arrival, end := journey(r.Deadline.Sub(local.Time).Microseconds())
		m.begun = append(m.begun, &call{r.latest, m.now + arrival, m.now + end})
	}
	m.store(t, b)
	return p
}

// end tells the budget that a call has ended.
func (m *model) end(t require.TestingT, c *call) {
	b := m.budget(t)
	b.end(c.latest, m.millis())
	m.store(t, b)
}

// check counts as the service does.
func (m *model) check(t require.TestingT) {
	var arrivals []int64
	for _, c := range m.begun {
		arrivals = append(arrivals, c.arrival)
	}
	slices.Sort(arrivals)
	for _, l := range m.limits {
		for i := l.Calls; i < len(arrivals); i++ {
			require.GreaterOrEqual(t, arrivals[i]-arrivals[i-l.Calls], l.Per.Microseconds(),
				"more than %d calls within %v at %dµs", l.Calls, l.Per, arrivals[i])
		}
	}
}

func drawLimits(t *rapid.T) []pipeline.Limit {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pipeline.Limit {
		return pipeline.Limit{Calls: rapid.IntRange(1, 12).Draw(t, "calls"),
			Per: time.Duration(rapid.IntRange(1, 4000).Draw(t, "milliseconds")) * time.Millisecond}
	}), 1, 3).Draw(t, "limits")
}

// Whatever the processes do and however slow the line is, the service never sees
// more calls in any period than it allows.
func TestNoPeriodSeesMoreCallsThanAllowed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{limits: drawLimits(t), row: nothingSpent, now: 1_700_000_000_000_000}
		skews := rapid.SliceOfN(rapid.IntRange(-5_000, 5_000), 1, 4).Draw(t, "wrong clocks, in ms")
		var under []*call // calls that end and tell it; of the others the process dies
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.now += rapid.Int64Range(0, 1_500_000).Draw(t, "pause")
			slices.SortFunc(under, func(a, b *call) int { return int(a.end - b.end) })
			for len(under) > 0 && under[0].end <= m.now {
				if rapid.IntRange(0, 9).Draw(t, "dies") > 0 {
					m.end(t, under[0])
				}
				under = under[1:]
			}
			skew := time.Duration(rapid.SampledFrom(skews).Draw(t, "process")) * time.Millisecond
			var open []request
			for i := range rapid.IntRange(0, 20).Draw(t, "open") {
				deadline := time.UnixMicro(m.now).Add(skew + time.Duration(rapid.IntRange(-1000, 20_000_000).Draw(t, "deadline"))*time.Microsecond)
				open = append(open, request{ID: fmt.Sprint(i), Provider: "p", Symbol: "S", Deadline: schema.NewTime(deadline)})
			}
			before := len(m.begun)
			m.claim(t, skew, rapid.IntRange(0, 16).Draw(t, "slots"), open, func(left int64) (int64, int64) {
				end := rapid.Int64Range(0, left).Draw(t, "end")
				return rapid.SampledFrom([]int64{0, end / 2, end}).Draw(t, "arrival"), end
			})
			under = append(under, m.begun[before:]...)
		}
		m.check(t)
	})
}

// The end of a call may be told so late that its period has passed. Another call, which
// is still under way, is held as long as before.
func TestAnEndThatIsToldLate(t *testing.T) {
	t.Parallel()
	limits := []pipeline.Limit{{Calls: 2, Per: 25 * time.Millisecond}}
	b, err := newBudget(limits, 0, nothingSpent)
	require.NoError(t, err)
	b.spend(100)
	b.spend(1000)
	text, err := b.text(200)
	require.NoError(t, err)
	b, err = newBudget(limits, 0, text)
	require.NoError(t, err)
	b.end(100, 200)
	assert.Equal(t, held{25: {1000: 1}}, b.held)
	b.end(1001, 300)
	assert.Equal(t, held{25: {1000: 1}}, b.held, "one that was entered under other limits is nowhere")
	b.end(1000, 500)
	assert.Equal(t, held{25: {500: 1}}, b.held, "in time, it is held from its end on")
}

// Where there is demand, nearly all that a service allows is used.
func TestTheBudgetIsUsed(t *testing.T) {
	t.Parallel()
	for _, limits := range [][]pipeline.Limit{
		{{Calls: 60, Per: time.Minute}, {Calls: 30, Per: time.Second}},
		{{Calls: 10, Per: time.Second}},
		{{Calls: 1, Per: time.Second}},
		{{Calls: 5000, Per: time.Hour}},
		{{Calls: 25, Per: 24 * time.Hour}},
	} {
		t.Run(fmt.Sprint(limits), func(t *testing.T) {
			t.Parallel()
			m := &model{limits: limits, row: nothingSpent, now: 1_700_000_000_000_000}
			slowest := slices.MinFunc(limits, func(a, b pipeline.Limit) int { // the one that binds
				return int(float64(a.Calls)/float64(a.Per)*1e18) - int(float64(b.Calls)/float64(b.Per)*1e18)
			})
			duration := min(slowest.Per/20, 300*time.Millisecond).Microseconds()
			begin, periods, largest := m.now, int64(10), 0
			for m.now < begin+periods*slowest.Per.Microseconds() {
				var open []request
				for i := range 40 {
					open = append(open, request{ID: fmt.Sprint(i), Provider: "p", Symbol: "S",
						Deadline: schema.NewTime(time.UnixMicro(m.now).Add(1000 * time.Hour))})
				}
				before := len(m.begun)
				p := m.claim(t, 0, 16, open, func(int64) (int64, int64) { return duration, duration })
				largest = max(largest, len(m.row))
				if started := m.begun[before:]; len(started) > 0 {
					m.now += duration
					for _, c := range started {
						m.end(t, c)
					}
					continue
				}
				if m.now += p.wait.Microseconds(); p.wait == poll { // many of them
					m.now = max(m.now, m.budget(t).forecast(m.millis()).next()*1000)
				}
			}
			m.check(t)
			used := float64(len(m.begun)) / float64(periods*int64(slowest.Calls))
			t.Logf("%.1f %% used, at most %d bytes stored", 100*used, largest)
			assert.Greater(t, used, 0.9)
			assert.Less(t, largest, 20_000)
		})
	}
}

// The limits of a provider may change with its plan, also while calls are under
// way: what is known of the past counts against the new ones.
func TestLimitsThatChange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{limits: drawLimits(t), row: nothingSpent, now: 1_700_000_000_000_000}
		journey := func(left int64) (int64, int64) {
			end := rapid.Int64Range(0, min(left, 50_000)).Draw(t, "end")
			return end, end
		}
		claim := func() {
			open := slices.Repeat([]request{{ID: "r", Provider: "p", Symbol: "S",
				Deadline: schema.NewTime(time.UnixMicro(m.now).Add(time.Hour))}}, 20)
			m.claim(t, 0, 20, open, journey)
		}
		claim()
		known := slices.MaxFunc(m.limits, func(a, b pipeline.Limit) int { return int(a.Per - b.Per) }).Per
		// The past is known as far back as the longest period reached.
		for m.limits = drawLimits(t); slices.ContainsFunc(m.limits, func(l pipeline.Limit) bool { return l.Per > known }); {
			m.limits = []pipeline.Limit{{Calls: m.limits[0].Calls, Per: known}}
		}
		first := slices.Clone(m.begun)
		claim()
		for _, c := range first {
			m.now = max(m.now, c.end)
			m.end(t, c)
		}
		for range 10 {
			m.now += rapid.Int64Range(0, 500_000).Draw(t, "pause")
			claim()
		}
		// Up to each new call, however many there were before.
		for _, l := range m.limits {
			for _, fresh := range m.begun[len(first):] {
				within := 0
				for _, c := range m.begun {
					if d := fresh.arrival - c.arrival; d >= 0 && d < l.Per.Microseconds() {
						within++
					}
				}
				require.LessOrEqual(t, within, l.Calls, "calls within %v", l.Per)
			}
		}
	})
}

func TestABudgetThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "[]", "null and void"} {
		_, err := newBudget(nil, 0, text)
		assert.ErrorContains(t, err, "reading a budget", text)
	}
}

// What is stored does not grow with what a limit allows.
func TestABudgetStaysSmall(t *testing.T) {
	t.Parallel()
	b, err := newBudget([]pipeline.Limit{{Calls: 1_000_000, Per: 24 * time.Hour}}, 0, nothingSpent)
	require.NoError(t, err)
	for ms := int64(0); ms < 48*3_600_000; ms += 5_000 {
		b.spend(ms)
		if ms%3_600_000 == 0 {
			_, err := b.text(ms) // forgets what is over
			require.NoError(t, err)
		}
	}
	for _, calls := range b.held {
		assert.Less(t, len(slices.Collect(maps.Keys(calls))), grains+20)
	}
}

func TestTheEdgesOfABudget(t *testing.T) {
	t.Parallel()
	budget := func(text string, closed int64, limits ...pipeline.Limit) *budget {
		b, err := newBudget(limits, closed, text)
		require.NoError(t, err)
		return b
	}
	for per, want := range map[time.Duration]int64{time.Millisecond: 1, time.Millisecond + 1: 2, 1: 1, 2 * time.Millisecond: 2} {
		assert.Equal(t, map[int64]int{want: 1}, budget(nothingSpent, 0, pipeline.Limit{Calls: 1, Per: per}).limits, per)
	}
	none := budget(nothingSpent, 0, pipeline.Limit{Calls: 0, Per: time.Second}).forecast(5)
	assert.Equal(t, int64(never), none.next())

	// Five calls are held, and only two are allowed now: the three that come free first
	// leave no room.
	lowered := budget(`{"1000":{"2001":1,"2004":4}}`, 0, pipeline.Limit{Calls: 2, Per: time.Second}).forecast(2010)
	assert.Zero(t, lowered.left())
	assert.Equal(t, int64(2004+1000+1), lowered.next(), "of the last four, since the first was used up")

	// A call counts up to the end of its period, and is forgotten after it.
	edge := budget(`{"1000":{"5001":1}}`, 0, pipeline.Limit{Calls: 1, Per: time.Second})
	for at, want := range map[int64]int{5001: 0, 6001: 0, 6002: 1} {
		assert.Equal(t, want, edge.forecast(at).left(), at)
	}
	for at, want := range map[int64]string{6001: `{"1000":{"5001":1}}`, 6002: `{"1000":{}}`} {
		text, err := budget(`{"1000":{"5001":1}}`, 0, pipeline.Limit{Calls: 1, Per: time.Second}).text(at)
		require.NoError(t, err)
		assert.JSONEq(t, want, text, at)
	}

	free := budget(nothingSpent, 7, pipeline.Limit{Calls: 2, Per: time.Second})
	assert.Zero(t, free.forecast(6).left(), "the service wants to be left alone")
	assert.Equal(t, 2, free.forecast(7).left())

	late := budget(nothingSpent, 0, pipeline.Limit{Calls: 2, Per: time.Second})
	late.spend(5000)
	_, err := late.text(6004) // a grain of a second is 3 ms
	require.NoError(t, err)
	late.end(5000, 6004)
	assert.Equal(t, held{1000: {}}, late.held, "a call that ends after its period uses up nothing")
}
