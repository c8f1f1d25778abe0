package table

import (
	"sync"

	"github.com/pricemill/pricemill/pipeline/store"
)

// ends is how far the partitions of the log are known to reach.
type ends struct {
	mu      sync.Mutex
	last    map[place]int64
	changed chan struct{}
}

func newEnds() *ends { return &ends{last: map[place]int64{}, changed: make(chan struct{})} }

// raise notes that partitions reach at least as far as these chains.
func (e *ends) raise(chains ...store.Chain) {
	e.mu.Lock()
	defer e.mu.Unlock()
	raised := false
	for _, c := range chains {
		if p := (place{c.Epoch, c.Part}); c.Last > e.last[p] {
			e.last[p], raised = c.Last, true
		}
	}
	if raised {
		close(e.changed)
		e.changed = make(chan struct{})
	}
}

// of is how far places reach, and a channel that is closed when any partition grows.
func (e *ends) of(places []place) ([]int64, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	lasts := make([]int64, len(places))
	for i, p := range places {
		lasts[i] = e.last[p]
	}
	return lasts, e.changed
}
