package live

import (
	"cmp"
	"slices"

	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// priceIn is the symbol of a price event.
func priceIn(e Event) (key string, isPrice bool) {
	price, isPrice := e.Data.Value.(latestprices.Price)
	if !isPrice {
		return "", false
	}
	return schema.MarketKey(price.Provider, price.Symbol), true
}

// taken is what a feed has for a stream.
type taken struct {
	kind    int
	entries []*entry
	// next is the cursor after all of them.
	next int64
}

// take returns what came since the last look.
func (s *Stream) take() ([]Event, error) {
	var events []Event
	for _, p := range s.parts {
		all, missed, evicted, err := s.look(p)
		if err != nil {
			return nil, err
		}
		if missed > 0 {
			from := s.ID()
			p.cursors[0] = max(p.cursors[0], evicted)
			events = append(events, Event{MissedEvent, s.ID(), &Data{Value: Missed{from, s.ID(), missed}}})
		}
		for _, t := range all {
			for _, e := range t.entries {
				p.cursors[t.kind] = e.offset + 1
				events = append(events, Event{s.kinds[t.kind].Name, s.ID(), &e.data})
			}
			p.cursors[t.kind] = max(p.cursors[t.kind], t.next)
		}
	}
	return events, nil
}

// look collects what a feed has, and how many prices it had and has no more.
func (s *Stream) look(p *part) (all []taken, missed, evicted int64, err error) {
	f := p.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, 0, 0, ErrEnded
	}
	for k, kind := range s.kinds {
		t := taken{kind: k, next: f.next}
		if kind.isPrice() {
			for _, place := range p.places {
				m := place.market
				if s.pause == 0 || len(m.prices) == 0 { // else the last is there
					missed += max(0, m.gone-place.seen)
				}
				fresh := m.prices[max(0, place.seen-m.gone):]
				place.seen = m.gone + int64(len(m.prices))
				if s.pause > 0 && len(fresh) > 1 {
					fresh = fresh[len(fresh)-1:]
				}
				t.entries = append(t.entries, fresh...)
			}
		} else if !s.collect(p, k, &t) {
			continue
		}
		if len(p.places) > 1 || kind.bucket != nil {
			slices.SortFunc(t.entries, func(a, b *entry) int { return cmp.Compare(a.offset, b.offset) })
		}
		all = append(all, t)
	}
	return all, missed, f.evicted, nil
}

// collect takes the values of a kind that follow from prices before the first one without
// a value; none where prices that come first are asked for yet.
func (s *Stream) collect(p *part, k int, t *taken) bool {
	text := s.kinds[k].Text
	for _, place := range p.places {
		first, waits := place.market.views[text].first()
		if waits && first < place.gate[k] {
			return false
		}
		if waits {
			t.next = min(t.next, first)
		}
	}
	for _, place := range p.places {
		for _, e := range place.market.views[text].values {
			if e.offset >= p.cursors[k] && e.offset < t.next {
				t.entries = append(t.entries, e)
			}
		}
		place.gate[k] = 0
	}
	return true
}
