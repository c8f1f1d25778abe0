package live

import (
	"context"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
)

// pastChunk is how many records of the past are read at once.
const pastChunk = 5000

// readPast reads the next records of the past, where the stream is not with its feeds yet,
// and returns its events. more says that there may be more of the past.
func (s *Stream) readPast(ctx context.Context) (events []Event, more bool, err error) {
	for _, p := range s.parts {
		if p.joined {
			continue
		}
		if p.at >= p.target {
			err := s.joinFeed(p)
			return nil, true, err
		}
		done, err := s.hub.turn(ctx)
		if err != nil {
			return nil, false, err
		}
		defer done()
		if p.repeats == nil && p.feed.mayRepeat {
			if p.repeats, err = s.hub.repeatsBefore(ctx, p.feed.tp, p.at); err != nil {
				return nil, false, err
			}
		}
		to := min(p.at+pastChunk, p.target)
		err = s.hub.cfg.Log.Read(ctx, p.feed.tp, p.at, to, func(records []pipeline.Record) error {
			for i := range records {
				events = s.passed(p, &records[i], events)
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		p.at = to
		if s.prices() {
			p.cursors[0] = max(p.cursors[0], to)
		}
		return s.conflated(events), true, nil
	}
	return nil, false, nil
}

// passed takes a record of the past.
func (s *Stream) passed(p *part, r *pipeline.Record, events []Event) []Event {
	if p.repeats != nil && p.repeats.IsRepeat(r) {
		return events
	}
	at := slices.IndexFunc(p.places, func(place *place) bool { return place.market.key == string(r.Key) })
	if at < 0 {
		return events
	}
	said, ok := saidIn(r)
	if !ok {
		return events
	}
	for k, kind := range s.kinds {
		switch {
		case r.Offset < p.cursors[k]:
		case kind.isPrice():
			p.cursors[k] = r.Offset + 1
			if said.price != nil {
				events = append(events, Event{PriceEvent, s.ID(), &Data{Value: *said.price}})
			}
		default:
			past := &p.places[at].past[k]
			if *past == nil {
				*past = map[int64][]int64{}
			}
			bucket := kind.bucketOf(said.at)
			(*past)[bucket] = append((*past)[bucket], r.Offset)
		}
	}
	return events
}

// conflated leaves of the prices of each symbol the last, where the client wants few.
func (s *Stream) conflated(events []Event) []Event {
	if s.pause == 0 || len(events) < 2 {
		return events
	}
	seen := map[string]bool{}
	var kept []Event
	for _, e := range slices.Backward(events) {
		price, isPrice := priceIn(e)
		if isPrice {
			if seen[price] {
				continue
			}
			seen[price] = true
		}
		kept = append(kept, e)
	}
	slices.Reverse(kept)
	return kept
}

// joinFeed has the stream continue with what the feed keeps, unless that begins after what
// was read of the past.
func (s *Stream) joinFeed(p *part) error {
	f := p.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return ErrEnded
	}
	if s.prices() && f.evicted > p.cursors[0] {
		p.target = f.next
		return nil
	}
	pending := false
	for _, place := range p.places {
		m := place.market
		if s.prices() {
			first := slices.IndexFunc(m.prices, func(e *entry) bool { return e.offset >= p.cursors[0] })
			if first < 0 {
				first = len(m.prices)
			}
			place.seen = m.gone + int64(first)
		}
		for k, kind := range s.kinds {
			if v := m.views[kind.Text]; v != nil && v.demand(place.past[k]) {
				place.gate[k], pending = v.from, true
			}
		}
		place.past = nil
	}
	p.joined = true
	if pending {
		s.hub.wakeViews()
	}
	return nil
}

// demand has the values of buckets asked for whose prices came before the view did, and
// reports whether there are any.
func (v *view) demand(past map[int64][]int64) bool {
	demanded := false
	for bucket, offsets := range past {
		n := until(offsets, v.from)
		if n == 0 {
			continue
		}
		demanded = true
		offsets = offsets[max(0, n-keptPending):n]
		waiting := append(slices.Clone(offsets), v.pending[bucket]...)
		slices.Sort(waiting)
		v.pending[bucket] = slices.Compact(waiting)
	}
	return demanded
}
