package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// outgoingBatch is what is to be sent of a chain.
type outgoingBatch struct {
	log.PartitionBatch
	sent store.Sent // what is true once it is acknowledged
	more bool       // there is more of the chain
	read bool       // from the outbox
}

// batch makes the next batch of a chain from the rows that follow what was sent. A fault
// of a row ends it; where that is not the first row, there is a batch as well.
func (r *Relay) batch(topic schema.Topic, of store.Chain, rows []store.OutboxRow) (outgoingBatch, error) {
	records, err := outgoing(rows, of, r.sent[idOf(of)])
	if len(records) == 0 {
		return outgoingBatch{}, err
	}
	last := rows[len(records)-1]
	return outgoingBatch{
		PartitionBatch: log.PartitionBatch{TopicPartition: pipeline.TopicPartition{Topic: topic, Partition: of.Part}, Records: records},
		sent:           store.Sent{Chain: of, Now: last.Seq, Headers: last.Headers}, more: last.Seq < of.Last}, err
}

// next makes one batch of each of these chains, of what was handed over, and of what is in
// the outbox where that does not follow. The faults are those of chains that the others
// need not wait for.
func (r *Relay) next(ctx context.Context, waiting []store.Chain) (batches []outgoingBatch, stuck []error, err error) {
	add := func(chain store.Chain, rows []store.OutboxRow, read bool) {
		topic, _ := r.topics.AtEpoch(chain.Epoch)
		batch, err := r.batch(topic, chain, rows)
		if err != nil {
			// Another relay may have been faster; if not, the next round says the same.
			stuck = append(stuck, err)
		}
		if len(batch.Records) > 0 {
			batch.read = read
			batches = append(batches, batch)
		}
	}
	var unknown []store.Chain
	var behind []store.Behind
	for _, chain := range waiting {
		id := idOf(chain)
		if rows, _ := r.handover.after(id, r.sent[id]); len(rows) > 0 {
			add(chain, rows, false)
			r.own[id] = time.Now()
			continue
		}
		if time.Since(r.own[id]) > othersWrite {
			r.foreign = time.Now() // not only committed just now, and about to be handed over
		}
		after := store.Behind{Epoch: chain.Epoch, Part: chain.Part, After: r.sent[id]}
		if _, waits := r.acked[id]; waits {
			after.After-- // the last one that was sent must still be there
		}
		unknown, behind = append(unknown, chain), append(behind, after)
	}
	if len(unknown) == 0 {
		return batches, stuck, nil
	}
	rows, err := r.db.ReadOutbox(ctx, 1+log.BatchRecords, log.MaxEventBytes+log.BatchBytes, behind...)
	if err != nil {
		r.doubt = true
		return nil, stuck, err
	}
	for _, chain := range unknown {
		n := 0
		for n < len(rows) && rows[n].Epoch == chain.Epoch && rows[n].Part == chain.Part {
			n++
		}
		own, err := r.following(chain, rows[:n])
		rows = rows[n:]
		if err != nil {
			r.ready = false // before the next round, all chains are held against the log
			stuck = append(stuck, err)
			continue
		}
		add(chain, own, true) // nothing, where another relay was faster
	}
	return batches, stuck, nil
}

// send sends batches, and reports whether there is more of one.
func (r *Relay) send(ctx context.Context, batches []outgoingBatch) (more bool, err error) {
	if len(batches) == 0 {
		return false, nil
	}
	records := make([]log.PartitionBatch, len(batches))
	for i, batch := range batches {
		records[i] = batch.PartitionBatch
		more = more || batch.more
	}
	answers := r.broker.Send(ctx, records)
	if err := failpoint.Hit(ctx, failpoint.RelayAcked); err != nil {
		return false, err
	}
	var errs []error
	for i, err := range answers {
		if err != nil {
			errs = append(errs, fmt.Errorf("sending to %s: %w", batches[i].TopicPartition, err))
			continue
		}
		if len(r.acked) == 0 {
			r.since = time.Now()
		}
		sent := batches[i].sent
		id := idOf(sent.Chain)
		r.sent[id], r.acked[id] = sent.Now, sent
	}
	return more, errors.Join(errs...)
}

// following are the rows after what was sent. Where that is not checkpointed yet, the first
// row must be the last one sent: the database may have been set back, and have given
// the number to another event.
func (r *Relay) following(chain store.Chain, rows []store.OutboxRow) ([]store.OutboxRow, error) {
	sent, waits := r.acked[idOf(chain)]
	switch {
	case !waits:
		return rows, nil
	case len(rows) == 0 || rows[0].Seq > sent.Now:
		return nil, nil // another relay checkpointed it
	case !bytes.Equal(rows[0].Headers, sent.Headers):
		return nil, fmt.Errorf("number %d of chain %d/%d is another event than the one that was sent: the database was set back",
			sent.Now, chain.Epoch, chain.Part)
	}
	return rows[1:], nil
}

// outgoing turns rows of a chain after number after into the records of one batch,
// as many as fit. They get the present timeline of the chain: it may have been another
// one when the rows were written.
func outgoing(rows []store.OutboxRow, of store.Chain, after int64) ([]log.OutgoingRecord, error) {
	var records []log.OutgoingRecord
	size := 0
	for _, row := range rows {
		if row.Seq != after+1 {
			return nil, fmt.Errorf("the outbox of chain %d/%d goes from %d to %d: rows were deleted by hand?",
				row.Epoch, row.Part, after, row.Seq)
		}
		size += rowSize(&row)
		if len(records) > 0 && size > log.BatchBytes {
			break
		}
		headers, err := store.DecodeHeaders(row.Headers)
		if err != nil {
			return nil, fmt.Errorf("reading row %d of chain %d/%d: %w", row.Seq, row.Epoch, row.Part, err)
		}
		headers = append(headers, chain.Link{Timeline: of.Timeline, Seq: row.Seq}.Headers()...)
		records = append(records, log.OutgoingRecord{Key: row.Key, Headers: headers, Value: row.Payload})
		after = row.Seq
	}
	return records, nil
}
