// Package shrink makes the log smaller on which a plugin breaks a duty, and writes down
// what is left for people. It is for the suites of plugins.
package shrink

import (
	"slices"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// Case is a log and how it is delivered.
type Case struct {
	Events []Event
	// Batches are delivered one after the other; nil for all events at once.
	Batches []Batch
}

// Event is an event of a log.
type Event struct {
	Payload schema.Payload
	// Spoilt says that its record cannot be decoded.
	Spoilt bool
}

// Batch is a batch of a delivery.
type Batch struct {
	// Events are indexes into Case.Events, in the order of the delivery.
	Events []int
	// Process says that another process delivers it, and Session that a session begins
	// before it.
	Process, Session bool
	// Undo is how often it is rolled back before it commits.
	Undo int
}

// Result is what a case gives.
type Result struct {
	Want, Got []string // lines
	// Err is set where the plugin fails instead.
	Err error
}

// Differs reports whether the case shows a fault.
func (r Result) Differs() bool { return r.Err != nil || !slices.Equal(r.Want, r.Got) }

// New returns the case of payloads that are delivered at once.
func New(payloads []schema.Payload) Case {
	c := Case{Events: make([]Event, len(payloads))}
	for i, p := range payloads {
		c.Events[i].Payload = p
	}
	return c
}

// Payloads are those of all events.
func (c Case) Payloads() []schema.Payload {
	payloads := make([]schema.Payload, len(c.Events))
	for i, e := range c.Events {
		payloads[i] = e.Payload
	}
	return payloads
}

// attempts is how many smaller cases are run at the most.
const attempts = 250

// Smallest returns the smallest case that it finds which still differs, beginning with c,
// and the result of that. It runs a few hundred cases: for one that the log of no service
// can have, run returns a Result that does not differ. The same c gives the same case, if
// run always gives the same result.
func Smallest(c Case, run func(Case) Result) (Case, Result) {
	s := search{best: c, result: run(c), run: run, left: attempts}
	for progress := true; progress && s.left > 0; {
		progress = s.removeEvents()
		progress = s.simplifyBatches() || progress
		progress = s.simplifyEvents() || progress
	}
	return s.best, s.result
}

type search struct {
	best   Case
	result Result
	run    func(Case) Result
	left   int
}

// try takes a case if it differs as well.
func (s *search) try(c Case) bool {
	if s.left == 0 {
		return false
	}
	s.left--
	result := s.run(c)
	if result.Differs() {
		s.best, s.result = c, result
		return true
	}
	return false
}

// removeEvents removes half of the events, a quarter, and so on down to each.
func (s *search) removeEvents() (progress bool) {
	for size := max(1, len(s.best.Events)/2); size > 0; size /= 2 {
		for at := 0; at < len(s.best.Events); {
			if to := min(at+size, len(s.best.Events)); to-at < len(s.best.Events) && s.try(s.best.without(at, to)) {
				progress = true
			} else {
				at += size
			}
		}
	}
	return progress
}

// without is the case without the events from one index to before another.
func (c Case) without(from, to int) Case {
	smaller := Case{Events: slices.Concat(c.Events[:from], c.Events[to:])}
	for _, b := range c.Batches {
		kept := b
		kept.Events = nil
		for _, e := range b.Events {
			switch {
			case e < from:
				kept.Events = append(kept.Events, e)
			case e >= to:
				kept.Events = append(kept.Events, e-(to-from))
			}
		}
		if len(kept.Events) > 0 {
			smaller.Batches = append(smaller.Batches, kept)
		}
	}
	return smaller
}

// simplifyBatches drops what happens between batches, sorts their events, and joins them.
func (s *search) simplifyBatches() (progress bool) {
	for i := 0; i < len(s.best.Batches); i++ {
		for _, simpler := range []func(b *Batch){
			func(b *Batch) { b.Undo = 0 }, func(b *Batch) { b.Undo = min(b.Undo, 1) },
			func(b *Batch) { b.Session = false }, func(b *Batch) { b.Process = false },
			func(b *Batch) { b.Events = slices.Sorted(slices.Values(b.Events)) },
		} {
			c := s.best
			c.Batches = slices.Clone(c.Batches)
			simpler(&c.Batches[i])
			if !sameBatch(c.Batches[i], s.best.Batches[i]) && s.try(c) {
				progress = true
			}
		}
	}
	for i := 0; i+1 < len(s.best.Batches); {
		c := s.best
		joined := c.Batches[i]
		joined.Events = slices.Concat(joined.Events, c.Batches[i+1].Events)
		c.Batches = slices.Concat(c.Batches[:i], []Batch{joined}, c.Batches[i+2:])
		if s.try(c) {
			progress = true
		} else {
			i++
		}
	}
	return progress
}

func sameBatch(a, b Batch) bool {
	return a.Process == b.Process && a.Session == b.Session && a.Undo == b.Undo && slices.Equal(a.Events, b.Events)
}

// simplifyEvents makes prices plain, one field at a time: of all of them, or else of each.
func (s *search) simplifyEvents() (progress bool) {
	first := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, simpler := range []func(i int, p *schema.PriceObserved){
		func(_ int, p *schema.PriceObserved) { p.Size = schema.Decimal{} },
		func(_ int, p *schema.PriceObserved) { p.Sequence = 0 },
		func(_ int, p *schema.PriceObserved) { p.Symbol = "A" },
		func(_ int, p *schema.PriceObserved) { p.Source = "p" },
		func(_ int, p *schema.PriceObserved) { p.Price = schema.MustDecimal("1") },
		func(i int, p *schema.PriceObserved) {
			p.Timestamp = schema.NewTime(first.Add(time.Duration(i) * time.Second))
			p.ReceivedAt = p.Timestamp
		},
	} {
		if s.simplify(0, len(s.best.Events), simpler) {
			progress = true
			continue
		}
		for i := range s.best.Events {
			progress = s.simplify(i, i+1, simpler) || progress
		}
	}
	return progress
}

// simplify changes the prices from one index to before another.
func (s *search) simplify(from, to int, simpler func(i int, p *schema.PriceObserved)) bool {
	c := s.best
	c.Events = slices.Clone(c.Events)
	changed := false
	for i := from; i < to; i++ {
		if p, isPrice := c.Events[i].Payload.(schema.PriceObserved); isPrice {
			before := p
			simpler(i, &p)
			c.Events[i].Payload, changed = p, changed || p != before
		}
	}
	return changed && s.try(c)
}
