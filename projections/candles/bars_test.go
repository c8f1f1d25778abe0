package candles_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

var day = time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)

// at is a time of the day.
func at(clock string) schema.Time {
	of, err := time.Parse("15:04:05", clock)
	if err != nil {
		panic(err)
	}
	return schema.NewTime(day.Add(time.Duration(of.Hour())*time.Hour + time.Duration(of.Minute())*time.Minute + time.Duration(of.Second())*time.Second))
}

func traded(clock, price, size string) schema.Payload {
	p := schema.PriceObserved{Symbol: "A", Source: "p", Timestamp: at(clock), ReceivedAt: at(clock), Price: schema.MustDecimal(price)}
	if size != "" {
		p.Size = schema.MustDecimal(size)
	}
	return p
}

func bar(begin string, length time.Duration, open, high, low, close, volume string) schema.Payload {
	from := at(begin)
	b := schema.BarObserved{Symbol: "A", Source: "p", Timestamp: from.Add(length - time.Microsecond), ReceivedAt: from, Price: schema.MustDecimal(close),
		Bar: schema.Bar{OpenTime: from, Open: schema.MustDecimal(open), High: schema.MustDecimal(high), Low: schema.MustDecimal(low), Close: schema.MustDecimal(close)}}
	if volume != "" {
		v := schema.MustDecimal(volume)
		b.Volume = &v
	}
	return b
}

func shown(points []projections.Point) []string {
	var all []string
	for i := len(points) - 1; i >= 0; i-- {
		text := points[i].Timestamp.Format("02 15:04")
		for _, v := range points[i].Values {
			if v == nil {
				v = "-"
			}
			text += fmt.Sprint(" ", v)
		}
		all = append(all, text)
	}
	return all
}

// Candles of a few prices and bars. In whatever order they come, the candles are the same.
func TestCandlesOfBars(t *testing.T) {
	t.Parallel()
	const minute, hour = time.Minute, time.Hour
	minutes := func(from, n int) (all []schema.Payload) {
		for i := range n {
			all = append(all, bar(fmt.Sprintf("10:%02d:00", from+i), minute, fmt.Sprint(10+i), fmt.Sprint(20+i), fmt.Sprint(5+i), fmt.Sprint(11+i), "2"))
		}
		return all
	}
	for name, test := range map[string]struct {
		log      []schema.Payload
		interval string
		want     []string
	}{
		"an hour of minutes":      {minutes(0, 60), "1h", []string{"02 10:00 10 79 5 70 120 0 bars"}},
		"five of the minutes":     {minutes(0, 7), "5m", []string{"02 10:00 10 24 5 15 10 0 bars", "02 10:05 15 26 10 17 4 0 bars"}},
		"an hour in an hour":      {[]schema.Payload{bar("10:00:00", hour, "1", "3", "0.5", "2", "7")}, "1h", []string{"02 10:00 1 3 0.5 2 7 0 bars"}},
		"an hour in a day":        {[]schema.Payload{bar("10:00:00", hour, "1", "3", "0.5", "2", "")}, "1d", []string{"02 00:00 1 3 0.5 2 - 0 bars"}},
		"an hour makes no minute": {[]schema.Payload{bar("10:00:00", hour, "1", "3", "0.5", "2", "7")}, "1m", nil},
		"across a border":         {[]schema.Payload{bar("10:30:00", hour, "1", "3", "0.5", "2", "7")}, "1h", nil},
		"a bar that covers its minutes, and trades": {append(minutes(0, 60), bar("10:00:00", hour, "1", "3", "0.5", "2", "7"), traded("10:10:10", "99", "1")),
			"1h", []string{"02 10:00 1 3 0.5 2 7 0 bars"}},
		"trades under an hour, by minute": {[]schema.Payload{bar("10:00:00", hour, "1", "3", "0.5", "2", "7"), traded("10:10:10", "99", "1")},
			"1m", []string{"02 10:10 99 99 99 99 1 1 ticks"}},
		"a day of one bar and hours": {[]schema.Payload{bar("00:00:00", 24*hour, "1", "9", "0.5", "2", "70"), bar("10:00:00", hour, "1", "3", "0.5", "2", "7")},
			"1d", []string{"02 00:00 1 9 0.5 2 70 0 bars"}},
		"bars, then trades": {append(minutes(0, 2), traded("10:01:59", "500", "9"), traded("10:02:01", "30", "0.5"), traded("10:02:02", "1", "0.5")),
			"1h", []string{"02 10:00 10 30 1 1 5 2 both"}},
		"the same by minute": {append(minutes(0, 2), traded("10:01:59", "500", "9"), traded("10:02:01", "30", "0.5"), traded("10:02:02", "1", "0.5")),
			"1m", []string{"02 10:00 10 20 5 11 2 0 bars", "02 10:01 11 21 6 12 2 0 bars", "02 10:02 30 30 1 1 1 2 ticks"}},
		"trades before bars": {append(minutes(5, 1), traded("10:00:01", "30", "")), "5m",
			[]string{"02 10:00 30 30 30 30 - 1 ticks", "02 10:05 10 20 5 11 2 0 bars"}},
		"seconds in a minute": {[]schema.Payload{bar("10:00:00", time.Second, "1", "3", "0.5", "2", "7"), bar("10:00:01", time.Second, "2", "4", "2", "3", "1"),
			traded("10:00:59", "9", "1")}, "1m", []string{"02 10:00 1 4 0.5 3 8 0 bars"}},
		"bars that overlap": {[]schema.Payload{bar("10:00:00", 30*minute, "1", "3", "0.5", "2", "7"), bar("10:29:00", 2*minute, "8", "8", "8", "8", "1"),
			bar("10:40:00", minute, "4", "5", "4", "5", "1")}, "1h", []string{"02 10:00 1 5 0.5 5 8 0 bars"}},
		"read before its end": {[]schema.Payload{bar("10:00:00", hour, "1", "3", "0.5", "2", "7"), bar("10:00:00", hour, "1", "2", "0.5", "1", "3"),
			bar("10:00:00", hour, "1", "1", "1", "1", "")}, "1h", []string{"02 10:00 1 3 0.5 2 7 0 bars"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backwards := slices.Clone(test.log)
			slices.Reverse(backwards)
			for way, log := range map[string][]schema.Payload{"as listed": test.log, "backwards": backwards} {
				for _, batch := range []int{1, 7, len(log)} {
					asker := projectiontest.Ask(t, newCandles(t))
					for few := range slices.Chunk(log, batch) {
						asker.Fold(few...)
					}
					points := asker.Points("p", "A", map[string]string{"interval": test.interval})
					assert.Equal(t, test.want, shown(points), "%s, %d at once", way, batch)
				}
			}
		})
	}
}

func newCandles(t testing.TB) pipeline.Projection {
	p, err := candles.New(pipeline.Env{})
	require.NoError(t, err)
	return p
}

// In whatever order prices and bars come, and however they are cut into batches, the
// candles are the same.
func TestTheOrderOfBarsDoesNotMatter(t *testing.T) {
	t.Parallel()
	first, second := projectiontest.Ask(t, newCandles(t)), projectiontest.Ask(t, newCandles(t))
	number := 0
	rapid.Check(t, func(rt *rapid.T) {
		number++
		log := projectiontest.PricesAndBars(rt)
		for i, payload := range log { // nothing is left to the order of the log
			switch p := payload.(type) {
			case schema.PriceObserved:
				p.Symbol, p.Sequence = schema.Symbol(fmt.Sprint(p.Symbol, "-", number)), schema.Sequence(i+1)
				log[i] = p
			case schema.BarObserved:
				volume := schema.RoundUnits(big.NewInt(int64(i+1)), big.NewInt(1))
				p.Symbol, p.Volume = schema.Symbol(fmt.Sprint(p.Symbol, "-", number)), &volume
				log[i] = p
			}
		}
		first.Fold(log...)
		for few := range slices.Chunk(rapid.Permutation(log).Draw(rt, "arrival"), rapid.IntRange(1, len(log)).Draw(rt, "batch")) {
			second.Fold(few...)
		}
		markets := map[string]schema.PriceObserved{}
		for _, payload := range log {
			markets[payload.Key()], _ = schema.PriceOf(payload)
		}
		for key, of := range markets {
			for _, interval := range []string{"1m", "5m", "1h", "1d"} {
				by := map[string]string{"interval": interval}
				require.Equal(rt, shown(first.Points(of.Source, of.Symbol, by)), shown(second.Points(of.Source, of.Symbol, by)), "%s %s", key, interval)
			}
		}
	})
}

// The prices that a bar covers are kept apart, as they are after corrections, and count once
// the bar is retracted.
func TestPricesUnderABarAreCorrected(t *testing.T) {
	t.Parallel()
	p, err := candles.New(pipeline.Env{Settings: map[string]any{"intervals": []string{"1h", "1d"}}})
	require.NoError(t, err)
	asker := projectiontest.Ask(t, p)
	at := func(second int64) schema.Time { return schema.NewTime(time.Unix(second, 0)) }
	one := schema.MustDecimal("1")
	price := func(second int64, text string) schema.Event {
		return schema.Event{ID: text, Payload: schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal(text), Timestamp: at(second), ReceivedAt: at(second)}}
	}
	bar := schema.BarObserved{Symbol: "A", Source: "p", Price: one, Timestamp: at(3600), ReceivedAt: at(3600),
		Bar: schema.Bar{OpenTime: at(0), Open: one, High: one, Low: one, Close: one}}
	about := func(fact string, second int64) schema.Correction {
		return schema.Correction{FactID: fact, Symbol: "A", Source: "p", Timestamp: at(second), Reason: "a typo"}
	}
	hour := func() string {
		points := asker.Points("p", "A", map[string]string{"interval": "1h"})
		require.Len(t, points, 1)
		return fmt.Sprint(points[0].Values)
	}
	asker.FoldEvents(price(10, "5"), price(20, "6"), schema.Event{ID: "bar", Payload: bar})
	require.Equal(t, "[1 1 1 1 <nil> 0 bars]", hour())
	asker.Fold(schema.PriceCorrected{Correction: about("5", 10), Price: schema.MustDecimal("7"), CorrectedAt: at(10)})
	asker.FoldEvents(price(30, "4"))
	require.Equal(t, "[1 1 1 1 <nil> 0 bars]", hour())
	asker.Fold(schema.PriceRetracted{Correction: about("bar", 3600), RetractedAt: at(10)})
	require.Equal(t, "[7 7 4 4 <nil> 3 ticks]", hour())
	asker.FoldEvents(price(40, "8"))
	require.Equal(t, "[7 8 4 8 <nil> 4 ticks]", hour())
}
