package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

const (
	// LeaseName is the lease that the relay at work holds.
	LeaseName = "relay"
	// leaseTime is how long a relay that died keeps the others out; it is only
	// comfort, since two relays at once do no harm.
	leaseTime = 3 * time.Second
	// poll is how soon events of another process's transaction are seen while others
	// write, and idlePoll how soon the first one is; those of our own are handed over.
	poll, idlePoll = 10 * time.Millisecond, 50 * time.Millisecond
	// othersWrite is how long others count as writing after they did.
	othersWrite = 2 * time.Second
	// checkpointEvery is how long the note of what was sent may wait for more: while it
	// is written, stages wait to take numbers. What was sent and not checkpointed when a
	// relay dies is sent again.
	checkpointEvery = 100 * time.Millisecond
	// grace is how long the relay continues once it is asked to stop: it notes
	// what was sent, and sends what was committed last. Before that the note takes
	// what it takes: to give up, and send the same again, would never end on a
	// machine that is too slow for a limit.
	grace = 1500 * time.Millisecond
)

// chainID names a chain.
type chainID struct {
	epoch  int64
	part   int32
	outbox string
}

func idOf(c store.Chain) chainID { return chainID{c.Epoch, c.Part, c.Timeline} }

// Relay moves events from the outbox to the log. Of each chain it sends one
// batch, waits until it is acknowledged, and only then the next; what fails is
// sent again. So the log of a partition never holds a later number before an
// earlier one, whatever fails, and repeats are dropped by their consumers.
//
// What its Writer writes is handed over in memory once it is committed, and sent where it
// follows what was sent. Whatever else there is, the relay finds in the database, which it
// looks at now and then, and at once where something is missing.
//
// One relay works at a time per database, by a lease; overlap is harmless.
type Relay struct {
	db     *store.Store
	broker log.Broker
	topics *topics.Set
	owner  string
	log    *slog.Logger

	handover *handover
	// lookedAt is when this relay began to look at the database last; zero where it has to
	// before it sends anything more. foreign is when it last found there what was not
	// handed over.
	lookedAt, foreign time.Time
	// doubt says that the database may not be what it was: what was sent last must still
	// be there before anything more is sent.
	doubt bool
	// renewed is when this relay last asked for the lease that it has.
	renewed time.Time
	// own is when events of a chain were last handed over.
	own map[chainID]time.Time

	// marking is done when a stop waits no longer for the note of what was sent.
	marking context.Context
	// sent is how far this relay knows each chain to be in the log, and checkpointed how far
	// the database was seen to say so.
	sent, checkpointed map[chainID]int64
	// acked are chains that are further in the log than the database says; since is
	// from when the first of them is.
	acked map[chainID]store.Sent
	since time.Time
	// looked are the records that haltedLinks has looked at.
	looked map[haltedRecord]bool
	// ready says that the chains were held against the log since the lease was
	// taken.
	ready bool

	mu      sync.Mutex
	trouble error
	busy    time.Time // since when the outbox has not been empty; zero while it is
	// late are the numbers that chains with waiting events had reached when this relay
	// first saw them wait, and when that was.
	late map[chainID]lateMark
}

// NewRelay returns a relay of the outbox of db, which owner names among those that might
// have its lease.
func NewRelay(db *store.Store, broker log.Broker, topics *topics.Set, owner string, log *slog.Logger) *Relay {
	return &Relay{db: db, broker: broker, topics: topics, owner: owner,
		log: log.With("component", "relay"), handover: newHandover(db.Sessions), marking: context.Background(),
		sent: map[chainID]int64{}, checkpointed: map[chainID]int64{}, acked: map[chainID]store.Sent{}, own: map[chainID]time.Time{}, looked: map[haltedRecord]bool{}}
}

// Writer returns a Writer that hands over to this relay what it has written.
func (r *Relay) Writer() Writer { return Writer{topics: r.topics, handover: r.handover} }

// Run works until ctx is done.
func (r *Relay) Run(ctx context.Context) {
	pauses := log.NewPauses()
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()
	r.marking = last
	for ctx.Err() == nil {
		held := true
		var err error
		if !r.ready || time.Since(r.renewed) > leaseTime/3 {
			held, err = r.takeLease(ctx)
		}
		more := false
		if err == nil && held {
			more, err = r.step(ctx)
		} else {
			r.setTrouble(err)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			pause := pauses.NextBackOff()
			r.log.Warn("relaying failed, trying again", "after", pause, "error", err)
			r.wait(ctx, pause, nil)
		case !held:
			r.setBusy(false) // another one's work
			r.mark(nil)
			r.wait(ctx, leaseTime/3, nil)
		case !more:
			pauses.Reset()
			r.wait(ctx, r.pause(), r.handover.wake)
		}
	}
	// What was committed last should not have to wait for the next start.
	if err := r.Drain(last); err != nil {
		r.log.Info("some events stay in the outbox, or are sent again by the next relay", "error", err)
	}
	if err := r.db.ReleaseLease(last, LeaseName, r.owner); err != nil {
		r.log.Debug("releasing the lease failed; it ends by itself", "error", err)
	}
}

// Drain takes or renews the lease and sends what was committed until now, and notes it.
// Where another relay has the lease, it leaves the events to that one. It is not for
// use while Run works.
func (r *Relay) Drain(ctx context.Context) error {
	held, err := r.takeLease(ctx)
	for more := held; more && err == nil && ctx.Err() == nil; {
		more, err = r.round(ctx)
	}
	return errors.Join(err, r.checkpoint())
}

// takeLease takes or renews the lease, and looks at what may have changed before
// anything is sent.
func (r *Relay) takeLease(ctx context.Context) (held bool, err error) {
	asked := time.Now()
	defer func() {
		if held && err == nil {
			r.renewed = asked
		}
	}()
	if held, err = r.db.AcquireLease(ctx, LeaseName, r.owner, leaseTime); err != nil || !held {
		r.ready = false
		r.handover.end()
		return held, err
	}
	// Numbers of a topic's chains must not go to another incarnation.
	if err := r.topics.Refresh(ctx); err != nil {
		return true, err
	}
	if r.ready && asked.Sub(r.renewed) >= leaseTime {
		// Another one may have had it in between, and have renamed chains.
		r.handover.begin()
		r.doubt = true
	}
	if r.ready {
		strange, err := r.strange(ctx)
		if err != nil || !strange {
			return true, err
		}
		r.ready = false
	}
	// A new tenure: another relay, or another state of the database, may have been
	// before us.
	r.handover.end()
	if err := r.reconcile(ctx); err != nil {
		return true, err
	}
	r.begin()
	return true, nil
}

// begin begins a tenure, for which nothing counts that was known before.
func (r *Relay) begin() {
	clear(r.sent)
	clear(r.checkpointed)
	clear(r.acked)
	clear(r.own)
	r.lookedAt, r.doubt = time.Time{}, false
	r.handover.begin()
	r.ready = true
}

// strange reports whether a stage has halted before a record with a number that this
// database did not send: all chains must be held against the log again.
func (r *Relay) strange(ctx context.Context) (bool, error) {
	halted, err := r.haltedLinks(ctx, r.looked)
	if err != nil || len(halted) == 0 {
		return false, err
	}
	if err := r.checkpoint(); err != nil {
		return false, err
	}
	chains, err := store.Chains(ctx, r.db)
	if err != nil {
		return false, err
	}
	for _, chain := range chains {
		topic, _ := r.topics.AtEpoch(chain.Epoch)
		for link := range halted[pipeline.TopicPartition{Topic: topic, Partition: chain.Part}] {
			if link.Timeline == chain.Timeline && link.Seq > chain.Sent {
				r.log.Warn("a stage halted before a record with a number that was not sent: looking at the ends of all chains",
					"topic", topic, "partition", chain.Part, "number", link.Seq, "sent", chain.Sent)
				return true, nil
			}
		}
	}
	return false, nil
}

func (r *Relay) wait(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

// step sends what was handed over; where it is time to, or that is not all, it is a round.
func (r *Relay) step(ctx context.Context) (more bool, err error) {
	r.doubt = r.handover.doubtful() || r.doubt
	if !r.ready || r.doubt || time.Since(r.lookedAt) >= r.pollPause() {
		return r.round(ctx)
	}
	batches, complete := r.handedOver()
	if !complete || len(batches) == 0 && r.handover.incomplete() {
		return r.round(ctx)
	}
	more, err = r.send(ctx, batches)
	err = errors.Join(err, r.checkpointIfDue())
	if err != nil {
		r.lookedAt = time.Time{}
		r.setTrouble(err)
	}
	return more, err
}

// pollPause is how long this relay does without looking at the database.
func (r *Relay) pollPause() time.Duration {
	if time.Since(r.foreign) < othersWrite {
		return poll
	}
	return idlePoll
}

// pause is how long there is nothing to do if nothing is handed over.
func (r *Relay) pause() time.Duration {
	if r.lookedAt.IsZero() {
		return poll
	}
	pause := r.pollPause() - time.Since(r.lookedAt)
	if len(r.acked) > 0 {
		pause = min(pause, checkpointEvery-time.Since(r.since))
	}
	return max(pause, time.Millisecond)
}

// handedOver are the next batches of chains that were handed over. It is not complete
// where something is missing before them, or the chain has not been met yet.
func (r *Relay) handedOver() (batches []outgoingBatch, complete bool) {
	for _, id := range r.handover.waiting() {
		sent, met := r.sent[id]
		topic, known := r.topics.AtEpoch(id.epoch)
		if !met || !known {
			return nil, false
		}
		rows, more := r.handover.after(id, sent)
		if len(rows) == 0 {
			if more {
				return nil, false
			}
			continue
		}
		of := store.Chain{Epoch: id.epoch, Part: id.part, Timeline: id.outbox, Last: rows[len(rows)-1].Seq, Sent: r.checkpointed[id]}
		batch, err := r.batch(topic, of, rows)
		if err != nil {
			return nil, false // the round says so
		}
		batch.more = batch.more || more
		batches = append(batches, batch)
		r.own[id] = time.Now()
	}
	return batches, true
}

// round looks at the database, sends one batch of each chain that has something to send,
// and reports whether there may be more. From time to time it notes what was sent.
func (r *Relay) round(ctx context.Context) (more bool, err error) {
	r.lookedAt = time.Time{}
	r.doubt = r.handover.doubtful() || r.doubt
	if r.doubt {
		if err := r.checkpoint(); err != nil {
			r.setTrouble(err)
			return false, err
		}
		r.doubt = false
	}
	handed := r.handover.waiting()
	began := time.Now()
	pending, err := r.db.Pending(ctx)
	if err != nil {
		r.doubt = true
		r.setTrouble(err)
		return false, err
	}
	r.mark(pending)
	var stuck []error
	defer func() { r.setTrouble(errors.Join(append(stuck, err)...)) }()
	var waiting []store.Chain
	for _, chain := range pending {
		if _, known := r.topics.AtEpoch(chain.Epoch); !known {
			if err := errors.Join(r.checkpoint(), r.carryOver(ctx, chain)); err != nil {
				stuck = append(stuck, err) // no reason for the other chains to wait
				continue
			}
			more = true
			continue
		}
		if err := r.detectRollback(chain); err != nil {
			r.ready = false // before the next round, all chains are held against the log
			stuck = append(stuck, err)
			continue
		}
		if r.sent[idOf(chain)] < chain.Last {
			waiting = append(waiting, chain)
		}
	}
	r.setBusy(len(waiting)+len(stuck) > 0)
	for _, id := range handed {
		if _, met := r.sent[id]; !met {
			r.handover.drop(id) // it has another name by now, or another relay sent it
		}
	}
	batches, faults, err := r.next(ctx, waiting)
	stuck = append(stuck, faults...)
	unsent := false
	if err == nil {
		unsent, err = r.send(ctx, batches)
	}
	stays := slices.ContainsFunc(batches, func(b outgoingBatch) bool { return b.read && b.more })
	if err == nil && len(stuck) == 0 && !stays {
		r.lookedAt = began
	}
	return more || unsent, errors.Join(err, r.checkpointIfDue())
}

// checkpointIfDue is checkpoint, from time to time.
func (r *Relay) checkpointIfDue() error {
	if len(r.acked) == 0 || time.Since(r.since) < checkpointEvery {
		return nil
	}
	return r.checkpoint()
}

// checkpoint tells the database how far the chains are in the log. Sent is sent: it lets the
// rows go although the relay is asked to stop.
func (r *Relay) checkpoint() error {
	sent := slices.Collect(maps.Values(r.acked))
	err := r.db.MarkSent(r.marking, sent)
	switch {
	case err == nil:
		for id, chain := range r.acked {
			r.checkpointed[id] = chain.Now
		}
		clear(r.acked)
	case errors.Is(err, store.ErrOvertaken):
		// By another relay, or because the database was set back: before the next
		// round, all chains are held against the log.
		r.ready = false
	default:
		r.doubt = true
	}
	return err
}

// carryOver brings the events of an incarnation of a topic that is gone into the
// chains of the present one.
func (r *Relay) carryOver(ctx context.Context, chain store.Chain) error {
	to, known, err := r.successor(ctx, chain.Epoch)
	if err == nil && !known {
		err = errors.New("the topic is not one of this run's")
	}
	if err == nil {
		r.log.Warn("a topic was created again, or its log lost its end: events that wait for it are numbered again",
			"topic", to.Name, "partition", chain.Part, "events", chain.Last-chain.Sent)
		err = r.db.Write(ctx, func(tx *store.Tx) error {
			return tx.CarryOver(ctx, chain, to, func(key []byte) int32 { return r.topics.Partition(to, key) })
		})
	}
	if err != nil {
		return fmt.Errorf("chain %d/%d has %d events for a topic that is no more: %w",
			chain.Epoch, chain.Part, chain.Last-chain.Sent, err)
	}
	return nil
}

// successor is the present incarnation of the topic that once had an epoch.
func (r *Relay) successor(ctx context.Context, epoch int64) (store.Topic, bool, error) {
	all, err := r.db.Topics(ctx)
	if err != nil {
		return store.Topic{}, false, err
	}
	for _, former := range all {
		if former.Epoch == epoch {
			// A look of ours may be older than the epoch.
			topic, known := r.topics.Topic(schema.Topic(former.Name))
			return topic, known && topic.Epoch > epoch, nil
		}
	}
	return store.Topic{}, false, nil
}

// detectRollback notices a database that was set back to an earlier state while this
// process ran: numbers it gives now are in the log already, and would be taken
// for repeats.
func (r *Relay) detectRollback(chain store.Chain) error {
	id := idOf(chain)
	if chain.Sent < r.checkpointed[id] || chain.Last < r.sent[id] {
		return fmt.Errorf("chain %d/%d was checkpointed as sent up to number %d, and is up to %d; the database says %d of %d: it was set back",
			chain.Epoch, chain.Part, r.checkpointed[id], r.sent[id], chain.Sent, chain.Last)
	}
	r.checkpointed[id], r.sent[id] = chain.Sent, max(r.sent[id], chain.Sent)
	if sent, waits := r.acked[id]; waits && chain.Sent < sent.Now {
		sent.Chain = chain // another relay may have moved it
		r.acked[id] = sent
	} else {
		delete(r.acked, id)
	}
	return nil
}
