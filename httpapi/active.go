package httpapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// activeLimit bounds how many jobs, or streams, there are that were not stopped. It
// is safe for concurrent use.
//
// What a client starts is known to the tables only once it came through the log. So
// what this process has published counts until then, and a burst of requests does not
// pass the limit. What other processes have published counts once the tables know it.
type activeLimit struct {
	what    string // in the plural
	setting string // its name in the environment
	most    int    // negative: no limit
	// open counts those that are not stopped, and tells which of some are known.
	open func(ctx context.Context, ids []string) (open int, known []string, err error)

	turn      chan struct{} // of one
	published map[string]bool
}

func newActiveLimit(what, setting string, most int, open func(context.Context, []string) (int, []string, error)) *activeLimit {
	return &activeLimit{what: what, setting: setting, most: most, open: open,
		turn: make(chan struct{}, 1), published: map[string]bool{}}
}

// publish calls f, which publishes what starts id, unless there are too many already:
// then it returns an error with codeConflict.
func (l *activeLimit) publish(ctx context.Context, id string, f func() error) error {
	if l.most < 0 {
		return f()
	}
	if err := l.reserve(ctx, id); err != nil {
		return err
	}
	err := f()
	if err != nil {
		l.release(id)
	}
	return err
}

func (l *activeLimit) reserve(ctx context.Context, id string) error {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting to count the %s: %w", l.what, ctx.Err())
	}
	for before := -1; ; {
		waiting := slices.Collect(maps.Keys(l.published))
		open, known, err := l.open(ctx, waiting)
		if err != nil {
			return fmt.Errorf("counting the %s: %w", l.what, err)
		}
		for _, other := range known {
			delete(l.published, other)
		}
		count := open + len(l.published)
		if l.published[id] || count < l.most {
			l.published[id] = true
			return nil
		}
		// One that became known meanwhile may have been counted twice. It is known at the
		// next look, so a count is right where two agree and the second met none.
		if count == before && len(known) == 0 {
			return newError(codeConflict, "There are %d %s that are not stopped, and %s allows no more: stop one first",
				count, l.what, l.setting)
		}
		before = count
	}
}

func (l *activeLimit) release(id string) {
	l.turn <- struct{}{}
	delete(l.published, id)
	<-l.turn
}
