package engine

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Bound is a place in the log of a topic: an offset, which is that of another
// record on each partition, or a moment.
type Bound struct {
	// Offset counts where Moment is zero.
	Offset int64
	// Moment stands for the first record of each partition whose timestamp is at
	// or after it. It is of 1970 at the earliest, which is where the log's time
	// begins.
	Moment time.Time
}

// ErrBound says that a text is no place in the log.
var ErrBound = errors.New("neither an offset nor a time")

// ParseBound reads an offset (1200), a time (2026-03-01T09:30:00Z), or how long
// ago (90m), counted from now.
func ParseBound(text string, now time.Time) (Bound, error) {
	if offset, err := strconv.ParseUint(text, 10, 63); err == nil {
		return Bound{Offset: int64(offset)}, nil
	}
	if moment, err := time.Parse(time.RFC3339, text); err == nil {
		return Bound{Moment: sinceEpoch(moment)}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return Bound{Moment: sinceEpoch(now.Add(-ago))}, nil
	}
	return Bound{}, fmt.Errorf("%w: %q is not like 1200, 2026-03-01T09:30:00Z or 90m", ErrBound, text)
}

func sinceEpoch(moment time.Time) time.Time {
	if epoch := time.Unix(0, 0); moment.Before(epoch) {
		moment = epoch
	}
	return moment.UTC()
}

// IsMoment says whether the bound is a moment, and not an offset.
func (b Bound) IsMoment() bool { return !b.Moment.IsZero() }

// Before says whether b lies before other on every partition. Of an offset and a
// moment, only the log knows.
func (b Bound) Before(other Bound) bool {
	if b.IsMoment() != other.IsMoment() {
		return false
	}
	return b.Offset < other.Offset || b.Moment.Before(other.Moment)
}

// String is what ParseBound reads, at any time.
func (b Bound) String() string {
	if b.IsMoment() {
		return b.Moment.Format(time.RFC3339Nano)
	}
	return strconv.FormatInt(b.Offset, 10)
}
