package kafka_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
)

// TestFailpointOfTheSender loses an answer, and with it the connection: the batch
// is in the log twice, and the one after it comes after both.
func TestFailpointOfTheSender(t *testing.T) {
	b := newBroker(t)
	topic := newTopic(t, b)
	pipelinetest.Fail(t, failpoint.SenderAnswered, 1, func(context.Context) error { return errors.New("injected") })
	errs := b.Send(t.Context(), []log.PartitionBatch{
		{TopicPartition: at(topic, 0), Records: numbered(0, 2)}, {TopicPartition: at(topic, 0), Records: numbered(2, 1)}})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range readAll(t, b, at(topic, 0)) {
		got = append(got, string(r.Value))
	}
	if want := []string{"0", "1", "0", "1", "2"}; !slices.Equal(got, want) {
		t.Errorf("the log is %v, want %v", got, want)
	}
}

// TestFailpointOfSetup: a member that fails in Setup comes back, by itself, and
// misses nothing.
func TestFailpointOfSetup(t *testing.T) {
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 10)...)
	failures := 0
	pipelinetest.Fail(t, failpoint.SubscriberSetup, 0, func(context.Context) error {
		if failures++; failures <= 3 {
			return errors.New("injected")
		}
		return nil
	})
	messages := subscribe(t, b, log.SubscriberConfig{Assignor: newPositions()}, string(topic))
	for next := 0; next < 10; {
		msg, batch := receive(t, messages)
		for _, r := range batch.Records {
			if string(r.Value) != strconv.Itoa(next) {
				t.Fatalf("got %s, want %d", r.Value, next)
			}
			next++
		}
		msg.Ack()
	}
	if failures < 4 {
		t.Errorf("it was set up %d times", failures)
	}
}
