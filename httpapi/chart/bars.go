package chart

import (
	"slices"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// Bar is the prices of one interval.
type Bar struct {
	Start                  schema.Time
	Open, High, Low, Close schema.Decimal
	// Volume is nil where no price says its size.
	Volume *schema.Decimal
}

// Price is a price at an event time.
type Price struct {
	Timestamp schema.Time
	Price     schema.Decimal
}

// NewBars makes bars of prices, which are given newest first and in the order of
// their event times. An interval without a price has no bar. Bars are oldest first.
func NewBars(newestFirst []Price, interval time.Duration) []Bar {
	var bars []Bar
	for _, p := range slices.Backward(newestFirst) {
		start := startOf(p.Timestamp, interval)
		if n := len(bars); n > 0 && bars[n-1].Start.Equal(start.Time) {
			b := &bars[n-1]
			b.Close = p.Price
			if p.Price.Cmp(b.High) > 0 {
				b.High = p.Price
			}
			if p.Price.Cmp(b.Low) < 0 {
				b.Low = p.Price
			}
			continue
		}
		bars = append(bars, Bar{Start: start, Open: p.Price, High: p.Price, Low: p.Price, Close: p.Price})
	}
	return bars
}

// startOf returns where the interval of t starts: at a multiple of its length since
// 1970, before 1970 too.
func startOf(t schema.Time, interval time.Duration) schema.Time {
	nanos := t.UnixNano() % int64(interval)
	if nanos < 0 {
		nanos += int64(interval)
	}
	return t.Add(-time.Duration(nanos))
}

// Align returns, for each bar, the newest value that is not after the bar's interval
// ends and not before it starts; nil where there is none. Values are newest first.
func Align(bars []Bar, newestFirst []Price, interval time.Duration) []*schema.Decimal {
	aligned := make([]*schema.Decimal, len(bars))
	i := len(bars) - 1
	for v := range newestFirst {
		at := newestFirst[v].Timestamp
		for i >= 0 && at.Before(bars[i].Start.Time) {
			i--
		}
		if i < 0 {
			break
		}
		if aligned[i] == nil && at.Before(bars[i].Start.Add(interval).Time) {
			aligned[i] = &newestFirst[v].Price
		}
	}
	return aligned
}
