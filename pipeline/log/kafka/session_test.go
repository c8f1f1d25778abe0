package kafka_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

func TestAssignSeeks(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 200)...)
	assignor := newPositions()
	assignor.set(at(topic, 0), 40) // the first session may ask at once
	messages := subscribe(t, b, log.SubscriberConfig{Assignor: assignor, BatchSize: 10}, string(topic))
	// Raised above nothing, raised above what is committed, lowered below it.
	for _, start := range []int64{40, 90, 5} {
		if start != 40 {
			assignor.set(at(topic, 0), start)
			msg, _ := receive(t, messages)
			assignor.restart()
			msg.Nack()
		}
		for {
			msg, batch := receive(t, messages)
			first := batch.Records[0].Offset
			if msg.Context().Err() != nil {
				msg.Nack() // of the session that is over
				continue
			}
			if first != start {
				t.Fatalf("consuming started at %d, want %d", first, start)
			}
			msg.Ack()
			break
		}
	}
	for _, claims := range assignor.calls {
		if len(claims) != 4 {
			t.Fatalf("%d claims, want 4", len(claims))
		}
		want := log.OffsetRange{Oldest: 0, End: 200}
		if c := claims[0]; c.TopicPartition != at(topic, 0) || c.OffsetRange != want || c.Partitions != 4 || c.ID == "" {
			t.Errorf("claim is %+v", c)
		}
	}
}

func TestAssignIsAskedAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 1)...)
	assignor := newPositions()
	failures := 7 // more than one session bears
	assignor.before = func() error {
		if failures--; failures >= 0 {
			return errors.New("no database")
		}
		return nil
	}
	msg, _ := receive(t, subscribe(t, b, log.SubscriberConfig{Assignor: assignor}, string(topic)))
	msg.Ack()
}

func TestAssignOutsideTheLogIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 10)...)
	assignor := newPositions()
	assignor.set(at(topic, 0), 11)
	messages := subscribe(t, b, log.SubscriberConfig{Assignor: assignor}, string(topic))
	wait(t, "the first assignment", assignor.called)
	assignor.set(at(topic, 0), 10)
	wait(t, "the second", assignor.called)
	send(t, b, at(topic, 0), numbered(10, 1)...)
	msg, batch := receive(t, messages)
	msg.Ack()
	if got := batch.Records[0].Offset; got != 10 {
		t.Errorf("got offset %d, want 10", got)
	}
}

func TestClaimWithoutAnswerIsNotConsumed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	assignor := newPositions()
	assignor.only = func(tp pipeline.TopicPartition) bool { return tp.Partition == 1 }
	// More than sarama keeps: a partition that is not read must not hold up one
	// that is.
	for sent := 0; sent < 10_000; sent += 5000 {
		send(t, b, at(topic, 0), numbered(sent, 5000)...)
		send(t, b, at(topic, 1), numbered(sent, 5000)...)
	}
	messages := subscribe(t, b, log.SubscriberConfig{Assignor: assignor, Lanes: 1}, string(topic))
	for next := int64(0); next < 10_000; {
		msg, batch := receive(t, messages)
		for _, r := range batch.Records {
			if r.Partition != 1 || r.Offset != next {
				t.Fatalf("got %s offset %d, want partition 1 offset %d", r.TopicPartition, r.Offset, next)
			}
			next++
		}
		msg.Ack()
	}
}

// A partition that is not consumed is opened all the same. What the group has
// committed there may have left the log, which must not end the session.
func TestUnconsumedClaimMayHaveLostItsOffset(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 10)...)
	group := unique("group")
	before := newSubscriber(t, b, log.SubscriberConfig{Group: group, BatchSize: 1})
	consumed, err := before.Subscribe(t.Context(), string(topic))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		msg, _ := receive(t, consumed)
		msg.Ack()
	}
	if err := before.Close(); err != nil { // commits 10
		t.Fatal(err)
	}
	send(t, b, at(topic, 0), numbered(10, 10)...)
	send(t, b, at(topic, 1), numbered(0, 10)...)
	deleteRecords(t, at(topic, 0), 15)
	assignor := newPositions()
	assignor.only = func(tp pipeline.TopicPartition) bool { return tp.Partition == 1 }
	messages := subscribe(t, b, log.SubscriberConfig{Group: group, Assignor: assignor, Lanes: 1}, string(topic))
	for next := int64(0); next < 10; {
		msg, batch := receive(t, messages)
		for _, r := range batch.Records {
			if r.Partition != 1 || r.Offset != next {
				t.Fatalf("got %s offset %d, want partition 1 offset %d", r.TopicPartition, r.Offset, next)
			}
			next++
		}
		msg.Ack()
	}
}

func deleteRecords(t *testing.T, tp pipeline.TopicPartition, before int64) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(testConfig().Brokers, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(admin.DeleteRecords(string(tp.Topic), map[int32]int64{tp.Partition: before}), admin.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestPauseStopsAPartition(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 5000)...)
	send(t, b, at(topic, 1), numbered(0, 5000)...)
	assignor := newPositions()
	messages := subscribe(t, b, log.SubscriberConfig{Assignor: assignor, Lanes: 1, BatchSize: 10}, string(topic))
	paused, next := false, int64(0)
	for next < 5000 {
		msg, batch := receive(t, messages)
		for _, r := range batch.Records {
			switch {
			case r.Partition == 1:
				if r.Offset != next {
					t.Fatalf("got offset %d, want %d", r.Offset, next)
				}
				next++
			case paused:
				t.Fatalf("got offset %d of the paused partition", r.Offset)
			}
		}
		if !paused && slices.ContainsFunc(batch.Records, func(r pipeline.Record) bool { return r.Partition == 0 }) {
			batch.Pause(at(topic, 0))
			paused = true
			for _, r := range batch.Records {
				if r.Partition == 1 {
					next-- // comes again, without the paused partition
				}
			}
			msg.Nack()
			continue
		}
		msg.Ack()
	}
	if !paused {
		// Partition 1 came first as a whole: what is left is partition 0.
		msg, batch := receive(t, messages)
		batch.Pause(at(topic, 0))
		msg.Ack()
	}
	send(t, b, at(topic, 1), numbered(5000, 1)...)
	msg, batch := receive(t, messages)
	if batch.Records[0].Partition != 1 {
		t.Error("the paused partition is delivered")
	}
	assignor.restart() // the pause ends with the session
	msg.Nack()
	for {
		msg, batch := receive(t, messages)
		msg.Ack()
		if batch.Records[0].Partition == 0 {
			break
		}
	}
}

// TestRebalanceWaitsForTheBatchInFlight has a second member join while a batch
// of the first is in flight.
func TestRebalanceWaitsForTheBatchInFlight(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(c *kafka.Config) { c.Grace = 50 * time.Millisecond })
	topic := newTopic(t, b)
	for partition := range int32(4) {
		send(t, b, at(topic, partition), numbered(0, 10)...)
	}
	var inFlight atomic.Int32
	assignor := newPositions()
	assignor.before = func() error {
		if inFlight.Load() != 0 {
			t.Error("assigning while a batch is in flight")
		}
		return nil
	}
	first := subscribe(t, b, log.SubscriberConfig{Assignor: assignor, Lanes: 1}, string(topic))
	wait(t, "the first session", assignor.called)
	msg, _ := receive(t, first)
	inFlight.Add(1)

	other := newPositions()
	subscribe(t, b, log.SubscriberConfig{Assignor: other, Lanes: 1}, string(topic))
	// The handler is stuck for longer than the grace: the new member gets its
	// partitions, the old one does not start again.
	if claims := wait(t, "the other member's session", other.called); len(claims) == 0 || len(claims) == 4 {
		t.Errorf("the other member has %d partitions", len(claims))
	}
	if msg.Context().Err() == nil {
		t.Error("the context continues after the session")
	}
	if len(assignor.called) != 0 {
		t.Error("assigned while a batch is in flight")
	}
	inFlight.Add(-1)
	msg.Nack()
	wait(t, "the next session", assignor.called)
}

func TestGroupGoesOnFromWhatWasAcked(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 20)...)
	cfg := log.SubscriberConfig{BatchSize: 10, Group: unique("group")}
	sub := newSubscriber(t, b, cfg)
	messages, err := sub.Subscribe(t.Context(), string(topic))
	if err != nil {
		t.Fatal(err)
	}
	msg, _ := receive(t, messages)
	msg.Ack()
	receive(t, messages) // in flight, never acked
	for range 2 {
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sub.Subscribe(t.Context(), string(topic)); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("subscribing after Close: %v", err)
	}
	msg, batch := receive(t, subscribe(t, b, cfg, string(topic)))
	msg.Ack()
	if batch.Records[0].Offset != 10 {
		t.Errorf("continued at %d, want 10", batch.Records[0].Offset)
	}
}

func TestStaticMembersOfOneProcess(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(c *kafka.Config) { c.InstanceID = "node-1" })
	topic := newTopic(t, b)
	one, two := newPositions(), newPositions()
	subscribe(t, b, log.SubscriberConfig{Assignor: one}, string(topic))
	wait(t, "the first member", one.called)
	subscribe(t, b, log.SubscriberConfig{Assignor: two}, string(topic))
	if claims := wait(t, "the second member", two.called); len(claims) != 2 {
		t.Errorf("the second member has %d partitions, want 2", len(claims))
	}
}
