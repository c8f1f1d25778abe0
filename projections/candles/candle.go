package candles

import (
	"math/big"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// candle is the prices of an interval so far. It is immutable; the zero value has
// none.
type candle struct {
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
	Prices int64    `db:"prices"`
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
	"open", "high", "low", "close", "volume", "prices"}

// add is the candle with one more price, in whatever order they come.
func (c candle) add(p schema.PriceObserved, id int64) candle {
	if c.Prices == 0 {
		c = candle{ID: id, High: p.Price, Low: p.Price}
	}
	at := projections.Place{Timestamp: p.Timestamp, Sequence: p.Sequence, ID: id}
	if c.Prices == 0 || at.Compare(projections.Place{Timestamp: c.OpenTime, Sequence: c.OpenSequence, ID: c.OpenID}) < 0 {
		c.Open, c.OpenTime, c.OpenSequence, c.OpenID = p.Price, p.Timestamp, p.Sequence, id
	}
	if c.Prices == 0 || at.Compare(projections.Place{Timestamp: c.CloseTime, Sequence: c.CloseSequence, ID: c.CloseID}) > 0 {
		c.Close, c.CloseTime, c.CloseSequence, c.CloseID = p.Price, p.Timestamp, p.Sequence, id
	}
	c.ID = min(c.ID, id)
	c.Prices++
	if p.Price.Cmp(c.High) > 0 {
		c.High = p.Price
	}
	if p.Price.Cmp(c.Low) < 0 {
		c.Low = p.Price
	}
	if p.Size.Sign() > 0 {
		sum := p.Size.Units()
		if c.Volume != nil {
			sum.Add(sum, c.Volume)
		}
		c.Volume = sum
	}
	return c
}

// stored is the candle that the row holds.
func (r row) stored() candle {
	c := r.candle
	if r.Volume != nil {
		c.Volume = r.Volume.Units()
	}
	return c
}

// BeginOf is the start of the interval, by its name, that a time lies in: the timestamp of
// its candle.
func BeginOf(t schema.Time, interval string) schema.Time {
	return schema.NewTime(time.Unix(beginOf(t, intervals[interval]), 0))
}
