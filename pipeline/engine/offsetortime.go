package engine

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// OffsetOrTime is a place in the log of a topic: an offset, which is that of another
// record on each partition, or a moment.
type OffsetOrTime struct {
	// Offset counts where Moment is zero.
	Offset int64
	// Moment stands for the first record of each partition whose timestamp is at
	// or after it. It is of 1970 at the earliest, which is where the log's time
	// begins.
	Moment time.Time
}

// ErrOffsetOrTime says that a text is no place in the log.
var ErrOffsetOrTime = errors.New("neither an offset nor a time")

// ParseOffsetOrTime reads an offset (1200), a time (2026-03-01T09:30:00Z), or how long
// ago (90m), counted from now.
func ParseOffsetOrTime(text string, now time.Time) (OffsetOrTime, error) {
	if offset, err := strconv.ParseUint(text, 10, 63); err == nil {
		return OffsetOrTime{Offset: int64(offset)}, nil
	}
	if moment, err := time.Parse(time.RFC3339, text); err == nil {
		return OffsetOrTime{Moment: sinceEpoch(moment)}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return OffsetOrTime{Moment: sinceEpoch(now.Add(-ago))}, nil
	}
	return OffsetOrTime{}, fmt.Errorf("%w: %q is not like 1200, 2026-03-01T09:30:00Z or 90m", ErrOffsetOrTime, text)
}

func sinceEpoch(moment time.Time) time.Time {
	if epoch := time.Unix(0, 0); moment.Before(epoch) {
		moment = epoch
	}
	return moment.UTC()
}

// IsMoment says whether the place is a moment, and not an offset.
func (b OffsetOrTime) IsMoment() bool { return !b.Moment.IsZero() }

// Before says whether b lies before other on every partition. Of an offset and a
// moment, only the log knows.
func (b OffsetOrTime) Before(other OffsetOrTime) bool {
	if b.IsMoment() != other.IsMoment() {
		return false
	}
	return b.Offset < other.Offset || b.Moment.Before(other.Moment)
}

// String is what ParseBound reads, at any time.
func (b OffsetOrTime) String() string {
	if b.IsMoment() {
		return b.Moment.Format(time.RFC3339Nano)
	}
	return strconv.FormatInt(b.Offset, 10)
}
