package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/schema"
)

// Metadata that a message of Watermill has for each record, besides the record's
// own headers.
const (
	MetadataKey       = "pricemill_key"
	MetadataTopic     = "pricemill_topic"
	MetadataEventType = "ce_type"
)

// Watermill makes a Handler of a plain Watermill handler function: one record is
// one message, with the record's value as its payload and its headers as metadata.
// The messages that it returns become events of the type that their metadata names
// by MetadataEventType, and with the payload as their data; it must be one that the
// module lists in Produces. Where there is one type that it produces, the metadata may be
// left out. Their UUIDs do not count: ids follow from the record, so that a second
// run gives the same events.
//
// What the function returns is written once. What else it does, it does again when
// a batch is tried again: its context carries no transaction. An error, a panic or a
// message that is no event puts the record into the dead letters, unless the error
// was made by RetryAfter. A message that the function acks or nacks itself is none
// of Watermill's: the outcome is what it returns.
func Watermill(f message.HandlerFunc, produces ...schema.EventType) Handler {
	return adapter{f, produces}
}

type adapter struct {
	f        message.HandlerFunc
	produces []schema.EventType
}

// Handle calls the function for each record in turn.
func (a adapter) Handle(ctx context.Context, _ *Tx, in []Record) ([]schema.Event, error) {
	var events []schema.Event
	for i := range in {
		r := &in[i]
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		produced, err := a.f(messageOfRecord(ctx, r))
		var later *retryAfterError
		if errors.As(err, &later) {
			return nil, err
		}
		if err != nil {
			return nil, Permanent(fmt.Errorf("the handler function: %w", err))
		}
		for _, msg := range produced {
			event, err := a.event(r, msg)
			if err != nil {
				return nil, Permanent(err)
			}
			events = append(events, event)
		}
	}
	return events, nil
}

func messageOfRecord(ctx context.Context, r *Record) *message.Message {
	msg := message.NewMessage(r.Event.ID, append(message.Payload(nil), r.Value...))
	for _, h := range r.Headers {
		msg.Metadata.Set(h.Key, string(h.Value))
	}
	msg.Metadata.Set(MetadataKey, string(r.Key))
	msg.Metadata.Set(MetadataTopic, string(r.Topic))
	msg.SetContext(ctx)
	return msg
}

// event makes an event of a message, as if it had come from the log.
func (a adapter) event(r *Record, msg *message.Message) (schema.Event, error) {
	if msg == nil {
		return schema.Event{}, errors.New("the handler function returned a message that is nil")
	}
	name := schema.EventType(msg.Metadata.Get(MetadataEventType))
	if name == "" && len(a.produces) == 1 {
		name = a.produces[0]
	}
	if !json.Valid(msg.Payload) {
		return schema.Event{}, fmt.Errorf("the handler function returned a message whose payload is no JSON: %w", schema.ErrPayload)
	}
	payload, err := schema.DecodePayload(name, msg.Payload)
	if err != nil {
		return schema.Event{}, fmt.Errorf("the handler function returned a message that is no event; its type is what its metadata says under %s: %w", MetadataEventType, err)
	}
	return r.Derive(payload), nil
}
