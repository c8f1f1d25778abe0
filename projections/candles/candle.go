package candles

import (
	"math/big"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// What a candle rests on.
const (
	onTicks = "ticks"
	onBars  = "bars"
	onBoth  = "both"
)

// candle is the prices of an interval so far. It is immutable; the zero value has
// none.
type candle struct {
	RestsOn       string          `db:"rests_on"`
	ID            int64           `db:"id"`
	OpenTime      schema.Time     `db:"open_time"`
	OpenSequence  schema.Sequence `db:"open_sequence"`
	OpenID        int64           `db:"open_id"`
	CloseTime     schema.Time     `db:"close_time"`
	CloseSequence schema.Sequence `db:"close_sequence"`
	CloseID       int64           `db:"close_id"`

	Open  schema.Decimal `db:"open"`
	High  schema.Decimal `db:"high"`
	Low   schema.Decimal `db:"low"`
	Close schema.Decimal `db:"close"`
	// Volume is in units of the last place; nil where no price has a size.
	Volume *big.Int `db:"-"`
	// Prices counts ticks; a bar is none.
	Prices int64 `db:"prices"`
}

// row is a candle in the table.
type row struct {
	Key      string          `db:"candle_key"`
	Symbol   schema.Symbol   `db:"symbol"`
	Provider schema.Provider `db:"provider"`
	Interval string          `db:"interval"`
	Begin    schema.Time     `db:"timestamp"`
	Volume   *schema.Decimal `db:"volume"`
	candle
}

var rowColumns = []string{"candle_key", "symbol", "provider", "interval", "timestamp", "id", "open_time", "open_sequence", "open_id",
	"close_time", "close_sequence", "close_id",
	"open", "high", "low", "close", "volume", "prices", "rests_on"}

// tick is the candle of one price.
func tick(p projections.Fact) candle {
	c := candle{RestsOn: onTicks, ID: p.ID, OpenTime: p.Timestamp, OpenSequence: p.Sequence, OpenID: p.ID,
		CloseTime: p.Timestamp, CloseSequence: p.Sequence, CloseID: p.ID, Open: p.Price, High: p.Price, Low: p.Price, Close: p.Price, Prices: 1}
	if p.Size.Sign() > 0 {
		c.Volume = p.Size.Units()
	}
	return c
}

// add is the candle of the prices of both, of which one may be the zero value.
func (c candle) add(d candle) candle {
	switch {
	case d.RestsOn == "":
		return c
	case c.RestsOn == "":
		return d
	case c.RestsOn != d.RestsOn:
		c.RestsOn = onBoth
	}
	if d.opened().Compare(c.opened()) < 0 {
		c.Open, c.OpenTime, c.OpenSequence, c.OpenID = d.Open, d.OpenTime, d.OpenSequence, d.OpenID
	}
	if d.closed().Compare(c.closed()) > 0 {
		c.Close, c.CloseTime, c.CloseSequence, c.CloseID = d.Close, d.CloseTime, d.CloseSequence, d.CloseID
	}
	c.ID = min(c.ID, d.ID)
	c.Prices += d.Prices
	if d.High.Cmp(c.High) > 0 {
		c.High = d.High
	}
	if d.Low.Cmp(c.Low) < 0 {
		c.Low = d.Low
	}
	switch {
	case c.Volume == nil:
		c.Volume = d.Volume
	case d.Volume != nil:
		c.Volume = new(big.Int).Add(c.Volume, d.Volume)
	}
	return c
}

func (c candle) opened() projections.Place {
	return projections.Place{Timestamp: c.OpenTime, Sequence: c.OpenSequence, ID: c.OpenID}
}

func (c candle) closed() projections.Place {
	return projections.Place{Timestamp: c.CloseTime, Sequence: c.CloseSequence, ID: c.CloseID}
}

func (r row) place() place { return place{line{r.Symbol, r.Provider, r.Interval}, r.Begin.Unix()} }

// stored is the candle that the row holds.
func (r row) stored() candle {
	c := r.candle
	if r.Volume != nil {
		c.Volume = r.Volume.Units()
	}
	return c
}

// BeginOf is the start of the interval, by its name, that a time is in: the timestamp of
// its candle.
func BeginOf(t schema.Time, interval string) schema.Time {
	return schema.NewTime(time.Unix(beginOf(t, intervals[interval]), 0))
}

// EndOf is the end of the interval, by its name, of a candle with a timestamp.
func EndOf(begin schema.Time, interval string) schema.Time { return begin.Add(intervals[interval]) }

// VolumeColumn is the index of the volume among the values of a point. Those before it are
// prices.
const VolumeColumn = 4
