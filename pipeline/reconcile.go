package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
// older than the log: it was restored from a copy, or it is another one. Numbers
// given again would be taken for repeats, so those chains get another name. The
// records of the later state stay in the log, under a name whose end is known
// now; stages halt at the first of them. After a failover, which PostgreSQL shows
// by its timeline, all chains get another name, since the server that was left
// may still give numbers.
func (t *Topology) reconcile(ctx context.Context) error {
	moved, err := t.db.Moved(ctx)
	if err != nil {
		return err
	}
	ends, err := t.tails(ctx)
	if err != nil {
		return fmt.Errorf("holding the database against the log: %w", err)
	}
	if err := t.haltBeyond(ctx, ends); err != nil {
		return err
	}
	// After the log, so that what other processes publish meanwhile is known.
	known, err := store.KnownChains(ctx, t.db)
	if err != nil {
		return err
	}
	return t.db.Write(ctx, func(tx *store.Tx) error {
		for _, name := range t.names {
			topic, _ := t.topic(name)
			for part := range topic.Partitions {
				tail := ends[TopicPartition{name, part}]
				written := writtenAs(known, name, part, tail.link.Outbox)
				older := tail.link != Link{} && tail.link.Seq > written.Last
				if !older && !moved {
					continue
				}
				inLog := int64(0)
				if written.Current {
					inLog = tail.link.Seq
				}
				if err := tx.RenewChain(ctx, topic.Epoch, part, inLog); err != nil {
					return err
				}
			}
		}
		return tx.Settle(ctx)
	})
}

// tail is the end of a partition, with the last link found there.
type tail struct {
	OffsetRange
	link Link
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
				link, err := t.lastLink(ctx, tp, held)
				mu.Lock()
				defer mu.Unlock()
				tails[tp] = tail{held, link}
				return err
			})
		}
	}
	return tails, group.Wait()
}

// lastLink is the last link in a partition, or the zero one.
func (t *Topology) lastLink(ctx context.Context, tp TopicPartition, held OffsetRange) (last Link, err error) {
	to := held.End
	for _, n := range tailRecords {
		from := max(held.Oldest, held.End-n)
		if from == to {
			return last, nil
		}
		err := t.broker.Read(ctx, tp, from, to, func(records []Record) error {
			for _, r := range records {
				// One that cannot be read is no link: its stage will say so.
				link, _, err := linkOf(r.Headers)
				// A late repeat may lie behind a higher number.
				if err == nil && link != (Link{}) && (link.Outbox != last.Outbox || link.Seq > last.Seq) {
					last = link
				}
			}
			return nil
		})
		if err != nil || last != (Link{}) {
			return last, err
		}
		to = from
	}
	return Link{}, nil
}

// haltBeyond halts the stages whose position lies behind the end of the log.
func (t *Topology) haltBeyond(ctx context.Context, ends map[TopicPartition]tail) error {
	positions, err := store.Positions(ctx, t.db, "")
	if err != nil {
		return err
	}
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

// writtenAs is what this database wrote to a partition under a name; zero where
// it never used it.
func writtenAs(known []store.KnownChain, topic schema.Topic, part int32, outbox string) store.KnownChain {
	for _, chain := range known {
		if chain.Topic == string(topic) && chain.Part == part && chain.Outbox == outbox {
			return chain
		}
	}
	return store.KnownChain{}
}
