package target

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// MaxRecent is how many events of a partition a target remembers that it has. What may come
// again is far less: a batch whose position did not move, or, with Kafka, what a relay that
// died had sent and not noted.
const MaxRecent = 10_000

// ErrSetBack is wrapped where the log has another event at a place than a target was sent.
var ErrSetBack = errors.New("the log was set back")

// SetBack is the error about an event at a place that a target has passed, and that it does
// not have.
func SetBack(at Place, last int64) error {
	return fmt.Errorf("%w: the event at %s/%d is not the one that was sent, and what was sent goes up to offset %d",
		ErrSetBack, at.Log, at.Offset, last)
}

// Recent are the last events of one Log that a target has: by it, an event that comes again
// is told from one that is due. It is not safe for concurrent use.
//
// An event that is known is not due. One that is not known is due beyond the last offset,
// and before it where none is known of its offset: the target did not want that event when
// it came first. Anything else means that the log was set back, or that what is remembered
// does not reach back to that event: Due refuses to guess.
type Recent struct {
	keep  int
	known map[string]struct{} // the ids
	taken map[int64]int       // how many there are of an offset
	order []Sent              // by offset, and by id
}

// Sent is an event that a target has. The offset of one that came late is that of the last
// one before it.
type Sent struct {
	ID     string `json:"id"`
	Offset int64  `json:"offset"`
}

// NewRecent returns an empty memory for so many events.
func NewRecent(keep int) *Recent {
	return &Recent{keep: keep, known: map[string]struct{}{}, taken: map[int64]int{}}
}

// last is the highest offset, -1 where there is none.
func (r *Recent) last() int64 {
	if len(r.order) == 0 {
		return -1
	}
	return r.order[len(r.order)-1].Offset
}

// Due reports whether an event is to be sent. late is as in IsLate.
func (r *Recent) Due(id string, at Place, late bool) (bool, error) {
	if _, known := r.known[id]; known {
		return false, nil
	}
	if late || at.Offset > r.last() {
		return true, nil
	}
	if r.taken[at.Offset] > 0 || len(r.order) >= r.keep && at.Offset < r.order[0].Offset {
		return false, SetBack(at, r.last())
	}
	return true, nil
}

// Add notes that the target has an event.
func (r *Recent) Add(id string, offset int64, late bool) {
	if _, known := r.known[id]; known {
		return
	}
	if late {
		offset = r.last() // by its own it might be forgotten at once
	}
	sent := Sent{id, offset}
	r.known[id] = struct{}{}
	r.taken[offset]++
	if offset > r.last() {
		r.order = append(r.order, sent)
	} else {
		i, _ := slices.BinarySearchFunc(r.order, sent, func(a, b Sent) int {
			return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.ID, b.ID))
		})
		r.order = slices.Insert(r.order, i, sent)
	}
	if len(r.order) > r.keep {
		gone := r.order[0]
		r.order = r.order[1:]
		delete(r.known, gone.ID)
		if r.taken[gone.Offset]--; r.taken[gone.Offset] == 0 {
			delete(r.taken, gone.Offset)
		}
	}
}

// All lists what is remembered, by offset. The caller must not change it.
func (r *Recent) All() []Sent { return r.order }
