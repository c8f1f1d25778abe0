// Package delivery is what the subscribers of all logs share: how records become the
// Watermill message of a batch.
package delivery

import (
	"context"
	"strconv"

	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// MaxBatchBytes is where a batch ends that has fewer records than it may. A record that
// passes it is still in.
const MaxBatchBytes = 4 << 20

// Message makes the message of a batch. Its context ends with ctx, or by the returned
// function, whichever is first. With single, the one record of the batch is the message:
// see recordMessage.
func Message(ctx context.Context, batch *log.Batch, single bool) (*message.Message, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	msg := message.NewMessage(rangeName(batch.Records), nil)
	if single {
		msg = recordMessage(&batch.Records[0])
	}
	msg.SetContext(log.WithBatch(ctx, batch))
	return msg, cancel
}

// Record is the record of a message, without a key: what watermill-kafka's
// DefaultMarshaler makes of it.
func Record(msg *message.Message) log.OutgoingRecord {
	headers := []schema.Header{{Key: wkafka.UUIDHeaderKey, Value: []byte(msg.UUID)}}
	for key, value := range msg.Metadata {
		headers = append(headers, schema.Header{Key: key, Value: []byte(value)})
	}
	return log.OutgoingRecord{Headers: headers, Value: msg.Payload}
}

// recordMessage reads a record as watermill-kafka's DefaultMarshaler does. A
// record that another kind of producer wrote has no UUID of Watermill's; it gets
// the name of its offset.
func recordMessage(r *pipeline.Record) *message.Message {
	var uuid string
	metadata := make(message.Metadata, len(r.Headers))
	for _, h := range r.Headers {
		if h.Key == wkafka.UUIDHeaderKey {
			uuid = string(h.Value)
		} else {
			metadata.Set(h.Key, string(h.Value))
		}
	}
	if uuid == "" {
		uuid = rangeName([]pipeline.Record{*r})
	}
	msg := message.NewMessage(uuid, r.Value)
	msg.Metadata = metadata
	return msg
}

// rangeName names the offsets of a batch, first and last of each partition in
// the order in which they occur: "price-events/3@17-42,price-events/5@8".
func rangeName(records []pipeline.Record) string {
	type span struct{ first, last int64 }
	var order []pipeline.TopicPartition
	spans := map[pipeline.TopicPartition]span{}
	for i := 0; i < len(records); {
		tp, first := records[i].TopicPartition, records[i].Offset
		for i++; i < len(records) && records[i].TopicPartition == tp; i++ {
			continue
		}
		if known, again := spans[tp]; again {
			first = known.first
		} else {
			order = append(order, tp)
		}
		spans[tp] = span{first, records[i-1].Offset}
	}
	var name []byte
	for i, tp := range order {
		if i > 0 {
			name = append(name, ',')
		}
		name = append(name, tp.String()...)
		name = strconv.AppendInt(append(name, '@'), spans[tp].first, 10)
		if spans[tp].last != spans[tp].first {
			name = strconv.AppendInt(append(name, '-'), spans[tp].last, 10)
		}
	}
	return string(name)
}

// Pristine is the record as it came from the log, without what a handler was told or
// left in it.
func Pristine(r *pipeline.Record) pipeline.Record {
	return pipeline.Record{
		TopicPartition: r.TopicPartition,
		TopicID:        r.TopicID,
		Offset:         r.Offset,
		Timestamp:      r.Timestamp,
		Key:            r.Key,
		Headers:        r.Headers,
		Value:          r.Value,
	}
}

// Weight is what a record counts for in MaxBatchBytes.
func Weight(r *pipeline.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
