package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// session is what a stage knows while its partitions stay assigned.
type session struct {
	positions map[pipeline.TopicPartition]store.Position
	// names are those that the chains of each partition have had. For records
	// before ends, which were in the log when the names were read, the numbers
	// given until then limit the name in use as well: what is beyond them, the
	// database never gave.
	names, limited map[pipeline.TopicPartition]chain.Timelines
	ends           map[pipeline.TopicPartition]int64
	lanes          map[int]*Lane
	// restart ends the session.
	restart func()
}

// Assign implements Assignor: each claim starts at its position in SQL. Where
// the log is not the one the position speaks of, the stage halts there.
func (s *Stage) Assign(ctx context.Context, claims []log.Claim, restart func()) (map[pipeline.TopicPartition]int64, error) {
	s.mu.Lock()
	s.session = nil
	s.mu.Unlock()

	topics := s.topics
	if err := topics.Refresh(ctx); err != nil {
		return nil, err
	}
	if err := s.createPositions(ctx, claims); err != nil {
		return nil, err
	}
	positions, err := s.loadPositions(ctx)
	if err != nil {
		return nil, err
	}
	known, err := store.KnownChains(ctx, s.db)
	if err != nil {
		return nil, err
	}
	next := &session{positions: map[pipeline.TopicPartition]store.Position{}, ends: map[pipeline.TopicPartition]int64{},
		lanes: map[int]*Lane{}, restart: restart}
	next.setNames(known)
	starts := map[pipeline.TopicPartition]int64{}
	for _, claim := range claims {
		position, stands := positions[claim.TopicPartition]
		if !stands {
			// Its stage ended since: anyone who ends it deletes them.
			return nil, fmt.Errorf("%s of %s: %w", claim.TopicPartition, s.spec.Name, errNoPosition)
		}
		topic, _ := topics.Topic(claim.Topic)
		if topic.ID != claim.ID {
			// Rows would get the epoch of the topic that is gone.
			return nil, fmt.Errorf("topic %s is being created again: its id is %s, and was %s a moment ago", claim.Topic, topic.ID, claim.ID)
		}
		if b := halt.At(position, topic, claim); b.Kind == halt.EndLost && position.Halted == "" {
			// Unless the position has moved since the end was asked for.
			if err := topics.HaltBeyond(ctx); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("%s: %s", claim.TopicPartition, b.Reason)
		} else if b.Kind != halt.Unbroken && position.Halted == "" {
			position.Halted = b.String()
			if err := s.halt(ctx, position); err != nil {
				return nil, err
			}
		}
		next.ends[claim.TopicPartition] = claim.End
		next.positions[claim.TopicPartition] = position
		if position.Halted == "" {
			starts[claim.TopicPartition] = position.Next
		}
	}
	if err := failpoint.Hit(ctx, failpoint.StageAssigned); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.session = next
	s.mu.Unlock()
	return starts, nil
}

// errNoPosition says that a position which was just made is gone.
var errNoPosition = errors.New("someone deleted its position")

// createPositions gives partitions that this stage never saw a position at the
// start of the log.
func (s *Stage) createPositions(ctx context.Context, claims []log.Claim) error {
	fresh := make([]store.Position, len(claims))
	for i, claim := range claims {
		fresh[i] = store.Position{Stage: s.spec.Name, Topic: string(claim.Topic), Part: claim.Partition,
			TopicID: claim.ID, MovedAt: schema.NewTime(time.Now())}
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.spec.create(ctx, tx, fresh); err != nil {
			return err
		}
		return tx.ClaimPositions(ctx, schema.NewTime(time.Now()), fresh)
	})
}

// create creates positions, unless the stage has ended. It asks after the insert,
// which waits for anyone who is deleting those rows.
func (s StageSpec) create(ctx context.Context, tx *store.Tx, fresh []store.Position) error {
	if err := tx.CreatePositions(ctx, fresh); err != nil {
		return err
	}
	if h, ok := s.Handler.(Expiring); ok {
		return h.CheckAlive(ctx, tx)
	}
	return nil
}

func (s *Stage) loadPositions(ctx context.Context) (map[pipeline.TopicPartition]store.Position, error) {
	rows, err := store.Positions(ctx, s.db, s.spec.Name)
	if err != nil {
		return nil, err
	}
	return byPartition(rows), nil
}

// byPartition are the positions of one stage by their partitions.
func byPartition(rows []store.Position) map[pipeline.TopicPartition]store.Position {
	positions := make(map[pipeline.TopicPartition]store.Position, len(rows))
	for _, p := range rows {
		positions[log.PartitionOf(p)] = p
	}
	return positions
}

func (s *session) setNames(known []store.KnownChain) {
	s.names, s.limited = halt.TimelinesOf(known, false), halt.TimelinesOf(known, true)
}

// gave notes the last number that a chain has given.
func (s *session) gave(tp pipeline.TopicPartition, c store.Chain) {
	if name, known := s.limited[tp][c.Timeline]; known && name.Sent == chain.Unlimited {
		name.Given = c.Last
		s.limited[tp][c.Timeline] = name
	}
}

func (s *session) namesFor(r pipeline.Record) chain.Timelines {
	if r.Offset < s.ends[r.TopicPartition] {
		return s.limited[r.TopicPartition]
	}
	return s.names[r.TopicPartition]
}

func (s *Stage) halt(ctx context.Context, p store.Position) error {
	s.log.Error("stage halted", "topic", p.Topic, "partition", p.Part, "offset", p.Next, "reason", p.Halted)
	return s.db.Write(ctx, func(tx *store.Tx) error { return tx.HaltPosition(ctx, p) })
}

// restartIfMoved begins a new session when a halt of the present one was resolved, or a
// position set back. assigned are its positions as they were before stored was read. A
// partition without new records has no batch that would notice.
func (s *Stage) restartIfMoved(assigned, stored map[pipeline.TopicPartition]store.Position) {
	for tp, p := range assigned {
		if now := stored[tp]; p.Halted != "" && now.Halted != p.Halted || now.Next < p.Next {
			s.log.Info("a position was moved by an operator", "topic", p.Topic, "partition", p.Part)
			s.restart()
			return
		}
	}
}

// restart ends the session, if there is one.
func (s *Stage) restart() {
	s.mu.Lock()
	sess := s.session
	s.session = nil
	s.mu.Unlock()
	if sess != nil {
		sess.restart()
	}
}

// assigned are the positions of the partitions of the current session.
func (s *Stage) assigned() map[pipeline.TopicPartition]store.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil
	}
	return maps.Clone(s.session.positions)
}

// Expiring is a Handler whose stage may end, for all processes, while this one
// still runs it.
type Expiring interface {
	pipeline.Handler
	// CheckAlive returns an error where the stage has ended. It is asked in the
	// transaction that would give it positions again.
	CheckAlive(ctx context.Context, q store.Querier) error
}
