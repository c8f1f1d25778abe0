package live

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Request is what a client asks for.
type Request struct {
	Provider schema.Provider
	// Symbols are each there once; Kinds too, by their Text.
	Symbols []schema.Symbol
	Kinds   []Kind
	// After is the id of the last event that the client has, by which it continues. Empty:
	// it begins with snapshots.
	After string
	// MaxRate is how many events a second the client wants of a symbol and a kind at the
	// most: of more it gets the last. 0 is no bound.
	MaxRate int
}

// Stream is the events of one client. It is for one goroutine.
type Stream struct {
	hub *Hub
	req Request
	// kinds are those of the request: price first, then by their Text.
	kinds []Kind
	sum   uint32
	log   uint32
	owing bool
	// told is the sum of the offsets in the last id that was handed out.
	told   int64
	closed bool
	parts  []*part
	queue  []Event       // handed out first
	news   chan struct{} // there may be events
	// pause is the least time between two looks; notBefore is when the next may be.
	pause     time.Duration
	notBefore time.Time
}

// part is the partition of some of a stream's symbols.
type part struct {
	feed   *feed
	places []*place
	// cursors are the offsets of the next records, by kind.
	cursors []int64
	// at is how far the past was read, and target is up to where it has to be.
	at, target int64
	repeats    *log.Repeats // of the past
	joined     bool
}

// place is where a stream is in a market.
type place struct {
	market *market
	// seen counts the prices of the market that were kept and that the stream is past.
	seen int64
	// past are the offsets of prices of the past, by kind and bucket: what read models
	// say after them is to be asked for.
	past []map[int64][]int64
	// gate is, by kind, the offset before which no price may be pending when the stream
	// looks; 0 for none.
	gate []int64
}

// maxBehind is how many records of the past a stream reads, of all symbols on its
// partitions.
const maxBehind = 1_000_000

// Open begins a stream: with snapshots, or after the id of an event. An error that wraps
// ErrPosition is about the id. The caller closes the stream.
func (h *Hub) Open(ctx context.Context, req Request) (_ *Stream, err error) {
	s := &Stream{hub: h, req: req, kinds: slices.Clone(req.Kinds), news: make(chan struct{}, 1)}
	slices.SortFunc(s.kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Text, b.Text))
	})
	s.sum = req.streamSum(s.kinds)
	if req.MaxRate > 0 {
		s.pause = time.Second / time.Duration(req.MaxRate)
	}
	var after position
	if req.After != "" {
		if after, err = parsePosition(req.After, s.sum, len(s.kinds)); err != nil {
			return nil, err
		}
	}
	if s.log, err = h.logSum(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.streams++
	h.mu.Unlock()
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	held, err := h.cfg.Log.Offsets(ctx, schema.PriceEvents)
	if err != nil {
		return nil, fmt.Errorf("asking for the ends of the log: %w", err)
	}
	if err := s.attach(held); err != nil {
		return nil, err
	}
	if req.After == "" || after.owing {
		return s, s.begin(ctx, held)
	}
	reason := s.resume(after, held)
	if reason == "" {
		return s, nil
	}
	if err := s.begin(ctx, held); err != nil {
		return nil, err
	}
	s.owing = true
	s.queue = slices.Insert(s.queue, 0, Event{ResetEvent, s.ID(), &Data{Value: Reset{reason}}})
	s.owing = false
	return s, nil
}

func order(k Kind) int {
	if k.isPrice() {
		return 0
	}
	return 1
}

// prices reports whether the first kind is price.
func (s *Stream) prices() bool { return s.kinds[0].isPrice() }

// attach watches the markets.
func (s *Stream) attach(held []log.OffsetRange) error {
	parts := map[int32]*part{}
	for _, symbol := range s.req.Symbols {
		number, err := s.hub.cfg.Topics.PartitionOf(schema.PriceEvents, []byte(schema.MarketKey(s.req.Provider, symbol)))
		if err != nil {
			return err
		}
		if int(number) >= len(held) {
			return fmt.Errorf("partition %d of %s is missing", number, schema.PriceEvents)
		}
		p := parts[number]
		if p == nil {
			f, err := s.hub.join(number, s.log, held[number].End, !s.prices() || len(s.kinds) > 1)
			if err != nil {
				return err
			}
			p = &part{feed: f, cursors: make([]int64, len(s.kinds))}
			parts[number] = p
			s.parts = append(s.parts, p)
		}
		p.feed.mu.Lock()
		m := p.feed.marketOf(s.req.Provider, symbol)
		m.watch(s)
		p.target = max(p.target, m.from)
		for _, kind := range s.kinds {
			if v := m.views[kind.Text]; v != nil {
				p.target = max(p.target, v.from)
			}
		}
		p.feed.mu.Unlock()
		p.places = append(p.places, &place{market: m, past: make([]map[int64][]int64, len(s.kinds)), gate: make([]int64, len(s.kinds))})
	}
	slices.SortFunc(s.parts, func(a, b *part) int { return cmp.Compare(a.feed.tp.Partition, b.feed.tp.Partition) })
	return nil
}

// begin begins with snapshots.
func (s *Stream) begin(ctx context.Context, held []log.OffsetRange) error {
	done, err := s.hub.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	snapshot, err := s.hub.cfg.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	var names []string
	for _, kind := range s.kinds {
		names = append(names, kind.from...)
	}
	slices.Sort(names)
	reached, err := projections.Reached(ctx, snapshot, slices.Compact(names), schema.PriceEvents)
	if err != nil {
		return err
	}
	snapshots := map[schema.Symbol]Snapshot{}
	missing := int64(0)
	for _, p := range s.parts {
		if err := s.read(ctx, snapshot, p, reached, snapshots); err != nil {
			return err
		}
		for k := range p.cursors {
			p.cursors[k] = max(p.cursors[k], held[p.feed.tp.Partition].Oldest)
		}
		p.at = slices.Min(p.cursors)
		missing += max(0, p.target-p.at)
	}
	for i, symbol := range s.req.Symbols {
		s.owing = i < len(s.req.Symbols)-1
		s.queue = append(s.queue, Event{SnapshotEvent, s.ID(), &Data{Value: snapshots[symbol]}})
	}
	if missing > maxBehind {
		s.skip(missing)
	}
	return nil
}

// read reads what the read models say of a partition's symbols, and has the cursors be
// after it.
func (s *Stream) read(ctx context.Context, snapshot *store.Snapshot, p *part, reached map[string]map[int32]int64, into map[schema.Symbol]Snapshot) error {
	number := p.feed.tp.Partition
	for k, kind := range s.kinds {
		p.cursors[k] = reached[kind.from[0]][number]
	}
	for _, place := range p.places {
		shown := Snapshot{Provider: s.req.Provider, Symbol: place.market.symbol}
		for _, kind := range s.req.Kinds {
			value, from, err := kind.value(ctx, snapshot, place.market, newest)
			if err != nil {
				return err
			}
			k := slices.IndexFunc(s.kinds, func(other Kind) bool { return other.Text == kind.Text })
			p.cursors[k] = min(p.cursors[k], reached[from][number])
			shown.Parts = append(shown.Parts, SnapshotPart{kind.Text, value})
		}
		into[shown.Symbol] = shown
	}
	return nil
}

// skip has a stream whose read models are too far behind the log begin at its end.
func (s *Stream) skip(missing int64) {
	from := s.ID()
	for _, p := range s.parts {
		p.at = max(p.at, p.target)
		for k := range p.cursors {
			p.cursors[k] = max(p.cursors[k], p.target)
		}
	}
	s.queue = append(s.queue, Event{MissedEvent, s.ID(), &Data{Value: Missed{from, s.ID(), missing}}})
}

// resume continues at a position, or says why that is not possible.
func (s *Stream) resume(after position, held []log.OffsetRange) (reason string) {
	if after.log != s.log || len(after.offsets) != len(s.parts) {
		return "the position is of another log"
	}
	behind := int64(0)
	for i, p := range s.parts {
		copy(p.cursors, after.offsets[i])
		p.at = slices.Min(p.cursors)
		inLog := held[p.feed.tp.Partition]
		switch {
		case slices.Max(p.cursors) > inLog.End:
			return "the position is after the end of the log"
		case p.at < inLog.Oldest:
			return "the position is older than what the log keeps"
		}
		behind += max(0, p.target-p.at)
	}
	if behind > maxBehind {
		return fmt.Sprintf("the position is more than %d records behind; the history of prices has them", maxBehind)
	}
	return ""
}

// ID is the position of the stream: what a client that comes back with it gets is what
// follows.
func (s *Stream) ID() string {
	p := position{owing: s.owing, log: s.log, offsets: make([][]int64, len(s.parts))}
	for i, part := range s.parts {
		p.offsets[i] = part.cursors
	}
	return p.text(s.sum)
}

// offsets is their sum.
func (s *Stream) offsets() (sum int64) {
	for _, p := range s.parts {
		for _, cursor := range p.cursors {
			sum += cursor
		}
	}
	return sum
}

// Passed is how many records, counted for each kind, the stream has passed since the last
// event.
func (s *Stream) Passed() int64 { return s.offsets() - s.told }

// Close gives up the stream. A second call does nothing.
func (s *Stream) Close() {
	if s.closed {
		return
	}
	s.closed = true
	for _, p := range s.parts {
		p.feed.mu.Lock()
		for _, place := range p.places {
			place.market.leave(s)
		}
		p.feed.mu.Unlock()
		s.hub.part(p.feed)
	}
	s.parts = nil
	s.hub.mu.Lock()
	s.hub.streams--
	s.hub.mu.Unlock()
}

// Next waits for events and returns them, in their order; none once tick gives something.
// It returns the error of ctx once that is done, and ErrEnded where the stream has ended.
func (s *Stream) Next(ctx context.Context, tick <-chan time.Time) ([]Event, error) {
	events, err := s.next(ctx, tick)
	if len(events) > 0 {
		s.told = s.offsets()
	}
	return events, err
}

func (s *Stream) next(ctx context.Context, tick <-chan time.Time) ([]Event, error) {
	for {
		if len(s.queue) > 0 {
			events := s.queue
			s.queue, s.owing = nil, false
			return events, nil
		}
		select {
		case <-s.hub.draining:
			return nil, ErrEnded
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
		}
		events, more, err := s.readPast(ctx)
		if err != nil || len(events) > 0 {
			return events, err
		}
		if more {
			continue
		}
		due := time.Duration(0)
		if s.pause > 0 {
			due = time.Until(s.notBefore)
		}
		if due <= 0 {
			if events, err := s.take(); err != nil || len(events) > 0 {
				s.notBefore = time.Now().Add(s.pause)
				return events, err
			}
		}
		if ticked, err := s.wait(ctx, tick, due); ticked || err != nil {
			return nil, err
		}
	}
}

// wait waits for news, or until a look is due where there was one just now.
func (s *Stream) wait(ctx context.Context, tick <-chan time.Time, due time.Duration) (ticked bool, err error) {
	news, timer := s.news, (<-chan time.Time)(nil)
	if due > 0 {
		waiting := time.NewTimer(due)
		defer waiting.Stop()
		news, timer = nil, waiting.C
	}
	select {
	case <-news:
	case <-timer:
	case <-tick:
		return true, nil
	case <-s.hub.draining:
		return false, ErrEnded
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return false, nil
}
