package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// transactionLimit is the default of Config.TransactionLimit.
const transactionLimit = 30 * time.Second

// attempt applies records in one transaction: all of them, or, where it bisects, all
// but those that the handler refuses.
func (s *Stage) attempt(ctx context.Context, batch *log.Batch, records []pipeline.Record, bisect bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.rests(); err != nil {
		return err
	}
	sess := s.current()
	if sess == nil {
		return fmt.Errorf("stage %s: the session has ended", s.spec.Name)
	}
	plan := s.plan(sess, records)
	if s.leaveToFence(sess, &plan) {
		if err := s.transact(ctx, sess, batch, plan, bisect); !errors.Is(err, store.ErrFenced) {
			return err
		}
		plan = s.plan(sess, records)
	}
	plan, err := s.checkGiven(ctx, sess, records, plan)
	if err != nil || len(plan.moves) == 0 {
		return err
	}
	return s.transact(ctx, sess, batch, plan, bisect)
}

// transact does in one transaction what was planned. Where the plan left something to
// the fence, it leaves what an ErrFenced means to its caller.
func (s *Stage) transact(ctx context.Context, sess *session, batch *log.Batch, plan plan, bisect bool) error {
	// After the plan: a retry in between has the plan fenced off, and the lane forget.
	lane := s.lane(sess, batch.Lane)
	// The router cancels the context of a message as soon as it stops; a
	// transaction under way is better finished, within reason.
	txCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limit)
	defer cancel()
	defer context.AfterFunc(s.applying, cancel)()
	began := time.Now()
	if bisect {
		plan.bisectDeadline = began.Add(min(s.bisectTime, s.limit/2))
	}
	err := lane.Run(txCtx, s.db, func(tx *pipeline.Tx) error {
		if s.worked != nil {
			defer func(began time.Time) { s.worked(time.Since(began)) }(time.Now())
		}
		if err := s.rests(); err != nil {
			return err
		}
		plan.published.end(errRolledBack) // of a run before this one
		plan.published = nil
		return s.apply(txCtx, tx, &plan)
	})
	plan.published.end(err)
	if plan.leftToFence && errors.Is(err, store.ErrFenced) {
		return err
	}
	if err != nil {
		s.restAfter(err)
		err = s.recover(txCtx, sess, batch, plan, err)
		if bisect && errors.Is(txCtx.Err(), context.DeadlineExceeded) {
			return pipeline.Permanent(fmt.Errorf("%w: %w", errSlowBisect, err))
		}
		return err
	}
	if s.tracer == nil {
		s.metrics.transaction.Observe(time.Since(began).Seconds())
	} else {
		pipeline.Observe(ctx, s.metrics.transaction, time.Since(began).Seconds())
		s.traceLetters(ctx, plan.letters)
	}
	s.metrics.deadLetters.Add(float64(len(plan.letters)))
	s.buried.add(time.Now(), plan.letters)
	s.advance(sess, batch, plan)
	s.committed()
	return nil
}

// leaveToFence has the fence see whether the database has given what the session does
// not know of, if that is all that is open: it asks after the records were read, as
// checkGiven does, and costs no statement.
func (s *Stage) leaveToFence(sess *session, p *plan) bool {
	if p.broken || s.topics.InDatabase() != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.moves {
		m := &p.moves[i]
		if !sess.beyond(*m) {
			continue
		}
		topic, known := s.topics.Topic(log.PartitionOf(m.From).Topic)
		if !known {
			return false
		}
		m.Epoch = topic.Epoch
		p.leftToFence = true
	}
	return p.leftToFence
}

// checkGiven plans again by what the database has given by now, where the chain is
// broken or goes beyond the last number that the session knows of. It asks after the
// records were read: what the database had not given then, it did not write.
func (s *Stage) checkGiven(ctx context.Context, sess *session, records []pipeline.Record, p plan) (plan, error) {
	if !p.broken {
		if s.topics.InDatabase() != nil {
			return p, nil // no other database writes to that log
		}
		chains, err := store.ChainsAt(ctx, s.db, s.beyondGiven(sess, p.moves))
		if err != nil {
			return plan{}, err
		}
		s.mu.Lock()
		for _, chain := range chains {
			topic, _ := s.topics.AtEpoch(chain.Epoch)
			sess.gave(pipeline.TopicPartition{Topic: topic, Partition: chain.Part}, chain)
		}
		s.mu.Unlock()
		if len(s.beyondGiven(sess, p.moves)) == 0 {
			return p, nil
		}
	}
	// Chains may have got other names while the session continued.
	known, err := store.KnownChains(ctx, s.db)
	if err != nil {
		return plan{}, err
	}
	s.mu.Lock()
	sess.setNames(known)
	for _, r := range records {
		sess.ends[r.TopicPartition] = max(sess.ends[r.TopicPartition], r.Offset+1)
	}
	s.mu.Unlock()
	return s.plan(sess, records), nil
}

// beyondGiven are the chains of which a plan goes beyond the last number that the
// session knows of.
func (s *Stage) beyondGiven(sess *session, moves []store.Move) (beyond []store.Chain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range moves {
		if sess.beyond(m) {
			tp := log.PartitionOf(m.From)
			topic, _ := s.topics.Topic(tp.Topic)
			beyond = append(beyond, store.Chain{Epoch: topic.Epoch, Part: tp.Partition})
		}
	}
	return beyond
}

// beyond reports whether a move goes beyond the last number of its chain that the
// session knows of. It is called with the stage's lock held.
func (s *session) beyond(m store.Move) bool {
	name, known := s.limited[log.PartitionOf(m.From)][m.Reached.Timeline]
	return known && name.Sent == chain.Unlimited && m.Reached.Seq > name.Given
}

// current returns the current session; nil where there is none.
func (s *Stage) current() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// lane returns a lane of a session.
func (s *Stage) lane(sess *session, number int) *Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lane, ok := sess.lanes[number]
	if !ok {
		lane = NewLane()
		sess.lanes[number] = lane
	}
	return lane
}

// apply is the inside of the transaction: the fence first, so that of two
// consumers of a partition one fails before it has done anything.
func (s *Stage) apply(ctx context.Context, tx *pipeline.Tx, plan *plan) error {
	now := schema.NewTime(time.Now())
	if err := tx.MovePositions(ctx, now, plan.moves); err != nil {
		return err
	}
	var rows []store.OutboxRow
	var err error
	switch {
	case len(plan.input) == 0:
	case plan.bisectDeadline.IsZero():
		rows, err = s.effects(ctx, tx, plan.input, &plan.published)
	default:
		rows, err = s.bisect(ctx, tx, plan, plan.input)
	}
	if err != nil {
		return err
	}
	if s.strict && len(plan.letters) > 0 {
		r := plan.letters[0]
		return fmt.Errorf("%w at offset %d of %s: %w", ErrPoison, r.Offset, r.TopicPartition, r.State.Fault)
	}
	if len(plan.letters) > 0 {
		if err := tx.AddDeadLetters(ctx, deadLetters(s.spec.Name, now, plan.letters)); err != nil {
			return err
		}
	}
	if len(plan.input) == 0 {
		return nil
	}
	if err := s.outbox.Insert(ctx, tx.Tx, rows); err != nil {
		return err
	}
	return failpoint.Hit(ctx, failpoint.StageApplied)
}

// effects runs the handler over records, and returns what is to go into the outbox. It
// adds the spans of events to those that end with the transaction.
func (s *Stage) effects(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record, spans *published) ([]store.OutboxRow, error) {
	events, err := s.handle(ctx, tx, in)
	if err != nil {
		var data *store.DataError
		if errors.As(err, &data) {
			return nil, pipeline.Permanent(err)
		}
		return nil, err
	}
	if err := checkDeclared("stage "+s.spec.Name, s.spec.Produces, events); err != nil {
		return nil, pipeline.Permanent(err)
	}
	if s.published != nil {
		events = slices.DeleteFunc(events, func(e schema.Event) bool { return s.published(e.ID) })
	}
	if s.tracer != nil {
		var begun published
		events, begun = publish(ctx, s.tracer, events)
		*spans = append(*spans, begun...)
	}
	return s.outbox.Rows(events, true)
}

// guard turns a panic into an error of the record that caused it.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = pipeline.Permanent(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	return f()
}

// ErrPoison says that a record cannot be applied, where none may be left out.
var ErrPoison = errors.New("a record that cannot be applied")

// isRecordFault reports a permanent error that is not already ErrPoison.
func isRecordFault(err error) bool { return pipeline.IsPermanent(err) && !errors.Is(err, ErrPoison) }

// advance moves the session's positions to where the transaction put them.
func (s *Stage) advance(sess *session, batch *log.Batch, plan plan) {
	s.mu.Lock()
	for _, m := range plan.moves {
		tp := log.PartitionOf(m.From)
		delete(s.stuck, tp) // its records come
		p := m.From
		p.Next, p.Reached, p.Halted = m.Next, m.Reached, m.Halted
		sess.positions[tp] = p
	}
	s.mu.Unlock()
	for _, m := range plan.moves {
		if m.Halted != "" {
			s.log.Error("stage halted", "topic", m.From.Topic, "partition", m.From.Part, "offset", m.Next, "reason", m.Halted)
			batch.Pause(log.PartitionOf(m.From))
		}
	}
}

// recover looks at SQL after a failed transaction: it may have been committed
// without an answer, or another consumer may have been faster. Only the
// partitions of the failed plan are touched: they are this lane's alone.
func (s *Stage) recover(ctx context.Context, sess *session, batch *log.Batch, plan plan, cause error) error {
	if isRecordFault(cause) {
		return cause
	}
	stored, err := s.loadPositions(ctx)
	if err != nil {
		return errors.Join(cause, err)
	}
	moved, behind := false, false
	var halted []pipeline.TopicPartition
	defer func() {
		for _, tp := range halted {
			batch.Pause(tp)
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range plan.moves {
		tp := log.PartitionOf(m.From)
		now, exists := stored[tp]
		moved = moved || now.Next != m.From.Next || now.Halted != m.From.Halted || now.Retried != m.From.Retried
		behind = behind || !exists || now.Next < m.From.Next
		sess.positions[tp] = now
		if now.Halted != "" {
			halted = append(halted, tp)
		}
	}
	if moved {
		// What the lane remembers stems from before the move.
		delete(sess.lanes, batch.Lane)
	}
	if behind && s.session == sess {
		// The database lost what this stage had committed, or the position was
		// set back: only a new session reads those records again.
		s.session = nil
		sess.restart()
	}
	return cause
}
