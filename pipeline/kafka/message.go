package kafka

import (
	"context"
	"strconv"

	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
)

// message makes the message of a batch. Its context ends with the session or by
// the returned function, whichever is first.
func (l *lane) message(ctx context.Context, records []pipeline.Record) (*message.Message, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	msg := message.NewMessage(rangeName(records), nil)
	if l.size == 1 {
		msg = recordMessage(&records[0])
	}
	msg.SetContext(pipeline.WithBatch(ctx, &pipeline.Batch{
		Lane:    l.number,
		Records: records,
		Pause:   l.session.pause,
	}))
	return msg, cancel
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
