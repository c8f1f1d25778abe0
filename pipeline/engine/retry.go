package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// A dead letter is retried by a process that runs its stage and has its partition:
// the plugins and settings are there. A command leaves an order in the
// database, see store.OrderRetry.
//
// The transaction of a retry fences off every consumer of the partition, as one
// that was faster would: what a lane remembers of a key lacks what the retry did. It
// forgets, and applies its batch again. So it does not matter which process retries,
// nor how many try at once.

const (
	// retryBatch is how many dead letters are retried in one transaction: each may
	// be large.
	retryBatch = 64
)

// watchLetters retries dead letters when it is told to, until ctx is done.
func (s *Stage) watchLetters(ctx context.Context) {
	defer s.buried.end()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.retries:
		}
		if err := s.retryLetters(ctx); err != nil && ctx.Err() == nil {
			s.complaints.Do(func() { s.log.Warn("retrying dead letters failed, trying again", "error", err) })
		}
	}
}

// retryLetters retries what waits on the partitions of this process. An error is
// one that no record is at fault for; its letters continue waiting.
func (s *Stage) retryLetters(ctx context.Context) error {
	places, err := store.PlacesToRetry(ctx, s.db, s.spec.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range places {
		limit := retryBatch
		for {
			n, err := s.retrySome(ctx, at, limit)
			if errors.Is(err, errSlowBisect) && limit > 1 {
				limit /= 2
				continue
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("on %s/%d: %w", at.Topic, at.Part, err))
			}
			if err != nil || n == 0 {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// retrySome retries at most limit dead letters of a partition in one transaction,
// and returns how many it found waiting; 0 where another process has the partition.
func (s *Stage) retrySome(ctx context.Context, at store.LetterPlace, limit int) (int, error) {
	tp := pipeline.TopicPartition{Topic: schema.Topic(at.Topic), Partition: at.Part}
	if _, ours := s.assigned()[tp]; !ours || ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err := s.rests(); err != nil {
		return 0, err
	}
	letters, err := store.LettersToRetry(ctx, s.db, s.spec.Name, at, limit)
	if err != nil || len(letters) == 0 {
		return 0, err
	}
	r := retry{stage: s, tp: tp, letters: letters}
	if err := r.read(ctx); err != nil {
		return 0, err
	}
	txCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limit)
	defer cancel()
	defer context.AfterFunc(s.applying, cancel)()
	// In a lane with an empty cache, which is then dropped.
	if err := NewLane().Run(txCtx, s.db, func(tx *pipeline.Tx) error { return r.apply(txCtx, tx) }); err != nil {
		s.restAfter(err)
		s.awaitReturn(ctx, err)
		return 0, err
	}
	s.forget(tp, r.retried)
	s.committed()
	r.log()
	return len(letters), nil
}

// forget has the lanes load what they know from SQL again, after a retry that made
// the position's count retried. A batch that was planned before is fenced off.
func (s *Stage) forget(tp pipeline.TopicPartition, retried int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return
	}
	if p, ours := s.session.positions[tp]; ours {
		p.Retried = max(p.Retried, retried)
		s.session.positions[tp] = p
	}
	clear(s.session.lanes)
}

// retry is one transaction of it.
type retry struct {
	stage   *Stage
	tp      pipeline.TopicPartition
	letters []store.DeadLetter
	// records are those of the letters, each with its fault, if it has one before
	// its handler sees it.
	records []pipeline.Record
	// refused says of a letter, by its id, why it is not tried.
	refused  map[int64]string
	retried  int64
	outcomes []store.Retried
}

// read makes records of the letters again, and prepares them.
func (r *retry) read(ctx context.Context) error {
	topics, err := r.stage.db.Topics(ctx)
	if err != nil {
		return err
	}
	r.records, r.refused, r.outcomes = make([]pipeline.Record, len(r.letters)), map[int64]string{}, nil
	var wanted []*pipeline.Record
	for i, l := range r.letters {
		if err := r.stage.refusesLate(); err != nil {
			r.refused[l.ID] = printable(err.Error())
			continue
		}
		topic, err := topicOfLetter(topics, l)
		if err != nil {
			r.refused[l.ID] = err.Error()
			continue
		}
		r.records[i] = r.stage.recordOf(l, topic)
		if record := &r.records[i]; record.State.Fault == nil && !record.State.Unwanted {
			wanted = append(wanted, record)
		}
	}
	preparer, ok := r.stage.spec.Handler.(pipeline.Preparer)
	if !ok {
		return nil
	}
	once := func(f func() error) error { return f() }
	return r.stage.prepareSome(ctx, once, preparer, wanted)
}

// refusesLate says why the handler can take no record late; nil where it can.
func (s *Stage) refusesLate() error {
	if h, ok := s.spec.Handler.(pipeline.Sequential); ok {
		return h.RefusesLate()
	}
	return nil
}

// topicOfLetter is the incarnation of the topic that a dead letter is of: the ids of
// its rows and events follow from it.
func topicOfLetter(topics []store.Topic, l store.DeadLetter) (store.Topic, error) {
	var found []store.Topic
	for _, t := range topics {
		if t.Name == l.Topic && t.ID == l.TopicID && (l.Epoch == 0 || t.Epoch == l.Epoch) {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		return store.Topic{}, errors.New("the log of its topic lost its end, and whether the record is from before or from since is not known, so its effects would get other ids: discard it")
	}
	return found[0], nil
}

// recordOf is the record that became a dead letter, with all but its Timestamp.
func (s *Stage) recordOf(l store.DeadLetter, topic store.Topic) pipeline.Record {
	r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.Topic(l.Topic), Partition: l.Part}, TopicID: l.TopicID, Offset: l.Offset, Key: l.Key, Value: l.Payload}
	headers, err := store.DecodeHeaders(l.Headers)
	if err != nil {
		r.State.Fault = err
		return r
	}
	r.Headers = headers
	s.decodeRecord(&r, topic)
	r.State.Late = true
	link, _, err := chain.LinkOf(r.Headers)
	if r.State.Fault == nil {
		r.State.Fault = err
	}
	if r.State.Fault == nil {
		r.State.Fault = misplaced(s.topics, &r, link)
	}
	return r
}

// apply is the inside of the transaction.
func (r *retry) apply(ctx context.Context, tx *pipeline.Tx) error {
	s := r.stage
	var err error
	if r.retried, err = tx.FenceRetry(ctx, s.spec.Name, string(r.tp.Topic), r.tp.Partition); err != nil {
		return err
	}
	held, err := tx.HoldRetries(ctx, r.letters)
	if err != nil {
		return err
	}
	plan := plan{bisectDeadline: time.Now().Add(min(s.bisectTime, s.limit/2))}
	for i, l := range r.letters {
		record := r.records[i]
		_, refused := r.refused[l.ID]
		switch waits := slices.ContainsFunc(held, func(h store.DeadLetter) bool { return h.ID == l.ID }); {
		case !waits, refused:
		case record.State.Fault != nil:
			plan.letters = append(plan.letters, record)
		case !record.State.Unwanted:
			plan.input = append(plan.input, record)
		}
	}
	if len(plan.input) > 0 {
		rows, err := s.bisect(ctx, tx, &plan, plan.input)
		if err != nil {
			return err
		}
		if err := s.outbox.Insert(ctx, tx.Tx, rows); err != nil {
			return err
		}
	}
	r.outcomes = r.outcomes[:0]
	for _, l := range held {
		o := store.Retried{Letter: l, Refused: r.refused[l.ID]}
		if at := slices.IndexFunc(plan.letters, func(f pipeline.Record) bool { return f.Offset == l.Offset && f.TopicID == l.TopicID }); at >= 0 {
			o.Failed = printable(plan.letters[at].State.Fault.Error())
		}
		r.outcomes = append(r.outcomes, o)
	}
	if err := failpoint.Hit(ctx, failpoint.StageApplied); err != nil {
		return err
	}
	return tx.EndRetries(ctx, r.outcomes)
}

// log says what became of the letters.
func (r *retry) log() {
	applied, failed, refused := 0, 0, 0
	for _, o := range r.outcomes {
		switch {
		case o.Failed != "":
			failed++
		case o.Refused != "":
			refused++
		default:
			applied++
		}
	}
	r.stage.log.Info("dead letters retried", "topic", r.tp.Topic, "partition", r.tp.Partition,
		"applied", applied, "failed", failed, "refused", refused)
}

// retryWait is how often AwaitRetry looks.
const retryWait = 50 * time.Millisecond

// AwaitRetry reads an order until it is carried out or wait is over, and returns
// what it last read: Pending is 0 where it is carried out.
func AwaitRetry(ctx context.Context, db store.Querier, id string, wait time.Duration) (store.LetterRetry, error) {
	for until := time.Now().Add(wait); ; {
		order, err := store.ReadRetry(ctx, db, id)
		if err != nil || order.Pending == 0 || time.Now().After(until) {
			return order, err
		}
		select {
		case <-ctx.Done():
			return order, ctx.Err()
		case <-time.After(retryWait):
		}
	}
}
