package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// reconcile holds the chains of the database against the log. The relay does so
// before it sends anything, since no one else writes numbers into the log.
//
// Where the log holds numbers that the database never gave, or gave to other
// events, the database is older than the log: it was restored from a copy, or
// another program wrote records with the name of one of its chains. Numbers
// given again would be taken for repeats, so all chains get another name. The
// records of the later state stay in the log, under names whose ends are known
// now; stages halt at the first of them. After a failover, which PostgreSQL shows
// by its timeline, it is the same, since the server that was left may still give
// numbers.
func (r *Relay) reconcile(ctx context.Context) error {
	// The log first: processes may be at work meanwhile, and what they publish
	// must not seem to be beyond the database.
	tails, err := r.tails(ctx)
	if err != nil {
		return fmt.Errorf("holding the database against the log: %w", err)
	}
	// What stages halted before may lie further back.
	halted, err := r.haltedLinks(ctx, map[haltedRecord]bool{})
	if err != nil {
		return fmt.Errorf("holding the database against the log: %w", err)
	}
	for tp, links := range halted {
		for link, id := range links {
			tails[tp].ids[link] = id
		}
	}
	known, err := store.KnownChains(ctx, r.db)
	if err != nil {
		return err
	}
	later, err := r.db.Moved(ctx)
	if err != nil {
		return err
	}
	var current []store.KnownChain
	for _, chain := range known {
		topic, ours := r.topics.Topic(schema.Topic(chain.Topic))
		if !ours || topic.Epoch != chain.Epoch || !chain.Current {
			continue
		}
		current = append(current, chain)
		isLater, err := r.isLater(ctx, tails[log.PartitionOfChain(chain)], chain, known)
		if err != nil {
			return err
		}
		later = later || isLater
	}
	if !later {
		return nil
	}
	// As numbers are taken, in ascending order.
	slices.SortFunc(current, func(a, b store.KnownChain) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Part, b.Part))
	})
	return r.db.Write(ctx, func(tx *store.Tx) error {
		for _, chain := range current {
			if err := tx.RenewChain(ctx, chain.Epoch, chain.Part, chain.Timeline, tails[log.PartitionOfChain(chain)].look(chain.Timeline)); err != nil {
				return err
			}
		}
		return tx.SaveServerIdentity(ctx)
	})
}

// isLater reports whether a partition was written by a later state of the database
// than the one that knows of these chains; chain is its present one.
//
// Where the name in use has never been in the log, there is nothing to be taken
// for a repeat, whatever else the log holds: it may have been given just now.
func (r *Relay) isLater(ctx context.Context, end tail, chain store.KnownChain, known []store.KnownChain) (bool, error) {
	highest := end.highest(chain.Timeline)
	if highest > chain.Given {
		return true, nil
	}
	ours := end.last == "" || slices.ContainsFunc(known, func(k store.KnownChain) bool { return k.Timeline == end.last })
	if !ours && chain.Sent > 0 || highest <= chain.Sent {
		return !ours && chain.Sent > 0, nil
	}
	// The answer for these was lost, or they are others of the same numbers.
	rows, err := r.db.ReadOutbox(ctx, int(highest-chain.Sent), 1<<30, store.Behind{Epoch: chain.Epoch, Part: chain.Part, After: chain.Sent})
	if err != nil {
		return false, err
	}
	for _, row := range rows {
		if found, err := end.look(chain.Timeline)(row); err != nil || found == store.Another {
			return true, err
		}
	}
	return false, nil
}

// tail is the end of a partition.
type tail struct {
	log.OffsetRange
	// last is the name in the last link found there, ids are the events under
	// each link.
	last string
	ids  map[chain.Link]string
}

// highest is the highest number of a name: a late repeat may lie after it.
func (t tail) highest(outbox string) int64 {
	highest := int64(0)
	for link := range t.ids {
		if link.Timeline == outbox {
			highest = max(highest, link.Seq)
		}
	}
	return highest
}

// look says what the tail has under the number of an event.
func (t tail) look(outbox string) func(store.OutboxRow) (store.InLog, error) {
	return func(row store.OutboxRow) (store.InLog, error) {
		id, there := t.ids[chain.Link{Timeline: outbox, Seq: row.Seq}]
		if !there {
			return store.Absent, nil
		}
		headers, err := store.DecodeHeaders(row.Headers)
		if err != nil {
			return store.Absent, fmt.Errorf("reading row %d of chain %d/%d: %w", row.Seq, row.Epoch, row.Part, err)
		}
		if schema.EventID(headers) != id {
			return store.Another, nil
		}
		return store.Same, nil
	}
}

// tailRecords is how far back a link is looked for. After a longer run of
// records without links, which a stream or a file may leave on raw-quotes, the
// end of the chain is not found, and believed to be what the database says. What
// one round of the relay sends is looked at in any case.
var tailRecords = []int64{log.BatchRecords, 3 * log.BatchRecords}

// tailReaders is how many partitions are looked at side by side.
const tailReaders = 8

func (r *Relay) tails(ctx context.Context) (map[pipeline.TopicPartition]tail, error) {
	var mu sync.Mutex
	tails := map[pipeline.TopicPartition]tail{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tailReaders)
	for _, name := range r.topics.Names() {
		ranges, err := r.broker.Offsets(ctx, name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("asking for the ends of %s: %w", name, err), group.Wait())
		}
		for part, held := range ranges {
			tp := pipeline.TopicPartition{Topic: name, Partition: int32(part)}
			group.Go(func() error {
				end, err := r.tail(ctx, tp, held)
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
func (r *Relay) tail(ctx context.Context, tp pipeline.TopicPartition, held log.OffsetRange) (tail, error) {
	end := tail{OffsetRange: held, ids: map[chain.Link]string{}}
	to := held.End
	for _, n := range tailRecords {
		from := max(held.Oldest, held.End-n)
		if from == to {
			break
		}
		err := r.broker.Read(ctx, tp, from, to, func(records []pipeline.Record) error {
			for _, r := range records {
				// One that cannot be read is no link: its stage will say so.
				if link, _, err := chain.LinkOf(r.Headers); err == nil && link != (chain.Link{}) {
					end.last = link.Timeline
					end.ids[link] = schema.EventID(r.Headers)
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
