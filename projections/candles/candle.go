package candles

import (
	"math/big"

	"github.com/pricemill/pricemill/schema"
)

// candle is the prices of an interval so far. It is immutable; the zero value has
// none.
type candle struct {
	ID        int64       `db:"id"`
	OpenTime  schema.Time `db:"open_time"`
	OpenID    int64       `db:"open_id"`
	CloseTime schema.Time `db:"close_time"`
	CloseID   int64       `db:"close_id"`

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

var rowColumns = []string{"candle_key", "symbol", "provider", "interval", "timestamp", "id", "open_time", "open_id", "close_time", "close_id",
	"open", "high", "low", "close", "volume", "prices"}

// add is the candle with one more price, in whatever order they come.
func (c candle) add(p schema.PriceObserved, id int64) candle {
	if c.Prices == 0 {
		c = candle{ID: id, OpenTime: p.Timestamp, OpenID: id, CloseTime: p.Timestamp, CloseID: id,
			Open: p.Price, High: p.Price, Low: p.Price, Close: p.Price}
	}
	c.ID = min(c.ID, id)
	c.Prices++
	if order := p.Timestamp.Compare(c.OpenTime); order < 0 || order == 0 && id < c.OpenID {
		c.Open, c.OpenTime, c.OpenID = p.Price, p.Timestamp, id
	}
	if order := p.Timestamp.Compare(c.CloseTime); order > 0 || order == 0 && id > c.CloseID {
		c.Close, c.CloseTime, c.CloseID = p.Price, p.Timestamp, id
	}
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
