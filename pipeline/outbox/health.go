package outbox

import (
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

func (r *Relay) setBusy(busy bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !busy:
		r.busy = time.Time{}
	case r.busy.IsZero():
		r.busy = time.Now()
	}
}

// lateMark is the last number of a chain at a moment.
type lateMark struct {
	seq int64
	at  time.Time
}

// mark notes since when chains wait. A chain that was sent up to its mark gets a new
// one: under steady load there is always an event that waits, but not the same.
func (r *Relay) mark(pending []store.Chain) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	marks := make(map[chainID]lateMark, len(pending))
	for _, chain := range pending {
		id := idOf(chain)
		m, known := r.late[id]
		sent := max(chain.Sent, r.sent[id])
		if sent >= chain.Last {
			continue
		}
		if !known || sent >= m.seq {
			m = lateMark{chain.Last, now}
		}
		marks[id] = m
	}
	r.late = marks
}

// Lag is how long the event that waits longest has waited since this relay first saw
// it, or less.
func (r *Relay) Lag() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	lag := time.Duration(0)
	for _, m := range r.late {
		lag = max(lag, time.Since(m.at))
	}
	return lag
}

// Age is how long the outbox has not been empty.
func (r *Relay) Age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy.IsZero() {
		return 0
	}
	return time.Since(r.busy)
}

func (r *Relay) setTrouble(err error) {
	r.mu.Lock()
	r.trouble = err
	r.mu.Unlock()
}

// Trouble is why the last round failed; nil when it did not.
func (r *Relay) Trouble() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trouble
}
