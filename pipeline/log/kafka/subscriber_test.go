package kafka_test

import (
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

func TestRecordIsWhatWasSent(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	infos, err := b.EnsureTopics(t.Context(), []schema.Topic{topic})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Second)
	send(t, b, at(topic, 2), log.OutgoingRecord{
		Key:     []byte("key"),
		Headers: []schema.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}},
		Value:   []byte("value"),
	})
	msg, batch := receive(t, subscribe(t, b, log.SubscriberConfig{}, string(topic)))
	defer msg.Ack()
	r := batch.Records[0]
	if len(batch.Records) != 1 || r.TopicPartition != at(topic, 2) || r.TopicID != infos[topic].ID ||
		r.Offset != 0 || string(r.Key) != "key" || string(r.Value) != "value" ||
		len(r.Headers) != 2 || r.Headers[1].Key != "b" || string(r.Headers[1].Value) != "2" {
		t.Errorf("got %+v", r)
	}
	if r.Timestamp.Before(before) || r.Timestamp.After(time.Now()) {
		t.Errorf("timestamp is %v", r.Timestamp)
	}
	if want := string(topic) + "/2@0"; msg.UUID != want || len(msg.Payload) != 0 {
		t.Errorf("message %q with %d bytes, want %q with none", msg.UUID, len(msg.Payload), want)
	}
}

func TestLingerFillsABatchOfAnIdleLane(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	messages := subscribe(t, b, log.SubscriberConfig{Linger: time.Hour, BatchSize: 3, Lanes: 1}, string(topic))
	for i := range 3 {
		send(t, b, at(topic, 0), numbered(i, 1)...)
	}
	msg, batch := receive(t, messages)
	msg.Ack()
	if len(batch.Records) != 3 {
		t.Errorf("the batch has %d records, want 3", len(batch.Records))
	}
}
