package candles

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// A candle is made of the bars that are within its interval, the longest first; one that
// overlaps a longer one does not count, and neither do the ticks of its span. So a bar
// of the whole interval is the candle, and no trade counts twice. Ticks count in those
// pieces of the interval, of the length of the shortest interval that is kept, that no
// bar reaches into. A bar that is longer than the interval, or lies across its border,
// is no part of the candle.
//
// Of two statements about one span the one with more volume counts, since a bar that was
// read before its end lacks the rest; of equal ones the later in the log.
//
// All of it depends on the prices and bars there are, and not on the order they come in.

const (
	// barsTable has the bars that are within an interval.
	barsTable = "candle_bars"
	// ticksTable has the ticks of the shortest candles that have bars.
	ticksTable = "candle_ticks"
)

// barRow is a bar in the table.
type barRow struct {
	Key      string          `db:"bar_key"`
	Symbol   schema.Symbol   `db:"symbol"`
	Provider schema.Provider `db:"provider"`
	Opened   schema.Time     `db:"open_time"`
	Closed   schema.Time     `db:"close_time"`
	ID       int64           `db:"id"`
	Fact     int64           `db:"fact"`
	Open     schema.Decimal  `db:"open"`
	High     schema.Decimal  `db:"high"`
	Low      schema.Decimal  `db:"low"`
	Close    schema.Decimal  `db:"close"`
	Volume   *schema.Decimal `db:"volume"`
}

var barColumns = []string{"bar_key", "symbol", "provider", "open_time", "close_time", "id", "fact", "open", "high", "low", "close", "volume"}

func barTables(name string) []string {
	return []string{`CREATE TABLE ` + name + ` (
		bar_key    {text} PRIMARY KEY,
		symbol     {text} NOT NULL,
		provider   {text} NOT NULL,
		open_time  {time} NOT NULL,
		close_time {time} NOT NULL,
		id         {int}  NOT NULL,
		fact       {int}  NOT NULL,
		open  {decimal} NOT NULL,
		high  {decimal} NOT NULL,
		low   {decimal} NOT NULL,
		close {decimal} NOT NULL,
		volume {decimal}
	) {keyed}`, `CREATE INDEX ` + name + `_by_time ON ` + name + ` (symbol, provider, close_time)`}
}

func rowOf(f projections.Fact) barRow {
	key := schema.MarketKey(f.Provider, f.Symbol) + "|" + f.Bar.OpenTime.Text() + "|" + f.Timestamp.Text() + "|" + strconv.FormatInt(f.ID, 10)
	return barRow{key, f.Symbol, f.Provider, f.Bar.OpenTime, f.Timestamp, f.ID, f.Key, f.Bar.Open, f.Bar.High, f.Bar.Low, f.Bar.Close, f.Bar.Volume}
}

// asFact is the bar that the row holds.
func (b barRow) asFact() projections.Fact {
	return projections.Fact{Symbol: b.Symbol, Provider: b.Provider, Place: projections.Place{Timestamp: b.Closed, ID: b.ID}, Key: b.Fact, Price: b.Close,
		Bar: &schema.Bar{OpenTime: b.Opened, Open: b.Open, High: b.High, Low: b.Low, Close: b.Close, Volume: b.Volume}}
}

// candle is the bar as a part of a candle. A price of the instant at which it ends is
// later than its close.
func (b barRow) candle() candle {
	c := candle{RestsOn: onBars, ID: b.ID, OpenTime: b.Opened, OpenID: b.ID, CloseTime: b.Closed, CloseSequence: math.MinInt64, CloseID: b.ID,
		Open: b.Open, High: b.High, Low: b.Low, Close: b.Close}
	if b.Volume != nil {
		c.Volume = b.Volume.Units()
	}
	return c
}

func (b barRow) length() time.Duration { return b.Closed.Sub(b.Opened.Time) }

// better reports whether b counts rather than another statement about its span.
func (b barRow) better(other barRow) bool {
	if (b.Volume == nil) != (other.Volume == nil) {
		return b.Volume != nil
	}
	if b.Volume != nil {
		if order := b.Volume.Cmp(*other.Volume); order != 0 {
			return order > 0
		}
	}
	return b.ID > other.ID
}

// best leaves of the bars of each span the one that counts, in the order of their begin.
func best(bars []barRow) []barRow {
	slices.SortFunc(bars, func(a, b barRow) int {
		order := cmp.Or(a.Opened.Compare(b.Opened), a.Closed.Compare(b.Closed))
		if order == 0 && a.better(b) {
			return -1
		}
		return cmp.Or(order, 1)
	})
	return slices.CompactFunc(bars, func(a, b barRow) bool { return a.Opened == b.Opened && a.Closed == b.Closed })
}

// within are the candles in whose interval a bar lies, the shortest first.
func (p *projection) within(b barRow) []place {
	var all []place
	for _, name := range p.intervals {
		at := place{line{b.Symbol, b.Provider, name}, beginOf(b.Opened, intervals[name])}
		if !b.Closed.After(at.end()) {
			all = append(all, at)
		}
	}
	return all
}

func (p place) start() schema.Time { return schema.NewTime(time.Unix(p.begin, 0)) }

func (p place) end() schema.Time { return p.start().Add(intervals[p.interval]) }

// saveBars stores the bars of a batch, and changes those that were corrected.
func (f *fold) saveBars(ctx context.Context, changes []projections.Change) error {
	clause := make([]string, 0, len(barColumns))
	for _, name := range barColumns[7:] {
		clause = append(clause, name+" = excluded."+name)
	}
	rows := store.Rows{Table: f.g.Table(barsTable), Columns: barColumns, Clause: "ON CONFLICT (bar_key) DO UPDATE SET " + strings.Join(clause, ", ")}
	for _, c := range changes {
		if c.After == nil {
			if _, err := f.tx.Exec(ctx, `DELETE FROM `+f.g.Table(barsTable)+` WHERE bar_key = $1`, rowOf(*c.Before).Key); err != nil {
				return fmt.Errorf("taking a retracted bar out: %w", err)
			}
			continue
		}
		b := rowOf(*c.After)
		var volume any
		if b.Volume != nil {
			volume = *b.Volume
		}
		rows.Add(b.Key, b.Symbol, b.Provider, b.Opened, b.Closed, b.ID, b.Fact, b.Open, b.High, b.Low, b.Close, volume)
	}
	return f.tx.Insert(ctx, rows)
}

// stretch is a stretch of time of one market in which candles are made again.
type stretch struct {
	market   line // without an interval
	from, to schema.Time
	places   []place
}

// stretches gathers the candles that are made again, so that close ones are read together.
func (f *fold) stretches() []stretch {
	places := slices.SortedFunc(maps.Keys(f.again), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.provider, b.provider), cmp.Compare(a.symbol, b.symbol), cmp.Compare(a.begin, b.begin), cmp.Compare(a.interval, b.interval))
	})
	near := 3 * intervals[f.intervals[len(f.intervals)-1]] // as days around a weekend
	var all []stretch
	for _, at := range places {
		market := line{symbol: at.symbol, provider: at.provider}
		if n := len(all) - 1; n >= 0 && all[n].market == market && !at.start().After(all[n].to.Add(near)) {
			if all[n].places = append(all[n].places, at); at.end().After(all[n].to) {
				all[n].to = at.end()
			}
			continue
		}
		all = append(all, stretch{market, at.start(), at.end(), []place{at}})
	}
	return all
}

// makeAgain makes the candles that have bars, of the tables.
func (f *fold) makeAgain(ctx context.Context) (map[place]candle, error) {
	made := map[place]candle{}
	for _, s := range f.stretches() {
		bars, ticks, err := f.parts(ctx, s)
		if err != nil {
			return nil, err
		}
		for _, at := range s.places {
			made[at] = combine(at, between(bars, at, func(b barRow) schema.Time { return b.Opened }),
				between(ticks, at, func(p piece) schema.Time { return p.start() }), intervals[f.intervals[0]])
		}
	}
	return made, nil
}

// piece is the ticks of a shortest interval.
type piece struct {
	place
	candle
}

// parts reads the bars and the ticks of a stretch, in the order of time.
func (f *fold) parts(ctx context.Context, s stretch) (bars []barRow, ticks []piece, err error) {
	err = f.tx.Select(ctx, &bars, `SELECT `+strings.Join(barColumns, ", ")+` FROM `+f.g.Table(barsTable)+`
		WHERE symbol = $1 AND provider = $2 AND close_time > $3 AND close_time <= $4 AND open_time >= $3 ORDER BY open_time`, s.market.symbol, s.market.provider, s.from, s.to)
	if err != nil {
		return nil, nil, fmt.Errorf("reading bars: %w", err)
	}
	bars = best(bars)
	found := map[place]candle{}
	for _, name := range []string{f.g.Table(table), f.g.Table(ticksTable)} { // in both: the latter has more
		var rows []row
		err := f.tx.Select(ctx, &rows, `SELECT `+strings.Join(rowColumns, ", ")+` FROM `+name+`
			WHERE symbol = $1 AND provider = $2 AND interval = $3 AND timestamp >= $4 AND timestamp < $5 AND rests_on = $6`,
			s.market.symbol, s.market.provider, f.intervals[0], s.from, s.to, onTicks)
		if err != nil {
			return nil, nil, fmt.Errorf("reading ticks: %w", err)
		}
		for _, r := range rows {
			found[r.place()] = r.stored()
		}
	}
	for at, c := range found {
		ticks = append(ticks, piece{at, c})
	}
	slices.SortFunc(ticks, func(a, b piece) int { return cmp.Compare(a.begin, b.begin) })
	return bars, ticks, nil
}

// between are the parts, in the order of time, that begin in an interval.
func between[T any](parts []T, at place, begin func(T) schema.Time) []T {
	first := sort.Search(len(parts), func(i int) bool { return !begin(parts[i]).Before(at.start().Time) })
	n := sort.Search(len(parts)-first, func(i int) bool { return !begin(parts[first+i]).Before(at.end().Time) })
	return parts[first : first+n]
}

// combine is the candle of an interval, of the bars that begin in it and of the ticks of
// its pieces.
func combine(at place, bars []barRow, ticks []piece, length time.Duration) candle {
	bars = slices.DeleteFunc(slices.Clone(bars), func(b barRow) bool { return b.Closed.After(at.end()) })
	slices.SortStableFunc(bars, func(a, b barRow) int {
		return cmp.Or(cmp.Compare(b.length(), a.length()), a.Opened.Compare(b.Opened))
	})
	var covered spans
	var c candle
	for _, b := range bars {
		if covered.add(b.Opened, b.Closed) {
			c = c.add(b.candle())
		}
	}
	for _, p := range ticks {
		if start := p.start(); !covered.overlap(start, start.Add(length)) {
			c = c.add(p.candle)
		}
	}
	return c
}

// spans are spans of time that do not overlap, in their order.
type spans []struct{ from, to schema.Time }

// next is the first that ends after a time.
func (s spans) next(t schema.Time) int {
	return sort.Search(len(s), func(i int) bool { return s[i].to.After(t) })
}

// overlap reports whether a span has time in common with one of them.
func (s spans) overlap(from, to schema.Time) bool {
	i := s.next(from)
	return i < len(s) && s[i].from.Before(to.Time)
}

// add adds a span unless it overlaps.
func (s *spans) add(from, to schema.Time) bool {
	if s.overlap(from, to) {
		return false
	}
	*s = slices.Insert(*s, s.next(from), struct{ from, to schema.Time }{from, to})
	return true
}
