package live

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

const (
	// keptPrices is how many prices of watched symbols a feed keeps: how far behind a
	// client may be before it misses some.
	keptPrices = 4096
	// keptPending bounds the prices of a symbol that a read model has not folded yet.
	keptPending = 4096
	// keptBuckets bounds the candles of a symbol that are kept.
	keptBuckets = 256
)

// entry is a value and the offset of the price that it follows from.
type entry struct {
	offset int64
	market *market
	data   Data
}

// market is a symbol at a provider that a stream watches.
type market struct {
	provider schema.Provider
	symbol   schema.Symbol
	key      string
	feed     *feed

	// The rest is guarded by the feed.

	// from is the offset from which all its prices were kept; see also feed.evicted.
	from int64
	// prices are those that are still kept, by offset, and gone counts the others.
	prices  []*entry
	gone    int64
	views   map[string]*view
	streams map[*Stream]struct{}
}

// view is what one kind says of a market.
type view struct {
	kind Kind
	// from is the offset from which it knows of all prices of the market.
	from    int64
	watched int
	// values are the last of each bucket.
	values map[int64]*entry
	// pending are the offsets of prices that no value reflects, by bucket, in order.
	pending map[int64][]int64
}

// feed is a partition that is followed.
type feed struct {
	hub  *Hub
	tp   pipeline.TopicPartition
	log  uint32
	stop context.CancelFunc
	// mayRepeat says that the log has records again that a relay sent twice.
	mayRepeat bool
	// watched counts its streams, guarded by the hub.
	watched int

	mu sync.Mutex
	// next is the offset of the next record: those before it were seen.
	next    int64
	moved   chan struct{} // closed when next grows
	markets map[string]*market
	// kept are the prices of all markets, by offset; those before evicted are gone.
	kept    []*entry
	evicted int64
	repeats *log.Repeats // where there may be some
	ended   bool
}

// dispatch takes the next records of the partition.
func (f *feed) dispatch(records []pipeline.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := map[*market]struct{}{}
	pending := false
	for i := range records {
		r := &records[i]
		f.next = r.Offset + 1
		if f.repeats != nil && f.repeats.IsRepeat(r) {
			continue
		}
		m := f.markets[string(r.Key)]
		if m == nil {
			continue
		}
		said, ok := saidIn(r)
		if !ok {
			continue
		}
		if said.price != nil {
			e := &entry{offset: r.Offset, market: m, data: Data{Value: *said.price, traceparent: said.traceparent}}
			m.prices, f.kept = append(m.prices, e), append(f.kept, e)
			changed[m] = struct{}{}
		}
		for _, v := range m.views {
			v.await(v.kind.bucketOf(said.at), r.Offset)
			pending = true
		}
		f.evict()
	}
	close(f.moved)
	f.moved = make(chan struct{})
	for m := range changed {
		m.wake()
	}
	if pending {
		f.hub.wakeViews()
	}
	return nil
}

// evict keeps the feed within its bound.
func (f *feed) evict() {
	for len(f.kept) > keptPrices {
		oldest := f.kept[0]
		f.kept[0] = nil
		f.kept = f.kept[1:]
		f.evicted = oldest.offset + 1
		if m := oldest.market; len(m.prices) > 0 && m.prices[0] == oldest {
			m.prices[0] = nil
			m.prices = m.prices[1:]
			m.gone++
		}
	}
}

// wake has the streams of a market look.
func (m *market) wake() {
	for s := range m.streams {
		select {
		case s.news <- struct{}{}:
		default: // it will look
		}
	}
}

// await notes that a price changes a bucket.
func (v *view) await(bucket, offset int64) {
	waiting := v.pending[bucket]
	if len(waiting) >= keptPending {
		waiting[len(waiting)-1] = offset // one of them will do
		return
	}
	if waiting == nil && len(v.pending) >= keptBuckets {
		// Of the oldest candle, which changes again at its next price.
		delete(v.pending, slices.Min(slices.Collect(maps.Keys(v.pending))))
	}
	v.pending[bucket] = append(waiting, offset)
}

// first is the oldest price that no value reflects.
func (v *view) first() (offset int64, waits bool) {
	for _, waiting := range v.pending {
		if !waits || waiting[0] < offset {
			offset, waits = waiting[0], true
		}
	}
	return offset, waits
}

// until is how far a list of offsets lies before one, which is in it or not.
func until(waiting []int64, before int64) int {
	at, _ := slices.BinarySearch(waiting, before)
	return at
}

// show has a bucket's value follow from the price at an offset.
func (v *view) show(bucket int64, e *entry) {
	if before := v.values[bucket]; before != nil && before.offset > e.offset {
		e.offset = before.offset // an older price was asked for again
	}
	v.values[bucket] = e
	if len(v.values) > keptBuckets {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(v.values)), func(a, b int64) int { return cmp.Compare(v.values[a].offset, v.values[b].offset) })
		delete(v.values, oldest)
	}
}

// said is what a record says of its symbol.
type said struct {
	// price is nil where one was retracted.
	price *latestprices.Price
	// at is the event time of the fact.
	at schema.Time
	// traceparent is the trace of its record.
	traceparent string
}

// saidIn reads a record of a price, or of a correction of one.
func saidIn(r *pipeline.Record) (said, bool) {
	event, err := schema.DecodeEvent(r.Headers, r.Value)
	if err != nil {
		return said{}, false // a dead letter for every stage
	}
	switch p := event.Payload.(type) {
	case schema.PriceCorrected:
		return said{&latestprices.Price{Provider: p.Source, Symbol: p.Symbol, Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.CorrectedAt}, p.Timestamp, event.Traceparent}, true
	case schema.PriceRetracted:
		return said{nil, p.Timestamp, event.Traceparent}, true
	}
	p, ok := schema.PriceOf(event.Payload)
	return said{&latestprices.Price{Provider: p.Source, Symbol: p.Symbol, Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}, p.Timestamp, event.Traceparent}, ok
}

// reach waits until the feed has seen all records before an offset.
func (f *feed) reach(ctx context.Context, offset int64) error {
	for {
		f.mu.Lock()
		next, moved, ended := f.next, f.moved, f.ended
		f.mu.Unlock()
		if next >= offset || ended {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// marketOf is the market of a key, made where there is none; the feed is locked.
func (f *feed) marketOf(provider schema.Provider, symbol schema.Symbol) *market {
	key := schema.MarketKey(provider, symbol)
	m := f.markets[key]
	if m == nil {
		m = &market{provider: provider, symbol: symbol, key: key, feed: f, from: f.next, views: map[string]*view{}, streams: map[*Stream]struct{}{}}
		f.markets[key] = m
	}
	return m
}

// watch has a stream woken by a market.
func (m *market) watch(s *Stream) {
	m.streams[s] = struct{}{}
	for _, kind := range s.kinds {
		if kind.isPrice() {
			continue
		}
		v := m.views[kind.Text]
		if v == nil {
			v = &view{kind: kind, from: m.feed.next, values: map[int64]*entry{}, pending: map[int64][]int64{}}
			m.views[kind.Text] = v
		}
		v.watched++
	}
}

// leave undoes watch.
func (m *market) leave(s *Stream) {
	delete(m.streams, s)
	for _, kind := range s.kinds {
		if v := m.views[kind.Text]; v != nil {
			if v.watched--; v.watched == 0 {
				delete(m.views, kind.Text)
			}
		}
	}
	if len(m.streams) == 0 {
		delete(m.feed.markets, m.key)
	}
}
