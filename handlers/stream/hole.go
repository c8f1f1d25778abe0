package stream

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/backfill"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// hole is a span of time in which messages of a symbol were missing, by our clock. It is in
// the table for as long as no backfill was started for it.
type hole struct {
	From schema.Time `json:"from"`
	To   schema.Time `json:"to"`
	// Seen is when the first message of it was found to be missing.
	Seen schema.Time `json:"seen"`
}

const (
	// holeMargin is how much earlier than our last message, or later than the next one, a missing
	// one may have been: the provider's clock is not ours.
	holeMargin = time.Minute
	// holeRest is how long a hole waits for others that follow it, which are filled along
	// with it, and for the provider's history to have what is missing.
	holeRest = 10 * time.Second
	// maxFills is how many backfills may be under way, those of clients among them, for a hole to
	// be filled. Until there are fewer it stays in the table.
	maxFills = 100
	// fillsAtOnce is how many holes a process fills at once: what it asks for is counted a
	// little later.
	fillsAtOnce = 10
)

// open notes that messages are missing before m, which came after those of last.
func (p *progress) open(m pipeline.StreamMessage, last schema.Time) {
	if last.IsZero() {
		last = m.ReceivedAt
	}
	h, known := p.holes[m.Symbol]
	if !known {
		h = hole{From: last.Add(-holeMargin), Seen: m.ReceivedAt}
	}
	h.To = m.ReceivedAt.Add(holeMargin)
	p.holes[m.Symbol] = h
}

// room is how many holes may be filled now.
func (w *worker) room(ctx context.Context, ids []string) (int, error) {
	if !slices.ContainsFunc(ids, func(id string) bool { return len(w.owned[id].progress().holes) > 0 }) {
		return 0, nil
	}
	open, err := backfill.CountOpen(ctx, w.emit)
	return max(0, min(maxFills-open, fillsAtOnce)), err
}

// fills are the events that ask for what is missing, at most so many, and the holes without
// those that they ask for. At the end of a stream all are due.
func (s *subscription) fills(p progress, now schema.Time, end bool, most int) ([]schema.Event, progress) {
	if provider, _ := s.provider(s.Provider); !s.settings.FillGaps || !hasHistory(provider) {
		p.holes = map[schema.Symbol]hole{}
		return nil, p
	}
	var events []schema.Event
	for _, symbol := range slices.Sorted(maps.Keys(p.holes)) {
		h := p.holes[symbol]
		if len(events) == most || !end && h.Seen.Add(holeRest).After(now) {
			continue
		}
		delete(p.holes, symbol)
		if earliest := h.To.Add(-s.settings.FillAtMost); earliest.After(h.From) {
			s.notFilled(symbol, h.From, earliest, "they are longer ago than fill_at_most")
			h.From = earliest
		}
		id := fillID(s.ID, symbol, h)
		s.log.Info("asking for trades that a stream missed", "stream_id", s.ID, "provider", s.Provider, "symbol", symbol,
			"from", h.From, "to", h.To, "backfill_id", id)
		events = append(events, schema.Event{ID: schema.DeriveID(Name, id), Source: "pricemill/" + Name, Payload: schema.BackfillStarted{
			BackfillID: id, Provider: s.Provider, Symbol: symbol, From: h.From, To: h.To, StartedAt: now}})
	}
	return events, p
}

// notFilled says what no backfill is started for.
func (s *subscription) notFilled(symbol schema.Symbol, from, to schema.Time, why string) {
	s.log.Warn("trades that a stream missed are not asked for", "stream_id", s.ID, "provider", s.Provider, "symbol", symbol,
		"from", from, "to", to, "reason", why)
}

func hasHistory(provider pipeline.Provider) bool {
	_, ok := provider.(pipeline.Historian)
	return ok
}

// fillID is the same for the same hole, also where two owners find it.
func fillID(stream string, symbol schema.Symbol, h hole) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s", stream, symbol, h.From, h.To))
	return "backfill_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
}

// filled forgets the holes of before that after no longer has. Of one that has grown since,
// what was added stays.
func (p *progress) filled(before, after progress) {
	for symbol, h := range before.holes {
		if _, open := after.holes[symbol]; open {
			continue
		}
		if grown := p.holes[symbol]; grown != h {
			p.holes[symbol] = hole{From: h.To.Add(-2 * holeMargin), To: grown.To, Seen: grown.To.Add(-holeMargin)}
			continue
		}
		delete(p.holes, symbol)
	}
}
