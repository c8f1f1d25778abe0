//go:build failpoints

package failpoint

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Enabled says whether the binary has failpoints.
const Enabled = true

// Hits selects hits of a point by their numbers, which count from 1 since it was
// armed: First and, where Every is positive, each of its multiples after it. The
// zero value is all hits.
type Hits struct{ First, Every int }

// has reports whether hit number n is one of them.
func (h Hits) has(n int) bool {
	switch {
	case h.First == 0:
		return true
	case h.Every == 0 || n < h.First:
		return n == h.First
	}
	return (n-h.First)%h.Every == 0
}

// fault is what is done at a point.
type fault struct {
	on   Hits
	do   func(ctx context.Context, hit int) error
	seen int
}

// armed are the points that are, of the whole process.
var (
	mu    sync.Mutex
	armed = map[Point]*fault{}
)

// Hit does what the point is armed with, if anything, and returns its error.
func Hit(ctx context.Context, p Point) error {
	mu.Lock()
	f := armed[p]
	if f == nil {
		mu.Unlock()
		return nil
	}
	f.seen++
	hit := f.seen
	mu.Unlock()
	if !f.on.has(hit) {
		return nil
	}
	return f.do(ctx, hit)
}

// Arm has a point do something, in all goroutines of the process, until disarm is
// called: at some hits, whose numbers do is given. do may return an error, panic,
// or block. A point can be armed once at a time.
func Arm(p Point, on Hits, do func(ctx context.Context, hit int) error) (disarm func(), err error) {
	if !slices.Contains(All(), p) {
		return nil, fmt.Errorf("there is no failpoint %q: they are %q", p, All())
	}
	mu.Lock()
	defer mu.Unlock()
	if armed[p] != nil {
		return nil, fmt.Errorf("failpoint %s is armed already", p)
	}
	armed[p] = &fault{on: on, do: do}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		delete(armed, p)
	}, nil
}
