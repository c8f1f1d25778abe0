package outbox

import (
	"cmp"
	"slices"
	"sync"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// maxHanded bounds the events that wait in memory, in bytes. What is beyond it, the
// relay reads from the database.
const maxHanded = 8 << 20

// handover is what transactions of this process have committed and its relay has not sent
// yet. It spares reading the outbox, and may forget anything at any time: the outbox has
// it all. It is safe for concurrent use.
type handover struct {
	// sessions is store.Store.Sessions: what was committed in other sessions than the
	// present ones is not known to be there still.
	sessions func() int64
	wake     chan struct{}

	mu sync.Mutex
	// open says that the relay of this process is at work.
	open   bool
	at     int64 // sessions when all that is held was committed
	doubt  bool  // there were other sessions meanwhile
	left   bool  // some was committed that is not held
	bytes  int
	chains map[chainID][]run
}

// run is consecutive rows of a chain that one transaction committed.
type run struct{ rows []store.OutboxRow }

func (r run) first() int64 { return r.rows[0].Seq }
func (r run) last() int64  { return r.rows[len(r.rows)-1].Seq }

func (r run) size() int {
	size := 0
	for i := range r.rows {
		size += rowSize(&r.rows[i])
	}
	return size
}

func newHandover(sessions func() int64) *handover {
	return &handover{sessions: sessions, wake: make(chan struct{}, 1), chains: map[chainID][]run{}}
}

// begin has the handover take what is committed from now on.
func (h *handover) begin() { h.reset(true) }

// end has it forget all and take nothing.
func (h *handover) end() { h.reset(false) }

func (h *handover) reset(open bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = open
	h.forget()
}

// forget is called with the lock held.
func (h *handover) forget() {
	clear(h.chains)
	h.bytes, h.at = 0, h.sessions()
}

// commits has the rows of a transaction handed over once it is known to be committed:
// those of each chain have the numbers that were taken for them.
func (h *handover) commits(tx *store.Tx, rows []store.OutboxRow, taken []store.Numbers) {
	at := h.sessions() // this transaction's is among them
	tx.OnCommit(func() { h.add(at, rows, taken) })
}

func (h *handover) add(at int64, rows []store.OutboxRow, taken []store.Numbers) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer signal(h.wake) // the relay sends it, or looks for what is missing
	if !h.open {
		return
	}
	if !h.current() || at != h.at {
		h.left = true
		return
	}
	byChain := make(map[chainID][]store.OutboxRow, len(taken))
	names := make(map[[2]int64]chainID, len(taken))
	for _, n := range taken {
		id := chainID{n.Epoch, n.Part, n.Timeline}
		names[[2]int64{n.Epoch, int64(n.Part)}] = id
		byChain[id] = make([]store.OutboxRow, 0, n.N)
	}
	for _, row := range rows {
		id := names[[2]int64{row.Epoch, int64(row.Part)}]
		byChain[id] = append(byChain[id], row)
	}
	for id, rows := range byChain {
		h.hold(id, run{rows})
	}
}

// current reports whether all that is held is known to be in the database; what is not
// is forgotten. It is called with the lock held.
func (h *handover) current() bool {
	if h.at == h.sessions() {
		return true
	}
	h.forget()
	h.doubt = true
	return false
}

// doubtful reports, once, that what was committed before may be gone.
func (h *handover) doubtful() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current()
	doubt := h.doubt
	h.doubt = false
	return doubt
}

// hold is called with the lock held. Transactions are committed in the order of their
// numbers, but may be handed over in another.
func (h *handover) hold(id chainID, r run) {
	size := r.size()
	if h.bytes+size > maxHanded {
		h.left = true
		return
	}
	runs := h.chains[id]
	at, _ := slices.BinarySearchFunc(runs, r, func(a, b run) int { return cmp.Compare(a.first(), b.first()) })
	h.chains[id] = slices.Insert(runs, at, r)
	h.bytes += size
}

// incomplete reports, once, that some was committed that was not held.
func (h *handover) incomplete() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.left
	h.left = false
	return left
}

// waiting are the chains of which something is held.
func (h *handover) waiting() []chainID {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.current() {
		return nil
	}
	ids := make([]chainID, 0, len(h.chains))
	for id := range h.chains {
		ids = append(ids, id)
	}
	// As the database lists them.
	slices.SortFunc(ids, func(a, b chainID) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.part, b.part), cmp.Compare(a.outbox, b.outbox))
	})
	return ids
}

// drop forgets what is held of a chain.
func (h *handover) drop(id chainID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.chains[id] {
		h.bytes -= r.size()
	}
	delete(h.chains, id)
}

// after are the rows of a chain that follow number sent without a gap, as many as the
// relay sends at once, and whether more is held, be it after a gap. It forgets the rows
// up to that number.
func (h *handover) after(id chainID, sent int64) (rows []store.OutboxRow, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.current() {
		return nil, true
	}
	runs := h.chains[id]
	for len(runs) > 0 && runs[0].last() <= sent {
		h.bytes -= runs[0].size()
		runs[0] = run{}
		runs = runs[1:]
	}
	if len(runs) == 0 {
		delete(h.chains, id)
		return nil, false
	}
	h.chains[id] = runs
	size := 0
	for _, run := range runs {
		for i := range run.rows {
			row := &run.rows[i]
			switch {
			case row.Seq <= sent:
				continue // read from the database before it was handed over
			case row.Seq != sent+1, len(rows) == log.BatchRecords, size > log.BatchBytes:
				return rows, true
			}
			rows = append(rows, *row)
			size += rowSize(row)
			sent++
		}
	}
	return rows, false
}

// signal wakes who waits on c, now or when it next waits.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is about to look anyway
	}
}
