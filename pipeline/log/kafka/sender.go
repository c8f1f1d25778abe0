package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
)

const (
	// produceVersion is the newest that sarama can send; brokers from 2.1 to 4
	// take it.
	produceVersion = 7
	// requestBytes is where a request to a leader is cut, well below what
	// sarama (100 MB) and brokers (socket.request.max.bytes, 100 MB) take.
	requestBytes = 16 << 20
)

// outgoing is a batch on its way.
type outgoing struct {
	pipeline.TopicPartition
	index   int // in what Send was given
	name    string
	batch   *sarama.RecordBatch
	records int
	bytes   int
	err     error // of the last attempt
}

// Send implements log.Broker. Each batch becomes one batch of the log;
// leaders are sent to side by side. Whatever may pass is tried again until ctx
// is done, at most for Config.Timeout. Where the same partition occurs more
// than once, its batches are sent one after another, and after a failure those
// after it are not sent.
//
// Within one call a partition has one batch in flight. Two concurrent calls for
// one partition have no order between them, and after one of them has failed,
// later records may be in the log before earlier ones: keep to one call a
// partition, or use a Publisher.
//
// A batch larger than Config.MaxMessageBytes gives a *TooLargeError. The
// records' slices must not be changed until Send returns, and after an error never:
// they may still be on their way.
func (b *Broker) Send(ctx context.Context, batches []log.PartitionBatch) []error {
	errs := make([]error, len(batches))
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	chains := map[pipeline.TopicPartition]*chain{}
	var heads []*outgoing
	for i := range batches {
		out := b.prepare(i, batches[i])
		if out == nil {
			continue
		}
		if c := chains[out.TopicPartition]; c != nil {
			c.behind = append(c.behind, out)
			continue
		}
		chains[out.TopicPartition] = &chain{}
		heads = append(heads, out)
	}
	b.sendAll(ctx, heads, chains, func(out *outgoing) {
		if out.err != nil {
			errs[out.index] = b.explain(out)
		}
	})
	return errs
}

// chain is what waits for the batch before it of the same partition.
type chain struct{ behind []*outgoing }

// prepare makes a batch ready; nil stands for an empty one. One that is too
// large has that error from the start.
func (b *Broker) prepare(index int, batch log.PartitionBatch) *outgoing {
	if len(batch.Records) == 0 {
		return nil
	}
	now := time.Now()
	out := &outgoing{
		TopicPartition: batch.TopicPartition,
		index:          index,
		name:           b.cfg.name(batch.Topic),
		records:        len(batch.Records),
		bytes:          batchBytes(batch.Records, now),
	}
	if out.bytes > b.cfg.MaxMessageBytes {
		out.err = b.tooLarge(out)
		return out
	}
	out.batch = recordBatch(batch.Records, now, b.codec)
	return out
}

func (b *Broker) tooLarge(out *outgoing) error {
	return &TooLargeError{out.TopicPartition, out.records, out.bytes, b.cfg.MaxMessageBytes}
}

// explain is the error that the caller gets.
func (b *Broker) explain(out *outgoing) error {
	switch {
	case errors.Is(out.err, ErrTooLarge):
		return out.err
	case errors.Is(out.err, sarama.ErrMessageSizeTooLarge), errors.Is(out.err, sarama.ErrMessageSetSizeTooLarge):
		return b.tooLarge(out)
	case errors.Is(out.err, sarama.ErrUnknownTopicOrPartition):
		out.err = errors.Join(ErrUnknownTopic, out.err)
	}
	return fmt.Errorf("sending %d records to %s: %w", out.records, out.TopicPartition, out.err)
}

// sendAll sends the heads, tries again what may pass, and lets the next batch
// of a partition follow when the one before it is in the log.
func (b *Broker) sendAll(
	ctx context.Context, heads []*outgoing, chains map[pipeline.TopicPartition]*chain, settle func(*outgoing),
) {
	pending := heads
	for attempt := 1; len(pending) > 0; attempt++ {
		b.round(ctx, pending)
		var rest, next []*outgoing
		for _, out := range pending {
			c := chains[out.TopicPartition]
			switch {
			case out.err == nil:
				settle(out)
				if len(c.behind) > 0 {
					next, c.behind = append(next, c.behind[0]), c.behind[1:]
				}
			case classify(out.err) == hopeless:
				giveUp(out, c, settle)
			default:
				rest = append(rest, out)
			}
		}
		if len(next) > 0 { // these have no cause to wait; they are finitely many
			pending = append(next, rest...)
			continue
		}
		pending = rest
		if len(pending) == 0 {
			return
		}
		b.log.Debug("sending again", slog.Int("batches", len(pending)), slog.Int("attempt", attempt),
			slog.Any("error", pending[0].err))
		if !log.Pause(ctx, backoff(attempt)) {
			for _, out := range pending {
				out.err = errors.Join(context.Cause(ctx), out.err)
				giveUp(out, chains[out.TopicPartition], settle)
			}
			return
		}
		b.refreshLeaders(ctx, pending)
	}
}

// giveUp settles a batch that failed and those after it, which must not be in
// the log before it.
func giveUp(out *outgoing, c *chain, settle func(*outgoing)) {
	settle(out)
	for _, later := range c.behind {
		later.err = fmt.Errorf("the batch before it failed: %w", out.err)
		settle(later)
	}
	c.behind = nil
}

// refreshLeaders asks again who leads. Its failure shows in the next round.
func (b *Broker) refreshLeaders(ctx context.Context, pending []*outgoing) {
	names := map[string]struct{}{}
	for _, out := range pending {
		names[out.name] = struct{}{}
	}
	for name := range names {
		_, _ = await(ctx, b, func() (none struct{}, err error) { return none, b.producer.RefreshMetadata(name) })
	}
}

// request is what one leader is sent at once.
type request struct {
	leader  *sarama.Broker
	bytes   int
	batches []*outgoing
}

// round makes one attempt for each batch and leaves its error in it.
func (b *Broker) round(ctx context.Context, pending []*outgoing) {
	requests := b.byLeader(ctx, pending)
	if len(requests) == 1 {
		b.produce(ctx, requests[0])
		return
	}
	var all sync.WaitGroup
	for _, r := range requests {
		all.Go(func() { b.produce(ctx, r) })
	}
	all.Wait()
}

// byLeader skips batches that are not to be sent: those too large.
func (b *Broker) byLeader(ctx context.Context, pending []*outgoing) []*request {
	leaders, err := await(ctx, b, func() ([]leader, error) { return b.leaders(pending), nil })
	var requests []*request
	open := map[*sarama.Broker]*request{}
	for i, out := range pending {
		if out.batch == nil {
			continue
		}
		if out.err = err; err == nil {
			out.err = leaders[i].err
		}
		if out.err != nil {
			continue
		}
		r := open[leaders[i].broker]
		if r == nil || r.bytes+out.bytes > requestBytes {
			r = &request{leader: leaders[i].broker}
			open[r.leader] = r
			requests = append(requests, r)
		}
		r.bytes += out.bytes
		r.batches = append(r.batches, out)
	}
	return requests
}

type leader struct {
	broker *sarama.Broker
	err    error
}

// leaders asks the cluster where the client does not know. It reads of pending
// only what never changes, as it may outlive the caller.
func (b *Broker) leaders(pending []*outgoing) []leader {
	found := make([]leader, len(pending))
	for i, out := range pending {
		if out.batch == nil {
			continue
		}
		found[i].broker, found[i].err = b.producer.Leader(out.name, out.Partition)
	}
	return found
}

// produce sends a request and waits for the answer, or for ctx. In the latter
// case the batches may be in the log or not.
func (b *Broker) produce(ctx context.Context, r *request) {
	type answer struct {
		response *sarama.ProduceResponse
		err      error
	}
	message := &sarama.ProduceRequest{
		Version: produceVersion, RequiredAcks: sarama.WaitForAll,
		// So long a leader waits for its replicas: it should say that they failed
		// while the answer is still waited for.
		Timeout: int32(b.cfg.AnswerTimeout * 2 / 3 / time.Millisecond),
	}
	for _, out := range r.batches {
		message.AddBatch(out.name, out.Partition, out.batch)
	}
	// Buffered, so that the goroutine that reads the connection never waits for
	// a caller that is gone.
	answers := make(chan answer, 1)
	var got answer
	// It waits for the connection that is being made, if one is.
	_, got.err = await(ctx, b, func() (none struct{}, err error) {
		return none, r.leader.AsyncProduce(message, func(response *sarama.ProduceResponse, err error) {
			answers <- answer{response, err}
		})
	})
	if got.err == nil {
		select {
		case got = <-answers:
		case <-ctx.Done():
			got.err = context.Cause(ctx)
		}
	}
	if err := failpoint.Hit(ctx, failpoint.SenderAnswered); err != nil && got.err == nil {
		got.err = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
	}
	if got.err != nil {
		if classify(got.err) == reconnect {
			_, _ = await(ctx, b, func() (none struct{}, err error) { return none, r.leader.Close() })
		}
		for _, out := range r.batches {
			out.err = got.err
		}
		return
	}
	for _, out := range r.batches {
		block := got.response.GetBlock(out.name, out.Partition)
		switch {
		case block == nil:
			out.err = sarama.ErrIncompleteResponse
		case block.Err != sarama.ErrNoError:
			out.err = block.Err
		}
	}
}
