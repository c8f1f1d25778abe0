package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// chainAudit follows the chain of one partition, whatever stages make of it.
type chainAudit struct {
	*audit
	tp    pipeline.TopicPartition
	chain store.Chain // in use
	names chain.Timelines
	last  chain.Link
	// highest are the highest numbers met, by name.
	highest          map[string]int64
	records, repeats int64
	// passed is the highest position of a stage; limited are the names, each with
	// the last number given in the snapshot. A record before passed was there then.
	passed  int64
	limited chain.Timelines
}

// walkChain looks whether a chain is unbroken, continues in the outbox, and notes
// each of its events once.
func (a *audit) walkChain(ctx context.Context, tp pipeline.TopicPartition, held log.OffsetRange) error {
	c := &chainAudit{audit: a, tp: tp, chain: a.current[tp], names: a.names[tp], limited: a.limited[tp], passed: a.passed(tp),
		last: startLink(held), highest: map[string]int64{}}
	err := a.Broker.Read(ctx, tp, held.Oldest, held.End, func(records []pipeline.Record) error {
		for i := range records {
			a.deletions.record(&records[i])
			if err := c.record(ctx, &records[i], held.End); err != nil {
				return err
			}
		}
		a.Progress(len(records))
		return nil
	})
	if errors.Is(err, log.ErrDamaged) {
		a.chains.Add(1, 1, 0, err.Error())
		a.chains.NotChecked("%s: what follows the damage is not looked at", tp)
		return nil
	}
	if err != nil {
		return err
	}
	a.chains.Count("records", c.records)
	a.chains.Count("repeats", c.repeats)
	return c.outbox(ctx, held)
}

func (c *chainAudit) record(ctx context.Context, r *pipeline.Record, end int64) error {
	c.records++
	link, derived, err := chain.LinkOf(r.Headers)
	if err != nil || link == (chain.Link{}) {
		return nil // the former is a dead letter, which its stages say
	}
	names := c.names
	if r.Offset < c.passed {
		names = c.limited
	} else if link.Timeline == c.chain.Timeline && link.Seq > c.chain.Last {
		return nil // written since
	}
	what := c.last.Follow(link, derived, names)
	if what == chain.Gap && link.Seq <= c.highest[link.Timeline] {
		what = chain.Repeat // of a name before the present one, which the database does not know
	}
	if what == chain.Gap || what == chain.Foreign {
		to, stray, err := c.skip(ctx, halt.ChainBreak{TopicPartition: c.tp, What: what, Last: c.last, Next: link, Offset: r.Offset, End: end, Names: names})
		if err != nil {
			return err
		}
		c.broken(what, link, r.Offset, stray)
		if c.last = to; stray {
			return nil
		}
		what = c.last.Follow(link, derived, names)
	}
	c.highest[link.Timeline] = max(c.highest[link.Timeline], link.Seq)
	at := place{c.tp, fmt.Sprintf("offset %d", r.Offset), schema.EventID(r.Headers)}
	switch what {
	case chain.Repeat:
		c.repeats++
		if !c.index.has(keyOf(at.id)) {
			c.mu.Lock()
			c.audit.repeats = append(c.audit.repeats, at)
			c.mu.Unlock()
		}
		return nil
	case chain.Apply:
		if !chain.IsDirect(r.Headers) && !schema.IsRecordDeleted(r.Headers) {
			c.add(at, sourceOf(r.Headers), derived)
		}
	}
	c.last = c.last.Advance(link)
	return nil
}

// skip is what stages do that an operator told to skip a break.
func (a *audit) skip(ctx context.Context, b halt.ChainBreak) (chain.Link, bool, error) {
	b.Sent = chain.Unlimited
	if chain := a.current[b.TopicPartition]; chain.Timeline == b.Last.Timeline {
		b.Sent = chain.Sent
	}
	return b.Skip(ctx, a.Broker)
}

func (c *chainAudit) broken(what chain.Verdict, link chain.Link, offset int64, stray bool) {
	if stray {
		c.chains.Count("stray records", 1)
		c.chains.NotChecked("%s: there are records with numbers of chain %s out of order, as the database does not write them: stages skip them",
			c.tp, link.Timeline)
		return
	}
	if what == chain.Foreign {
		c.mu.Lock()
		c.foreign = true
		c.mu.Unlock()
		// Else the name was given since, or stages halt here, which their positions
		// say, or no stage reads the topic.
		if offset < c.passed {
			c.chains.NotChecked("%s: from offset %d on are records of chain %s, which another database wrote, or a later state of this one; "+
				"an operator had the stages continue, and it is taken that they skipped them", c.tp, offset, link.Timeline)
		}
		return
	}
	n := chain.Missing(c.last, link, c.names)
	c.chains.Add(1, n, 0, fmt.Sprintf("%s lost %d records before offset %d: the chain goes from number %d of %s to %d of %s",
		c.tp, n, offset, c.last.Seq, chain.NameOrNone(c.last.Timeline), link.Seq, link.Timeline))
}

// add notes an event.
func (c *chainAudit) add(at place, source string, derived bool) {
	stage := derivedBy(source, derived)
	switch {
	case c.index.add(at.id, stage):
		c.chains.Count("events", 1)
	case stage != "":
		c.chains.Duplicate("the %s, derived by %s, is there under another number as well", at, stage)
	case c.Repeatable(source):
		c.chains.Count("commands that came again", 1)
	default:
		c.mu.Lock()
		c.again = append(c.again, at)
		c.mu.Unlock()
	}
}

// outboxPage is how many rows of the outbox are read at once.
const outboxPage = 500

// outbox looks whether the chain continues in the outbox where the log ends.
func (c *chainAudit) outbox(ctx context.Context, held log.OffsetRange) error {
	highest := c.highest[c.chain.Timeline]
	if highest < c.chain.Sent {
		if highest == 0 && held.Oldest > 0 {
			highest = c.chain.Sent // the head is gone, and the last number with it
		} else {
			n := c.chain.Sent - highest
			c.chains.Add(1, n, 0, fmt.Sprintf("%s lost %d records at its end: number %d of %s was sent, and the log goes up to %d",
				c.tp, n, c.chain.Sent, c.chain.Timeline, highest))
		}
	}
	next := max(highest, c.chain.Sent) + 1
	for after := int64(0); ; {
		var rows []store.OutboxRow
		err := c.View.Select(ctx, &rows, `SELECT epoch, part, seq, headers FROM outbox
			WHERE epoch = $1 AND part = $2 AND seq > $3 ORDER BY seq LIMIT $4`, c.chain.Epoch, c.chain.Part, after, outboxPage)
		if err != nil {
			return fmt.Errorf("reading the outbox: %w", err)
		}
		for _, row := range rows {
			after = row.Seq
			if row.Seq >= next {
				c.lostBefore(row.Seq, next)
				next = row.Seq + 1
				c.chains.Count("events in the outbox", 1)
			}
			if err := c.waits(row, highest); err != nil {
				return err
			}
		}
		if len(rows) < outboxPage {
			break
		}
	}
	c.lostBefore(c.chain.Last+1, next)
	return nil
}

// lostBefore says that numbers are nowhere.
func (c *chainAudit) lostBefore(seq, next int64) {
	if n := seq - next; n > 0 {
		c.chains.Add(1, n, 0, fmt.Sprintf("numbers %d to %d of chain %s of %s are neither in the log nor in the outbox", next, seq-1, c.chain.Timeline, c.tp))
	}
}

// waits notes an event of the outbox; up to number inLog it is in the log too.
func (c *chainAudit) waits(row store.OutboxRow, inLog int64) error {
	headers, err := store.DecodeHeaders(row.Headers)
	if err != nil {
		return fmt.Errorf("reading number %d of the outbox of chain %d/%d: %w", row.Seq, row.Epoch, row.Part, err)
	}
	at := place{c.tp, fmt.Sprintf("number %d of the outbox", row.Seq), schema.EventID(headers)}
	if row.Seq <= inLog {
		if !c.index.has(keyOf(at.id)) {
			c.chains.Missing("the %s has a number that the log has for another event", at)
		}
		return nil
	}
	derived := false
	for _, h := range headers {
		derived = derived || h.Key == chain.HeaderDerived
	}
	c.add(at, sourceOf(headers), derived)
	return nil
}

// oldOutbox notes the events that wait for a topic that is gone: the relay will
// bring them to the one that took its place.
func (a *audit) oldOutbox(ctx context.Context) error {
	var old []struct {
		Epoch int64 `db:"epoch"`
		Part  int32 `db:"part"`
	}
	if err := a.View.Select(ctx, &old, `SELECT DISTINCT epoch, part FROM outbox`); err != nil {
		return fmt.Errorf("looking for what waits for topics that are gone: %w", err)
	}
	for _, o := range old {
		if _, current := a.Topics.AtEpoch(o.Epoch); current {
			continue
		}
		var rows []store.OutboxRow
		if err := a.View.Select(ctx, &rows, `SELECT epoch, part, seq, headers FROM outbox WHERE epoch = $1 AND part = $2`, o.Epoch, o.Part); err != nil {
			return fmt.Errorf("reading the outbox of chain %d/%d: %w", o.Epoch, o.Part, err)
		}
		c := &chainAudit{audit: a, tp: pipeline.TopicPartition{Topic: "a topic that is gone", Partition: o.Part}}
		for _, row := range rows {
			a.chains.Count("events in the outbox", 1)
			if err := c.waits(row, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
