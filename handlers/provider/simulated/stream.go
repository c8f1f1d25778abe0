package simulated

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

var _ pipeline.Resubscriber = (*Provider)(nil)

// Stream implements pipeline.Streamer. Each symbol trades once in every period of
// Config.TradeEvery, at a random moment of it. Trades are numbered by their periods, so
// that every process streams the same ones; those of periods that pass while f runs
// are never sent, and missing in the sequence.
func (p *Provider) Stream(ctx context.Context, symbols []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	return p.StreamChanging(ctx, symbols, nil, f)
}

// StreamChanging implements pipeline.Resubscriber.
func (p *Provider) StreamChanging(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	delay := p.latency
	for _, symbol := range symbols {
		delay = max(delay, p.latency+p.faults[symbol].Delay)
	}
	if err := wait(ctx, delay); err != nil {
		return err
	}
	next := p.listen(symbols, nil)
	for {
		first := 0
		for i := range next {
			if next[i].at.Before(next[first].at) {
				first = i
			}
		}
		symbols, err := waitOrChange(ctx, next[first].at.Sub(p.clock()), changes)
		if err != nil {
			return err
		}
		if symbols != nil {
			next = p.listen(symbols, next)
			continue
		}
		message, err := p.message(ctx, next[first])
		if err != nil {
			return err
		}
		if err := f(message); err != nil {
			return err
		}
		next[first] = p.after(next[first].symbol, next[first].number)
	}
}

// listen is the next trade of each symbol: that of known, if it has one.
func (p *Provider) listen(symbols []schema.Symbol, known []trade) []trade {
	next := make([]trade, len(symbols))
	for i, symbol := range symbols {
		if at := slices.IndexFunc(known, func(t trade) bool { return t.symbol == symbol }); at >= 0 {
			next[i] = known[at]
		} else {
			next[i] = p.after(symbol, 0)
		}
	}
	return next
}

// waitOrChange waits for d, or until there are other symbols, which it returns.
func waitOrChange(ctx context.Context, d time.Duration, changes <-chan []schema.Symbol) ([]schema.Symbol, error) {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case symbols := <-changes:
		return symbols, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, wait(ctx, 0)
}

// trade is what a stream tells of.
type trade struct {
	symbol      schema.Symbol
	number      int64
	at          time.Time
	price, size string // decimal text
}

// after is the first trade of a symbol that has a greater number and is not over yet.
func (p *Provider) after(symbol schema.Symbol, number int64) trade {
	now := p.clock()
	t := p.walk.trade(symbol, max(number+1, floorDiv(now.UnixMicro(), p.walk.period)))
	if t.number > number+1 && t.at.Before(now) {
		t = p.walk.trade(symbol, t.number+1)
	}
	return t
}

// message tells of a trade, or misbehaves.
func (p *Provider) message(ctx context.Context, t trade) (pipeline.StreamMessage, error) {
	m := pipeline.StreamMessage{Symbol: t.symbol, Sequence: t.number, ReceivedAt: schema.NewTime(p.clock()), ID: p.eventOf(t)}
	var err error
	if fault := p.faults[t.symbol]; fault.Kind != "" && fault.Kind != Late {
		m.RawResponse, err = fault.answer(ctx, t.symbol, schema.NewTime(t.at))
	} else {
		m.RawResponse, err = t.encode()
	}
	return m, err
}

// eventOf is the id of the event of a trade.
func (p *Provider) eventOf(t trade) string {
	return schema.DeriveID("stream", string(Name), strconv.FormatUint(p.walk.seed, 10), strconv.FormatInt(p.walk.period, 10),
		string(t.symbol), strconv.FormatInt(t.number, 10))
}

func (t trade) encode() (schema.RawResponse, error) {
	at := schema.NewTime(t.at)
	return encode(answer{Simulated: true, Provider: Name, Symbol: t.symbol, Price: &t.price, Size: &t.size, Trade: t.number, Time: &at})
}

const (
	bounce  = 60 // ppm: how far a trade may be from the walk, as between bid and ask
	maxLots = 10 // sizes are products of two numbers up to this, so small ones are frequent
)

// trade is the one of a symbol in a period.
func (w walk) trade(symbol schema.Symbol, number int64) trade {
	random := mix(w.own(symbol) ^ mix(^uint64(number)))
	at := time.UnixMicro(number*w.period + int64(random%uint64(w.period))).UTC()
	random = mix(random)
	off := int64(random%(2*bounce+1)) - bounce
	random = mix(random)
	size := (1 + random%maxLots) * (1 + random/maxLots%maxLots)
	return trade{symbol, number, at, w.near(symbol, at, off), strconv.FormatUint(size, 10)}
}
