package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// A stage is looked at after pauses that double from firstLook to lastLook.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 80 * time.Millisecond
)

// numbered is how far a chain is written, or read, on one partition.
type numbered struct {
	Part     int32  `db:"part"`
	Timeline string `db:"outbox"` // of the chain
	Number   int64  `db:"number"`
}

// BehindError says that a stage did not catch up with the log in time.
type BehindError struct {
	Stage string
	cause error // of the context
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("waiting for %s to catch up with the log: %v", e.Stage, e.cause)
}

// Unwrap returns the error of the context.
func (e *BehindError) Unwrap() error { return e.cause }

// WaitCaughtUp returns once a stage has applied all events of a topic that were written
// to the outbox before it was called, by whatever process: what it does not know
// then did not exist. stage is asked at each look, since a projection may get
// another generation meanwhile. When ctx is done first, WaitCaughtUp returns a
// BehindError that wraps its error.
func WaitCaughtUp(ctx context.Context, q Querier, topic schema.Topic, stage func(context.Context) (string, error)) error {
	written, err := writtenOf(ctx, q, topic)
	if err != nil {
		return err
	}
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		name, err := stage(ctx)
		if err != nil {
			return err
		}
		read, err := readOf(ctx, q, topic, name)
		if err != nil || caughtUp(read, written) {
			return err
		}
		select {
		case <-ctx.Done():
			return &BehindError{name, ctx.Err()}
		case <-time.After(pause):
		}
	}
}

// WaitWritten returns once the newest chain of a partition has a number. One that was
// emitted has it at once, unless the chain began again since. When ctx is done first,
// WaitWritten returns its error.
func WaitWritten(ctx context.Context, q Querier, topic schema.Topic, part int32, number int64) error {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		written, err := writtenOf(ctx, q, topic)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(written, func(n numbered) bool { return n.Part == part && n.Number >= number }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for number %d of %s/%d: %w", number, topic, part, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// IsBehind reports whether a stage has yet to apply what was written to a topic
// through the outbox.
func IsBehind(ctx context.Context, q Querier, topic schema.Topic, stage string) (bool, error) {
	written, err := writtenOf(ctx, q, topic)
	if err != nil {
		return false, err
	}
	read, err := readOf(ctx, q, topic, stage)
	return !caughtUp(read, written), err
}

// newestEpoch: a topic that was created again has a chain of its own.
const newestEpoch = `(SELECT MAX(epoch) FROM topics WHERE name = $1)`

func writtenOf(ctx context.Context, q Querier, topic schema.Topic) (written []numbered, err error) {
	err = q.Select(ctx, &written, `SELECT part, outbox, last AS number FROM chains WHERE epoch = `+newestEpoch, topic)
	if err != nil {
		err = fmt.Errorf("reading how far %s is written: %w", topic, err)
	}
	return written, err
}

func readOf(ctx context.Context, q Querier, topic schema.Topic, stage string) (read []numbered, err error) {
	if err = q.Select(ctx, &read, `SELECT part, chain_outbox AS outbox, chain_seq AS number FROM positions WHERE topic = $1 AND stage = $2
		AND topic_id = (SELECT topic_id FROM topics WHERE epoch = `+newestEpoch+`)`, topic, stage); err != nil {
		return nil, fmt.Errorf("reading how far %s is: %w", stage, err)
	}
	for i, r := range read {
		read[i].Number = storedLink(r.Timeline, r.Number).Seq
	}
	return read, nil
}

func caughtUp(read, written []numbered) bool {
	at := map[int32]numbered{}
	for _, r := range read {
		at[r.Part] = r
	}
	for _, w := range written {
		// Numbers of different names say nothing about each other.
		if r := at[w.Part]; w.Number > 0 && (r.Timeline != w.Timeline || r.Number < w.Number) {
			return false
		}
	}
	return true
}
