package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// reconcile holds the database against the log before anything is written.
//
// Where the log is shorter than a stage's position, the stage halts now: once
// new records have filled the difference, nothing would show it any more.
//
// Where the log holds numbers that the database never gave, the database is
// older than the log: it was restored from a copy. Numbers given again would be
// taken for repeats, so those chains get another name. The records of the later
// state stay in the log, under a name whose end is known now; stages halt at the
// first of them. After a failover, which PostgreSQL shows by its timeline, all
// chains get another name, since the server that was left may still give numbers.
func (t *Topology) reconcile(ctx context.Context) error {
	// Positions before the log and chains after it: other processes may be at
	// work meanwhile, and neither must seem to be beyond the other.
	positions, err := store.Positions(ctx, t.db, "")
	if err != nil {
		return err
	}
	ends, err := t.tails(ctx)
	if err != nil {
		return fmt.Errorf("holding the database against the log: %w", err)
	}
	if err := t.haltBeyond(ctx, positions, ends); err != nil {
		return err
	}
	known, err := store.KnownChains(ctx, t.db)
	if err != nil {
		return err
	}
	moved, err := t.db.Moved(ctx)
	if err != nil {
		return err
	}
	var older []store.KnownChain
	for _, chain := range known {
		if chain.Current && (moved || ends[partitionOf(chain)].isLater(chain, known)) {
			older = append(older, chain)
		}
	}
	if len(older) == 0 && !moved {
		return nil
	}
	return t.renew(ctx, older, ends)
}

// renew gives chains another name, unless a relay is at work: what it has in
// flight would come a second time under the new name. Its process has looked at
// the log when it started.
func (t *Topology) renew(ctx context.Context, chains []store.KnownChain, ends map[TopicPartition]tail) error {
	owner, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("naming this process: %w", err)
	}
	// One that died keeps the lease for a while.
	held := false
	for waited := time.Duration(0); !held && waited < leaseTime+time.Second; waited += renewPause {
		if held, err = t.db.AcquireLease(ctx, leaseName, owner.String(), leaseTime); err != nil {
			return err
		}
		if !held {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(renewPause):
			}
		}
	}
	if !held {
		return nil
	}
	err = t.db.Write(ctx, func(tx *store.Tx) error {
		for _, chain := range chains {
			if err := tx.RenewChain(ctx, chain.Epoch, chain.Part, chain.Outbox, ends[partitionOf(chain)].highest[chain.Outbox]); err != nil {
				return err
			}
		}
		return tx.Settle(ctx)
	})
	return errors.Join(err, t.db.ReleaseLease(ctx, leaseName, owner.String()))
}

// renewPause lies between two attempts to take the lease.
const renewPause = 200 * time.Millisecond

func partitionOf(chain store.KnownChain) TopicPartition {
	return TopicPartition{schema.Topic(chain.Topic), chain.Part}
}

// tail is the end of a partition.
type tail struct {
	OffsetRange
	// last is the name in the last link found there, highest the highest number
	// of each name.
	last    string
	highest map[string]int64
}

// isLater reports whether the log was written by a later state of the database
// than the one that knows of these chains. The first is the partition's present
// one.
//
// Where the name in use has never been in the log, there is nothing to be taken
// for a repeat, whatever else the log holds: it may have been given just now.
func (t tail) isLater(chain store.KnownChain, known []store.KnownChain) bool {
	if t.highest[chain.Outbox] > chain.Last {
		return true
	}
	ours := t.last == "" || slices.ContainsFunc(known, func(k store.KnownChain) bool { return k.Outbox == t.last })
	return !ours && chain.Sent > 0
}

// tailRecords is how far back a link is looked for. Behind a longer run of
// records without links, which a stream or a file may leave on raw-quotes, the
// end of the chain is not found, and believed to be what the database says.
var tailRecords = []int64{8, 512, 5000}

// tailReaders is how many partitions are looked at side by side.
const tailReaders = 8

func (t *Topology) tails(ctx context.Context) (map[TopicPartition]tail, error) {
	var mu sync.Mutex
	tails := map[TopicPartition]tail{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tailReaders)
	for _, name := range t.names {
		ranges, err := t.broker.Offsets(ctx, name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("asking for the ends of %s: %w", name, err), group.Wait())
		}
		for part, held := range ranges {
			tp := TopicPartition{name, int32(part)}
			group.Go(func() error {
				end, err := t.tail(ctx, tp, held)
				mu.Lock()
				defer mu.Unlock()
				tails[tp] = end
				return err
			})
		}
	}
	return tails, group.Wait()
}

// tail reads back from the end of a partition until it finds a link.
func (t *Topology) tail(ctx context.Context, tp TopicPartition, held OffsetRange) (tail, error) {
	end := tail{OffsetRange: held, highest: map[string]int64{}}
	to := held.End
	for _, n := range tailRecords {
		from := max(held.Oldest, held.End-n)
		if from == to {
			break
		}
		err := t.broker.Read(ctx, tp, from, to, func(records []Record) error {
			for _, r := range records {
				// One that cannot be read is no link: its stage will say so.
				if link, _, err := linkOf(r.Headers); err == nil && link != (Link{}) {
					end.last = link.Outbox
					// A late repeat may lie behind a higher number.
					end.highest[link.Outbox] = max(end.highest[link.Outbox], link.Seq)
				}
			}
			return nil
		})
		if err != nil || end.last != "" {
			return end, err
		}
		to = from
	}
	return end, nil
}

// haltBeyond halts the stages whose position lies behind the end of the log.
func (t *Topology) haltBeyond(ctx context.Context, positions []store.Position, ends map[TopicPartition]tail) error {
	for _, p := range positions {
		name := schema.Topic(p.Topic)
		topic, known := t.topic(name)
		end, there := ends[TopicPartition{name, p.Part}]
		if !known || !there || p.Halted != "" || p.TopicID != topic.ID || p.Next <= end.End {
			continue
		}
		b := breakAt(p, topic, Claim{TopicPartition{name, p.Part}, TopicInfo{topic.ID, topic.Seen}, end.OffsetRange})
		if err := t.db.Write(ctx, func(tx *store.Tx) error { return tx.HaltPosition(ctx, p, b.String()) }); err != nil {
			return err
		}
	}
	return nil
}
