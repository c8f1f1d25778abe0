package log

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/pricemill/pricemill/pipeline"
)

// Batch is what one Watermill message of a batch subscriber carries: records
// of one lane, each partition's in order and without omission. The message's
// payload is empty and its UUID names the range.
type Batch struct {
	// Lane is the number of the lane, from 0. A lane has one batch in flight.
	// A partition number belongs to one lane, whatever the topic, for as long
	// as the session lives.
	Lane    int
	Records []pipeline.Record
	// Pause stops the delivery of a partition until the session ends.
	Pause func(pipeline.TopicPartition)
}

type batchKey struct{}

// WithBatch returns a context that carries b; subscribers set it on the message.
func WithBatch(ctx context.Context, b *Batch) context.Context {
	return context.WithValue(ctx, batchKey{}, b)
}

// BatchOf returns the batch of a message; false for a message of any other
// subscriber.
func BatchOf(msg *message.Message) (*Batch, bool) {
	b, ok := msg.Context().Value(batchKey{}).(*Batch)
	return b, ok
}
