package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	leaseName = "relay"
	// leaseTime is how long a relay that died keeps the others out; it is only
	// comfort, since two relays at once do no harm.
	leaseTime = 3 * time.Second
	// relayPoll is how soon events of another process's transaction are seen;
	// those of our own wake the relay.
	relayPoll = 10 * time.Millisecond
	// relayRows and relayBytes bound what goes to a partition in one round.
	relayRows  = 2000
	relayBytes = 900_000
	// relayGrace is how long the relay goes on once it is asked to stop: it notes
	// what was sent, and sends what was committed last. Before that the note takes
	// what it takes: to give up, and send the same again, would never end on a
	// machine that is too slow for a limit.
	relayGrace = 1500 * time.Millisecond
)

// chainID names a chain.
type chainID struct {
	epoch  int64
	part   int32
	outbox string
}

func idOf(c store.Chain) chainID { return chainID{c.Epoch, c.Part, c.Outbox} }

// Relay moves events from the outbox to the log. Of each chain it sends one
// batch, waits until it is acknowledged, and only then the next; what fails is
// sent again. So the log of a partition never holds a later number before an
// earlier one, whatever fails, and repeats are dropped by their consumers.
//
// One relay works at a time per database, by a lease; overlap is harmless.
type Relay struct {
	db       *store.Store
	broker   Broker
	topology *Topology
	owner    string
	log      *slog.Logger
	wake     chan struct{}

	// marking is done when a stop waits no longer for the note of what was sent.
	marking context.Context
	// seen is how far this relay knows each chain to be sent.
	seen map[chainID]int64
	// ready says that the chains were held against the log since the lease was
	// taken.
	ready bool

	mu      sync.Mutex
	trouble error
	busy    time.Time // since when the outbox has not been empty; zero while it is
}

func newRelay(db *store.Store, broker Broker, topology *Topology, owner string, log *slog.Logger) *Relay {
	return &Relay{db: db, broker: broker, topology: topology, owner: owner,
		log: log.With("component", "relay"), wake: make(chan struct{}, 1), marking: context.Background(), seen: map[chainID]int64{}}
}

// Wake says that a transaction with events was committed.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// Run works until ctx is done.
func (r *Relay) Run(ctx context.Context) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 20*time.Millisecond, 2*time.Second
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(relayGrace, cancel) })()
	r.marking = last
	var renewed time.Time
	for ctx.Err() == nil {
		held := true
		var err error
		if !r.ready || time.Since(renewed) > leaseTime/3 {
			if held, err = r.takeLease(ctx); held && err == nil {
				renewed = time.Now()
			}
		}
		more := false
		if err == nil && held {
			more, err = r.round(ctx)
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
			r.wait(ctx, leaseTime/3, nil)
		case !more:
			pauses.Reset()
			r.wait(ctx, relayPoll, r.wake)
		}
	}
	// What was committed last should not have to wait for the next start.
	held, err := r.takeLease(last)
	for more := held && err == nil; more && last.Err() == nil; {
		if more, err = r.round(last); err != nil {
			r.log.Info("some events stay in the outbox until the next start", "error", err)
			break
		}
	}
	if err := r.db.ReleaseLease(last, leaseName, r.owner); err != nil {
		r.log.Debug("releasing the lease failed; it ends by itself", "error", err)
	}
}

// takeLease takes or renews the lease, and looks at what may have changed before
// anything is sent.
func (r *Relay) takeLease(ctx context.Context) (held bool, err error) {
	if held, err = r.db.AcquireLease(ctx, leaseName, r.owner, leaseTime); err != nil || !held {
		r.ready = false
		return held, err
	}
	// Numbers of a topic's chains must not go to another incarnation.
	if err := r.topology.Refresh(ctx); err != nil {
		return true, err
	}
	if r.ready {
		return true, nil
	}
	// A new tenure: another relay, or another state of the database, may have been
	// before us.
	if err := r.topology.reconcile(ctx); err != nil {
		return true, err
	}
	clear(r.seen)
	r.ready = true
	return true, nil
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

// round sends one batch of each chain that has something to send, and reports
// whether there may be more.
func (r *Relay) round(ctx context.Context) (more bool, err error) {
	pending, err := r.db.Pending(ctx)
	r.setBusy(len(pending) > 0)
	if err != nil || len(pending) == 0 {
		r.setTrouble(err)
		return false, err
	}
	var from, to []store.Chain
	var batches []PartitionBatch
	var errs, stuck []error
	defer func() { r.setTrouble(errors.Join(append(stuck, err)...)) }()
	for _, chain := range pending {
		topic, known := r.topology.atEpoch(chain.Epoch)
		if !known {
			if err := r.carryOver(ctx, chain); err != nil {
				stuck = append(stuck, err) // no reason for the other chains to wait
				continue
			}
			more = true
			continue
		}
		if err := r.wentBack(chain); err != nil {
			r.ready = false // before the next round, all chains are held against the log
			stuck = append(stuck, err)
			continue
		}
		rows, err := r.db.ReadOutbox(ctx, chain.Epoch, chain.Part, chain.Sent, relayRows, relayBytes)
		if err != nil {
			return false, err
		}
		batch, last, err := outgoing(rows, chain)
		if err != nil {
			// Another relay may have been faster; if not, the next round says
			// the same. No reason for the other chains to wait.
			stuck = append(stuck, err)
			continue
		}
		if len(batch) == 0 {
			continue // another relay was faster
		}
		batches = append(batches, PartitionBatch{TopicPartition{topic, chain.Part}, batch})
		from = append(from, chain)
		chain.Sent = last
		to = append(to, chain)
		more = more || last < chain.Last
	}
	sentFrom, sentTo := from[:0], to[:0]
	for i, err := range r.broker.Send(ctx, batches) {
		if err != nil {
			errs = append(errs, fmt.Errorf("sending to %s: %w", batches[i].TopicPartition, err))
			continue
		}
		r.seen[idOf(to[i])] = to[i].Sent
		sentFrom, sentTo = append(sentFrom, from[i]), append(sentTo, to[i])
	}
	if len(sentTo) > 0 {
		// Sent is sent: let the rows go although we are asked to stop.
		err := failpoint.Hit(r.marking, failpoint.RelayAcked)
		if err == nil {
			err = r.db.MarkSent(r.marking, sentFrom, sentTo)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return more, errors.Join(errs...)
}

// carryOver brings the events of an incarnation of a topic that is gone into the
// chains of the present one.
func (r *Relay) carryOver(ctx context.Context, chain store.Chain) error {
	to, known, err := r.topology.successor(ctx, chain.Epoch)
	if err == nil && !known {
		err = errors.New("the topic is not one of this run's")
	}
	if err == nil {
		r.log.Warn("a topic was created again, or its log lost its end: events that wait for it are numbered anew",
			"topic", to.Name, "partition", chain.Part, "events", chain.Last-chain.Sent)
		err = r.db.Write(ctx, func(tx *store.Tx) error {
			return tx.CarryOver(ctx, chain, to, func(key []byte) int32 { return r.topology.partitioner(key, to.Partitions) })
		})
	}
	if err != nil {
		return fmt.Errorf("chain %d/%d has %d events for a topic that is no more: %w",
			chain.Epoch, chain.Part, chain.Last-chain.Sent, err)
	}
	return nil
}

// wentBack notices a database that was set back to an earlier state while this
// process ran: numbers it gives now are in the log already, and would be taken
// for repeats.
func (r *Relay) wentBack(chain store.Chain) error {
	id := idOf(chain)
	if seen := r.seen[id]; chain.Sent < seen {
		return fmt.Errorf("chain %d/%d was sent up to number %d, and the database says %d: it was set back, or could not note it",
			chain.Epoch, chain.Part, seen, chain.Sent)
	}
	r.seen[id] = max(r.seen[id], chain.Sent)
	return nil
}

// outgoing turns rows of a chain into the records of one batch, as many as fit,
// and returns the number of the last. The name of the chain is that of now: it
// may have been another when the rows were written.
func outgoing(rows []store.OutboxRow, chain store.Chain) ([]OutgoingRecord, int64, error) {
	after := chain.Sent
	var records []OutgoingRecord
	size := 0
	for _, row := range rows {
		if row.Seq != after+1 {
			return nil, 0, fmt.Errorf("the outbox of chain %d/%d goes from %d to %d: rows were deleted by hand?",
				row.Epoch, row.Part, after, row.Seq)
		}
		size += len(row.Key) + len(row.Headers) + len(row.Payload) + linkBytes
		if len(records) > 0 && size > relayBytes {
			break
		}
		headers, err := store.DecodeHeaders(row.Headers)
		if err != nil {
			return nil, 0, fmt.Errorf("reading row %d of chain %d/%d: %w", row.Seq, row.Epoch, row.Part, err)
		}
		headers = append(headers, Link{chain.Outbox, row.Seq}.headers()...)
		records = append(records, OutgoingRecord{Key: row.Key, Headers: headers, Value: row.Payload})
		after = row.Seq
	}
	return records, after, nil
}

func (r *Relay) setBusy(busy bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !busy:
		r.busy = time.Time{}
	case r.busy.IsZero():
		r.busy = time.Now()
	}
}

// age is how long the outbox has not been empty.
func (r *Relay) age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy.IsZero() {
		return 0
	}
	return time.Since(r.busy)
}

func (r *Relay) setTrouble(err error) {
	r.mu.Lock()
	r.trouble = err
	r.mu.Unlock()
}

// Trouble is why the last round failed; nil when it did not.
func (r *Relay) Trouble() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trouble
}
