package ingest

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Moment names the prices of one symbol, provider and event time.
type Moment struct {
	Provider  schema.Provider
	Symbol    schema.Symbol
	Timestamp schema.Time
}

// Fact is a price that is stored.
type Fact struct {
	// ID is that of its event.
	ID string
	// Price is what it is by now; nil where it was retracted.
	Price *schema.Decimal
	// CorrectionID is its last correction; empty for none.
	CorrectionID string
}

// CorrectionSink is where corrections go.
type CorrectionSink struct {
	// Facts are the prices of some moments.
	Facts func(ctx context.Context, moments []Moment) (map[Moment][]Fact, error)
	// Append brings events into the log, as engine.Appender does.
	Append func(ctx context.Context, events []schema.Event) error
	// Applied returns once Facts knows what was appended before the call.
	Applied func(ctx context.Context) error
}

// CorrectionSummary counts what became of the lines of a file of right prices.
type CorrectionSummary struct {
	Lines      int `json:"lines"`
	PassedOver int `json:"passed_over"`
	// Bad are the lines that hold no price, or one that corrects none: there is no stored
	// price of the symbol and time, or several, or it was retracted.
	Bad int `json:"bad"`
	// Corrected were another price, Unchanged are as the file has them.
	Corrected int `json:"corrected"`
	Unchanged int `json:"unchanged"`
}

// right is a price of the file.
type right struct {
	line   int
	moment Moment
	price  schema.Decimal
}

// Correct takes the prices of the file for corrections of those that are stored, of the
// same symbol, provider and event time. Doing so again changes nothing. Its memory grows by
// the prices that the file holds, some 40 bytes each. After an error the summary says how
// far it came, as that of Run.
func (s *Source) Correct(ctx context.Context, sink CorrectionSink, reason string) (CorrectionSummary, error) {
	c := &correction{Source: s, sink: sink, reason: reason, seen: map[string]bool{}}
	err := sink.Applied(ctx)
	for err == nil && len(s.batch) > 0 {
		if err = c.flush(ctx); err == nil {
			s.fill()
		}
	}
	c.sum.Lines, c.sum.PassedOver = s.count.Lines, s.count.PassedOver
	c.sum.Bad += s.count.Bad
	return c.sum, errors.Join(err, s.fault)
}

// correction is a file of right prices on its way.
type correction struct {
	*Source
	sink   CorrectionSink
	reason string
	sum    CorrectionSummary
	seen   map[string]bool // facts that the file names
}

// flush corrects what a batch says, and waits until that is known.
func (c *correction) flush(ctx context.Context) error {
	prices, err := c.read()
	if err != nil {
		return err
	}
	moments := make([]Moment, len(prices))
	for i, p := range prices {
		moments[i] = p.moment
	}
	facts, err := c.sink.Facts(ctx, moments)
	if err != nil {
		return err
	}
	var events []schema.Event
	for _, p := range prices {
		fact, err := c.sole(p, facts[p.moment])
		if err != nil {
			if c.reject(p.line, err) {
				continue
			}
			break
		}
		if fact.Price.Cmp(p.price) == 0 {
			c.sum.Unchanged++
			continue
		}
		c.sum.Corrected++
		events = append(events, schema.Event{ID: schema.CorrectionID(fact.ID, fact.CorrectionID, &p.price, schema.Decimal{}), Source: source,
			Payload: schema.PriceCorrected{Price: p.price, CorrectedAt: schema.NewTime(c.cfg.Now()), Correction: schema.Correction{FactID: fact.ID,
				Symbol: p.moment.Symbol, Timestamp: p.moment.Timestamp, Source: p.moment.Provider, Reason: c.reason}}})
	}
	c.batch = c.batch[:0]
	if len(events) == 0 {
		return nil
	}
	if err := c.sink.Append(ctx, events); err != nil {
		return fmt.Errorf("appending %d corrections: %w", len(events), err)
	}
	return c.sink.Applied(ctx)
}

// read reads the prices of a batch, up to the first that is wrong unless those are skipped.
func (c *correction) read() ([]right, error) {
	var prices []right
	for _, item := range c.batch {
		quote, ok := item.event.Payload.(schema.QuoteFetched)
		if !ok {
			return nil, fmt.Errorf("line %d: unexpected event %T", item.line, item.event.Payload)
		}
		found, err := c.cfg.Reader.Normalize(quote)
		if err != nil && !c.reject(item.line, err) {
			break
		}
		for _, p := range found {
			prices = append(prices, right{item.line, Moment{quote.Provider, p.Symbol, p.Time}, p.Price})
		}
	}
	return prices, nil
}

// sole is the price that a line corrects.
func (c *correction) sole(p right, facts []Fact) (Fact, error) {
	var stored []Fact
	for _, f := range facts {
		if f.Price != nil {
			stored = append(stored, f)
		}
	}
	at := fmt.Sprintf("of %s at %s", p.moment.Symbol, p.moment.Timestamp.Text())
	switch {
	case len(stored) == 0 && len(facts) > 0:
		return Fact{}, fmt.Errorf("the price %s was retracted: pricemill correct brings it back", at)
	case len(stored) == 0:
		return Fact{}, fmt.Errorf("there is no price %s to correct: is the time as it was when the price came? Without --corrects the line is a new price", at)
	case len(stored) > 1:
		return Fact{}, fmt.Errorf("there are %d prices %s: pricemill correct --fact names one of them", len(stored), at)
	case c.seen[stored[0].ID]:
		return Fact{}, fmt.Errorf("the file has the price %s twice", at)
	}
	c.seen[stored[0].ID] = true
	return stored[0], nil
}

// reject counts a bad line, and reports whether reading continues.
func (c *correction) reject(line int, err error) bool {
	c.sum.Bad++
	bad := &pipeline.LineError{Line: line, Err: err}
	if !c.cfg.SkipBad {
		c.fault, c.ended = bad, true
		return false
	}
	if c.cfg.Report != nil {
		c.cfg.Report(bad)
	}
	return true
}
