package pipeline

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// session is what a stage knows while its partitions stay assigned.
type session struct {
	positions map[TopicPartition]store.Position
	lanes     map[int]*Lane
}

// Assign implements Assignor: each claim starts at its position in SQL. Where
// the log is not the one the position speaks of, the stage halts there.
func (s *Stage) Assign(ctx context.Context, claims []Claim) (map[TopicPartition]int64, error) {
	s.mu.Lock()
	s.session = nil
	s.mu.Unlock()

	if err := s.createPositions(ctx, claims); err != nil {
		return nil, err
	}
	positions, err := s.loadPositions(ctx)
	if err != nil {
		return nil, err
	}
	next := &session{positions: map[TopicPartition]store.Position{}, lanes: map[int]*Lane{}}
	starts := map[TopicPartition]int64{}
	for _, claim := range claims {
		position := positions[claim.TopicPartition]
		if known := s.outbox.topology.topics[claim.Topic]; position.TopicID == claim.ID && known.ID != claim.ID {
			// Rows would get the epoch of the topic that is gone.
			return nil, fmt.Errorf("topic %s was created again while this process ran: restart it", claim.Topic)
		}
		if reason := s.mismatch(position, claim); reason != "" && position.Halted == "" {
			if err := s.halt(ctx, position, reason); err != nil {
				return nil, err
			}
			position.Halted = reason
		}
		next.positions[claim.TopicPartition] = position
		if position.Halted == "" {
			starts[claim.TopicPartition] = position.Next
		}
	}
	s.mu.Lock()
	s.session = next
	s.mu.Unlock()
	return starts, nil
}

// createPositions gives partitions that this stage never saw a position at the
// start of the log.
func (s *Stage) createPositions(ctx context.Context, claims []Claim) error {
	fresh := make([]store.Position, len(claims))
	for i, claim := range claims {
		fresh[i] = store.Position{Stage: s.spec.Name, Topic: string(claim.Topic), Part: claim.Partition,
			TopicID: claim.ID, MovedAt: schema.NewTime(time.Now())}
	}
	return s.db.Write(ctx, func(tx *store.Tx) error { return tx.CreatePositions(ctx, fresh) })
}

func (s *Stage) loadPositions(ctx context.Context) (map[TopicPartition]store.Position, error) {
	rows, err := store.Positions(ctx, s.db, s.spec.Name)
	if err != nil {
		return nil, err
	}
	positions := make(map[TopicPartition]store.Position, len(rows))
	for _, p := range rows {
		positions[TopicPartition{schema.Topic(p.Topic), p.Part}] = p
	}
	return positions, nil
}

// mismatch says why a stage cannot go on from a position in the log as it is.
func (s *Stage) mismatch(p store.Position, c Claim) string {
	known := s.outbox.topology.topics[c.Topic]
	switch {
	case p.TopicID != c.ID:
		return fmt.Sprintf("the topic was created again: its id is %s, and was %s", c.ID, p.TopicID)
	case known.ID == c.ID && known.Partitions != c.Partitions:
		return fmt.Sprintf("the topic has %d partitions, and had %d: keys now lie elsewhere", c.Partitions, known.Partitions)
	case p.Next < c.Oldest:
		return fmt.Sprintf("the log begins at offset %d, and the stage needs %d: %d records are gone", c.Oldest, p.Next, c.Oldest-p.Next)
	case p.Next > c.End:
		return fmt.Sprintf("the log ends at offset %d, and the stage has applied up to %d: the log lost its end", c.End, p.Next)
	}
	return ""
}

func (s *Stage) halt(ctx context.Context, p store.Position, reason string) error {
	s.log.Error("stage halted", "topic", p.Topic, "partition", p.Part, "offset", p.Next, "reason", reason)
	return s.db.Write(ctx, func(tx *store.Tx) error { return tx.HaltPosition(ctx, p, reason) })
}

// assigned are the positions of the partitions of the current session.
func (s *Stage) assigned() map[TopicPartition]store.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil
	}
	return maps.Clone(s.session.positions)
}
