package halt

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
)

// ChainBreak is what the chain of a partition shows before a record.
type ChainBreak struct {
	pipeline.TopicPartition
	What       chain.Verdict // gap or foreign
	Last, Next chain.Link
	Offset     int64
	End        int64 // of the log
	Names      chain.Timelines
	// Sent is up to where the timeline in use is known to be in the log; unlimited where
	// Last is on another one.
	Sent int64
}

// Skip is Link.Skip, and looks ahead at a gap: what is missing may not have been
// sent yet, or come later.
func (b ChainBreak) Skip(ctx context.Context, broker log.Broker) (to chain.Link, stray bool, err error) {
	to, stray = b.Last.Skip(b.Next, b.What, b.Names)
	if b.What != chain.Gap || b.Last.Timeline != b.Next.Timeline {
		return to, stray, nil
	}
	missing := chain.Link{Timeline: b.Last.Timeline, Seq: b.Last.Seq + 1}
	stray = missing.Seq > b.Sent
	if !stray {
		stray, err = b.comesLater(ctx, broker, missing)
	}
	if stray {
		to = b.Last
	}
	return to, stray, err
}

// errFound ends reading a partition.
var errFound = errors.New("found")

func (b ChainBreak) comesLater(ctx context.Context, broker log.Broker, wanted chain.Link) (bool, error) {
	err := broker.Read(ctx, b.TopicPartition, b.Offset+1, b.End, func(records []pipeline.Record) error {
		for _, r := range records {
			if link, _, err := chain.LinkOf(r.Headers); err == nil && link == wanted {
				return errFound
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for number %d after offset %d of %s: %w", wanted.Seq, b.Offset, b.TopicPartition, err)
	}
	return false, nil
}

// StrayRun is how many records from the stray one on are stray like it, and the
// offset after them.
func (b ChainBreak) StrayRun(ctx context.Context, broker log.Broker) (n, next int64, err error) {
	err = broker.Read(ctx, b.TopicPartition, b.Offset, b.End, func(records []pipeline.Record) error {
		for _, r := range records {
			link, derived, err := chain.LinkOf(r.Headers)
			if err != nil || link == (chain.Link{}) {
				return errFound
			}
			what := b.Last.Follow(link, derived, b.Names)
			_, stray := b.Last.Skip(link, what, b.Names)
			if !stray && (what != chain.Gap || link.Timeline != b.Last.Timeline) {
				return errFound
			}
			n, next = n+1, r.Offset+1
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return n, next, err
}
