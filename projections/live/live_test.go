package live_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	_ "github.com/pricemill/pricemill/projections/candles"
	_ "github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a service's log, read models and hub, on a database of its own.
type rig struct {
	*testing.T
	db       *store.Store
	hub      *live.Hub
	appender *engine.Appender
	sent     int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	eng, err := sqlite.Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	db, err := store.Open(t.Context(), eng)
	require.NoError(t, err)
	log := table.Open(table.Config{Store: db, Partitions: 2, Partitioner: kafka.Partition, Poll: time.Millisecond})
	topics, err := topics.New(t.Context(), db, log, schema.Topics(), kafka.Partition)
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	var stages []engine.StageSpec
	indicators := map[string]projections.Indicator{}
	for _, module := range pipeline.Projections() {
		p, err := module.New(pipeline.Env{})
		require.NoError(t, err)
		stage, err := projections.Open(t.Context(), db, p)
		require.NoError(t, err)
		stages = append(stages, stage)
		if indicator, ok := p.(projections.Indicator); ok {
			indicators[p.Name()] = indicator
		}
	}
	runtime, err := engine.New(engine.Config{Store: db, Broker: log, Topics: topics, GroupPrefix: "test", Owner: "test", Stages: stages, Log: quiet})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runtime.Run(ctx, nil) }()
	hub := live.NewHub(live.Config{Store: db, Log: log, Topics: topics, Changed: runtime.Changed, Logger: quiet,
		Kinds: live.Kinds{Window: 5, MaxWindow: 1000, Indicators: indicators}})
	t.Cleanup(func() {
		hub.Close()
		stop()
		assert.NoError(t, <-ended)
		assert.NoError(t, log.Close())
		assert.NoError(t, db.Close())
	})
	return &rig{T: t, db: db, hub: hub, appender: engine.NewAppender(log, topics)}
}

// append puts prices into the log, in one transaction: each of a symbol, at a second.
func (r *rig) append(prices ...string) {
	r.Helper()
	events := make([]schema.Event, len(prices))
	for i, text := range prices {
		symbol, second, _ := strings.Cut(text, "@")
		at, err := strconv.Atoi(second)
		require.NoError(r, err)
		r.sent++
		events[i] = schema.Event{ID: strconv.Itoa(r.sent), Source: "test", Payload: schema.PriceObserved{
			Symbol: schema.Symbol(symbol), Source: "p", Price: schema.MustDecimal(strconv.Itoa(r.sent)),
			Timestamp: schema.NewTime(time.Unix(int64(at), 0)), ReceivedAt: schema.NewTime(time.Unix(int64(at), 0))}}
	}
	require.NoError(r, r.appender.Append(r.Context(), events))
}

func (r *rig) request(events string, symbols ...schema.Symbol) live.Request {
	r.Helper()
	asked := live.Request{Provider: "p", Symbols: symbols}
	for text := range strings.SplitSeq(events, ",") {
		kind, err := r.hub.Kinds().Parse(text)
		require.NoError(r, err)
		asked.Kinds = append(asked.Kinds, kind)
	}
	return asked
}

func (r *rig) open(asked live.Request) *live.Stream {
	r.Helper()
	stream, err := r.hub.Open(r.Context(), asked)
	require.NoError(r, err)
	r.Cleanup(stream.Close) // a second time is none
	return stream
}

// text is what an event says, in short: what it is of, and the number of the last price.
func text(e live.Event) string {
	switch v := e.Data.Value.(type) {
	case latestprices.Price:
		return fmt.Sprintf("price %s %s", v.Symbol, v.Price)
	case movingaverages.Average:
		return fmt.Sprintf("average %s =%s", v.Symbol, v.Value)
	case live.Point:
		if e.Name != live.CandleEvent {
			return fmt.Sprintf("%s %s =%v@%d", e.Name, v.Symbol, v.Values, v.Timestamp.Unix())
		}
		return fmt.Sprintf("%s %s@%d =%v", e.Name, v.Symbol, v.Timestamp.Unix(), v.Values)
	case live.Snapshot:
		return fmt.Sprintf("snapshot %s", v.Symbol)
	}
	return e.Name
}

// subject is what an event is of: a later one of the same takes its place.
func subject(text string) string { before, _, _ := strings.Cut(text, " ="); return before }

// until reads events until done, which sees all so far, says so.
func (r *rig) until(stream *live.Stream, done func([]live.Event) bool) []live.Event {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	var all []live.Event
	for !done(all) {
		events, err := stream.Next(ctx, nil)
		require.NoError(r, err, "after %d events", len(all))
		all = append(all, events...)
	}
	return all
}

func texts(events []live.Event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = text(e)
	}
	return all
}

// A price that is corrected is pushed as it is, and what follows from it; of one that is
// retracted, what follows.
func TestCorrectionsArePushed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked := r.request("price,average,candle:1m", "A")
	r.append("A@10", "A@20", "A@70")
	r.folded()
	stream := r.open(asked)
	awaits := func(want ...string) {
		t.Helper()
		var got []string
		r.until(stream, func(events []live.Event) bool {
			got = texts(events)
			return !slices.ContainsFunc(want, func(one string) bool {
				return !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, one) })
			})
		})
		assert.Equal(t, strings.HasPrefix(want[0], "price"), slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, "price") }), "%q", got)
	}
	snapshot := r.until(stream, func(events []live.Event) bool { return slices.Contains(texts(events), "snapshot A") })
	about := schema.Correction{FactID: "2", Symbol: "A", Source: "p", Timestamp: schema.NewTime(time.Unix(20, 0)), Reason: "a typo"}
	said := func(id string, p schema.Payload) {
		require.NoError(t, r.appender.Append(t.Context(), []schema.Event{{ID: id, Source: "test", Payload: p}}))
	}
	said("c", schema.PriceCorrected{Correction: about, Price: schema.MustDecimal("8"), CorrectedAt: about.Timestamp})
	awaits("price A 8", "average A =4", "candle A@0 =[1 8 1 8 <nil> 2")
	said("r", schema.PriceRetracted{Correction: about, RetractedAt: about.Timestamp})
	awaits("average A =2", "candle A@0 =[1 1 1 1 <nil> 1")

	asked.After = snapshot[len(snapshot)-1].ID // a client that comes back reads them from the log
	stream = r.open(asked)
	awaits("price A 8", "average A =2", "candle A@0 =[1 1 1 1 <nil> 1")
}

// TestEveryPositionContinues: a client that comes back after any event gets each price that
// follows, once, and of what read models say all that has changed since, as it is.
func TestEveryPositionContinues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.append("A@10", "B@10")
	r.folded()
	asked := r.request("candle,price,average,ema:12", "A", "B", "C")
	stream := r.open(asked)
	next := 20
	var all []live.Event
	for range 15 {
		all = append(all, r.now(stream)...) // positions between prices and what follows from them
		prices := []string{}
		for _, symbol := range []string{"A", "B", "A", "C", "D"} {
			next++
			prices = append(prices, symbol+"@"+strconv.Itoa(next))
		}
		r.append(prices...)
	}
	r.append("A@11", "C@70") // a late one changes an older candle
	r.folded()
	// Once it is past all records, each says what a query answers.
	require.Eventually(t, func() bool {
		all = append(all, r.now(stream)...)
		return slices.Contains(texts(all), "price A 78") && slices.Contains(texts(all), "price C 79") && stream.Behind() == 0
	}, 20*time.Second, time.Millisecond)
	final := map[string]string{}
	for _, one := range texts(all) {
		final[subject(one)] = one
	}
	require.True(t, r.settled(asked, final), "%q", final)
	got := texts(all)
	require.Equal(t, []string{"snapshot A", "snapshot B", "snapshot C"}, got[:3])
	var prices []string
	for _, one := range got {
		if strings.HasPrefix(one, "price ") {
			prices = append(prices, one)
		}
	}
	assert.Len(t, prices, 15*4+2)
	assert.Len(t, slices.Compact(slices.Sorted(slices.Values(prices))), len(prices), "none came twice")

	// Once next to the stream that still has it all, and once when nothing is kept.
	for turn := range 2 * len(all) {
		i := turn % len(all)
		if turn == len(all) {
			stream.Close()
		}
		if i < 2 { // snapshots are owed
			continue
		}
		asked.After = all[i].ID
		// Of prices all that follow; of the others the last.
		var wantPrices []string
		want := map[string]string{}
		for _, one := range got[i+1:] {
			if strings.HasPrefix(one, "price ") {
				wantPrices = append(wantPrices, one)
			} else {
				want[subject(one)] = one
			}
		}
		again := r.open(asked)
		var gotPrices []string
		last := map[string]string{}
		r.until(again, func(events []live.Event) bool {
			gotPrices, last = nil, map[string]string{}
			for _, one := range texts(events) {
				if strings.HasPrefix(one, "price ") {
					gotPrices = append(gotPrices, one)
				} else {
					last[subject(one)] = one
				}
			}
			return len(gotPrices) >= len(wantPrices) && len(last) >= len(want)
		})
		require.ElementsMatch(t, wantPrices, gotPrices, "after event %d, %s", i, got[i])
		require.Equal(t, want, last, "after event %d, %s", i, got[i])
		r.nothingMore(again)
		again.Close()
	}
}

// settled reports whether the last events are what the read models say.
func (r *rig) settled(asked live.Request, final map[string]string) bool {
	asked.After = ""
	stream := r.open(asked)
	defer stream.Close()
	events := r.until(stream, func(events []live.Event) bool { return len(events) >= len(asked.Symbols) })
	for _, e := range events[:len(asked.Symbols)] {
		for _, part := range e.Data.Value.(live.Snapshot).Parts {
			if part.Value == nil || part.Name == "price" {
				continue
			}
			name, _, _ := strings.Cut(part.Name, ":")
			now := text(live.Event{Name: name, Data: &live.Data{Value: part.Value}})
			if final[subject(now)] != now {
				return false
			}
		}
	}
	return final["candle A@0"] == "candle A@0 =[1 78 1 40 <nil> 18 ticks]" // with the late one
}

// folded waits until all read models have all prices.
func (r *rig) folded() {
	r.Helper()
	names := []string{"latest-prices", "processed-prices", "moving-averages", "candles", "ema"}
	require.Eventually(r, func() bool {
		reached, err := projections.Reached(r.Context(), r.db, names, schema.PriceEvents)
		require.NoError(r, err)
		for _, name := range names {
			sum := int64(0)
			for _, next := range reached[name] {
				sum += next
			}
			if sum < int64(r.sent) {
				return false
			}
		}
		return true
	}, 20*time.Second, time.Millisecond)
}

// now are the events that a stream has.
func (r *rig) now(stream *live.Stream) []live.Event {
	r.Helper()
	tick := make(chan time.Time, 1)
	tick <- time.Time{}
	events, err := stream.Next(r.Context(), tick)
	require.NoError(r, err)
	return events
}

// nothingMore fails where a stream has another event.
func (r *rig) nothingMore(stream *live.Stream) {
	r.Helper()
	require.Empty(r, texts(r.now(stream)))
}

// TestAClientThatDoesNotRead: it costs no memory beyond a bound, holds up no other, is
// told how much it missed, and can have that.
func TestAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked := r.request("price", "A")
	stalled, reading := r.open(asked), r.open(asked)
	isSnapshot := func(events []live.Event) bool { return len(events) == 1 }
	before := r.until(stalled, isSnapshot)
	r.until(reading, isSnapshot)
	r.nothingMore(stalled) // from now on it does not read
	const batch, batches = 1000, 7
	for range batches {
		prices := make([]string, batch)
		for i := range prices {
			prices[i] = "A@" + strconv.Itoa(r.sent+i)
		}
		r.append(prices...)
		r.until(reading, func(events []live.Event) bool { return len(events) == batch })
	}
	kept, _, _ := r.hub.Kept()
	assert.LessOrEqual(t, kept, live.KeptPrices)

	const missing = batch*batches - live.KeptPrices
	late := r.until(stalled, func(events []live.Event) bool { return len(events) > live.KeptPrices })
	require.Equal(t, 1+live.KeptPrices, len(late))
	missed, ok := late[0].Data.Value.(live.Missed)
	require.True(t, ok, text(late[0]))
	assert.EqualValues(t, missing, missed.Count)
	assert.Equal(t, before[0].ID, missed.From)
	assert.Equal(t, late[0].ID, missed.To)
	assert.Equal(t, "price A "+strconv.Itoa(missing+1), text(late[1]))
	asked.After = missed.To
	after := r.until(r.open(asked), func(events []live.Event) bool { return len(events) >= live.KeptPrices })
	assert.Equal(t, text(late[1]), text(after[0]), "after what was missed")
	assert.Equal(t, "price A "+strconv.Itoa(batch*batches), text(late[len(late)-1]))

	asked.After = missed.From
	all := r.until(r.open(asked), func(events []live.Event) bool { return len(events) == batch*batches })
	for i, e := range all {
		require.Equal(t, "price A "+strconv.Itoa(i+1), text(e))
	}
}

// TestOfMoreThanTheRateTheLastComes: a client that wants few events gets the last.
func TestOfMoreThanTheRateTheLastComes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked := r.request("price", "A", "B")
	asked.MaxRate = 5
	stream := r.open(asked)
	began := time.Now()
	var all []string
	const n = 200
	for i := range n {
		r.append("A@"+strconv.Itoa(i), "B@"+strconv.Itoa(i))
	}
	r.until(stream, func(events []live.Event) bool {
		all = texts(events)
		return slices.Contains(all, "price A "+strconv.Itoa(2*n-1)) && slices.Contains(all, "price B "+strconv.Itoa(2*n))
	})
	most := 2 + 2*(2+int(time.Since(began)/(time.Second/5)))
	assert.LessOrEqual(t, len(all), most)
	assert.NotContains(t, all, "missed")
}

// TestNothingIsFollowedWithoutStreams: the last stream takes its feeds along.
func TestNothingIsFollowedWithoutStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.open(r.request("price,average", "A", "B", "C", "D")), r.open(r.request("price", "A"))
	_, _, feeds := r.hub.Kept()
	assert.Equal(t, 2, feeds)
	a.Close()
	_, _, feeds = r.hub.Kept()
	assert.Equal(t, 1, feeds)
	b.Close()
	_, _, feeds = r.hub.Kept()
	assert.Zero(t, feeds)
	assert.Zero(t, r.hub.Streams())
	// The next one begins again.
	r.append("A@1")
	stream := r.open(r.request("price", "A"))
	r.append("A@2")
	got := texts(r.until(stream, func(events []live.Event) bool { return slices.Contains(texts(events), "price A 2") }))
	assert.Equal(t, "snapshot A", got[0])
}

func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stream := r.open(r.request("price", "A"))
	r.until(stream, func(events []live.Event) bool { return len(events) == 1 })
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Next(context.Background(), nil)
		ended <- err
	}()
	r.hub.Drain()
	assert.ErrorIs(t, <-ended, live.ErrEnded)
	_, err := r.hub.Open(t.Context(), r.request("price", "A"))
	assert.ErrorIs(t, err, live.ErrEnded)
}

func TestPositionsThatCannotBe(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked := r.request("price", "A")
	stream := r.open(asked)
	id := r.until(stream, func(events []live.Event) bool { return len(events) == 1 })[0].ID
	for name, after := range map[string]string{"nonsense": "nonsense", "cut": id[:len(id)-2], "changed": strings.ToLower(id) + "A", "long": strings.Repeat("A", 1<<17)} {
		asked.After = after
		_, err := r.hub.Open(t.Context(), asked)
		assert.ErrorIs(t, err, live.ErrPosition, name)
	}
	other := r.request("price", "B")
	other.After = id
	_, err := r.hub.Open(t.Context(), other)
	assert.ErrorIs(t, err, live.ErrPosition, "of other symbols")
	// In another order they are the same.
	two := r.request("price,average", "A", "B")
	two.After = r.until(r.open(two), func(events []live.Event) bool { return len(events) == 2 })[1].ID
	turned := r.request("average,price", "B", "A")
	turned.After = two.After
	_, err = r.hub.Open(t.Context(), turned)
	assert.NoError(t, err)
	// One of snapshots that did not all come begins again.
	two.After = r.until(r.open(r.request("price,average", "A", "B")), func(events []live.Event) bool { return len(events) == 2 })[0].ID
	assert.Equal(t, []string{"snapshot A", "snapshot B"}, texts(r.until(r.open(two), func(events []live.Event) bool { return len(events) == 2 })))
	assert.Equal(t, 5, r.hub.Streams(), "those that were refused are not counted")
}

func TestPositionRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.IntRange(1, 5).Draw(t, "kinds")
		offset := rapid.Int64Range(0, 1<<40)
		offsets := rapid.SliceOfN(rapid.SliceOfN(offset, kinds, kinds), 1, 12).Draw(t, "offsets")
		stream, log, owing := rapid.Uint32().Draw(t, "stream"), rapid.Uint32().Draw(t, "log"), rapid.Bool().Draw(t, "owing")
		text := live.FormatPosition(owing, stream, log, offsets)
		gotOwing, gotLog, gotOffsets, err := live.ParsePosition(text, stream, kinds)
		require.NoError(t, err)
		require.Equal(t, owing, gotOwing)
		require.Equal(t, log, gotLog)
		require.Equal(t, offsets, gotOffsets)
		_, _, _, err = live.ParsePosition(text, stream+1, kinds)
		require.ErrorIs(t, err, live.ErrPosition)
	})
}

func FuzzPosition(f *testing.F) {
	f.Add(live.FormatPosition(false, 1, 2, [][]int64{{3, 4}, {5, 6}}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		owing, log, offsets, err := live.ParsePosition(text, 1, 2)
		if err != nil {
			require.ErrorIs(t, err, live.ErrPosition)
			return
		}
		_, _, again, err := live.ParsePosition(live.FormatPosition(owing, 1, log, offsets), 1, 2)
		require.NoError(t, err)
		require.Equal(t, offsets, again)
	})
}
