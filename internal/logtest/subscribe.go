package logtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
)

func testStarts(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 200)...)
	assignor := newPositions()
	messages := r.subscribe(l, log.SubscriberConfig{Assignor: assignor, BatchSize: 10}, string(topic))
	// The first is of a group without offsets; then above what was acked, and below.
	for i, start := range []int64{40, 90, 5} {
		if i == 0 {
			assignor.set(at(topic, 0), 0)
		}
		msg, _ := r.receive(messages)
		assignor.set(at(topic, 0), start)
		assignor.restart()
		msg.Nack()
		for {
			msg, batch := r.receive(messages)
			if msg.Context().Err() != nil {
				msg.Nack() // of the session that is over
				continue
			}
			require.Equal(r, start, batch.Records[0].Offset)
			msg.Ack()
			break
		}
	}
	for len(assignor.called) > 0 {
		claims := <-assignor.called
		require.Len(r, claims, Partitions)
		assert.Equal(r, at(topic, 0), claims[0].TopicPartition)
		assert.Equal(r, log.OffsetRange{Oldest: 0, End: 200}, claims[0].OffsetRange)
		assert.EqualValues(r, Partitions, claims[0].Partitions)
		assert.NotEmpty(r, claims[0].ID)
	}
}

func testStartsOutside(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 10)...)
	assignor := newPositions()
	assignor.set(at(topic, 0), 11)
	reports := make(chan error, 1000)
	messages := r.subscribe(l, log.SubscriberConfig{Assignor: assignor, Report: func(err error) { reports <- err }}, string(topic))
	var err error
	for err == nil {
		err = wait(r, "a report", reports)
	}
	assert.ErrorIs(r, err, r.cfg.OutOfRange)
	assignor.set(at(topic, 0), 10)
	for err != nil {
		err = wait(r, "a report that it works", reports)
	}
	r.send(l, at(topic, 0), numbered(10, 1)...)
	msg, batch := r.receive(messages)
	msg.Ack()
	assert.EqualValues(r, 10, batch.Records[0].Offset)
}

func testAssignorFails(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 1)...)
	assignor := newPositions()
	failures := 3
	assignor.before = func() error {
		if failures--; failures >= 0 {
			return errors.New("no database")
		}
		return nil
	}
	msg, _ := r.receive(r.subscribe(l, log.SubscriberConfig{Assignor: assignor}, string(topic)))
	msg.Ack()
}

func testMissingClaims(r *rig) {
	const n = 10_000
	l := r.log()
	topic := r.topic(l)
	assignor := newPositions()
	assignor.only = func(tp pipeline.TopicPartition) bool { return tp.Partition == 1 }
	for sent := 0; sent < n; sent += 5000 {
		r.send(l, at(topic, 0), numbered(sent, 5000)...)
		r.send(l, at(topic, 1), numbered(sent, 5000)...)
	}
	messages := r.subscribe(l, log.SubscriberConfig{Assignor: assignor, Lanes: 1}, string(topic))
	for next := int64(0); next < n; {
		msg, batch := r.receive(messages)
		for _, record := range batch.Records {
			require.Equal(r, at(topic, 1), record.TopicPartition)
			require.Equal(r, next, record.Offset)
			next++
		}
		msg.Ack()
	}
}

// testRestart: batches of a session that was ended are not continued, and no batch is in
// flight when the assignor is asked again.
func testRestart(r *rig) {
	l := r.log()
	topic := r.topic(l)
	for partition := range int32(Partitions) {
		r.send(l, at(topic, partition), numbered(0, 100)...)
	}
	var inFlight atomic.Int32
	assignor := newPositions()
	assignor.before = func() error {
		assert.Zero(r, inFlight.Load(), "a batch is in flight")
		return nil
	}
	messages := r.subscribe(l, log.SubscriberConfig{Assignor: assignor, Lanes: 2, BatchSize: 10}, string(topic))
	for range 5 {
		wait(r, "an assignment", assignor.called)
		msg, _ := r.receive(messages)
		inFlight.Add(1)
		assignor.restart()
		assignor.restart() // does no harm
		wait(r, "the end of the context", msg.Context().Done())
		inFlight.Add(-1)
		msg.Ack()
		// Another lane's may have come to the channel meanwhile.
		for drained := false; !drained; {
			select {
			case msg := <-messages:
				msg.Nack()
			case claims := <-assignor.called:
				assignor.called <- claims
				drained = true
			case <-time.After(patience):
				require.FailNow(r, "no new session")
			}
		}
	}
}

func testPause(r *rig) {
	const n = 2000
	l := r.log()
	topic := r.topic(l)
	for partition := range int32(2) {
		r.send(l, at(topic, partition), numbered(0, n)...)
	}
	assignor := newPositions()
	messages := r.subscribe(l, log.SubscriberConfig{Assignor: assignor, Lanes: 1, BatchSize: 10}, string(topic))
	paused, next := false, int64(0)
	for !paused || next < n {
		msg, batch := r.receive(messages)
		ours := next
		held := false
		for _, record := range batch.Records {
			if record.Partition == 1 {
				require.Equal(r, ours, record.Offset)
				ours++
				continue
			}
			require.False(r, paused, "a record of the paused partition")
			held = true
		}
		if held {
			batch.Pause(at(topic, 0))
			paused = true
			msg.Nack() // those of the other partition come again
			continue
		}
		next = ours
		msg.Ack()
	}
	r.send(l, at(topic, 0), numbered(n, 1)...)
	r.send(l, at(topic, 1), numbered(n, 1)...)
	msg, batch := r.receive(messages)
	assert.Equal(r, at(topic, 1), batch.Records[0].TopicPartition)
	assignor.restart() // the pause ends with the session
	msg.Nack()
	for {
		msg, batch := r.receive(messages)
		msg.Ack()
		if slices.ContainsFunc(batch.Records, func(r pipeline.Record) bool { return r.Partition == 0 }) {
			break
		}
	}
}

func testNack(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 20)...)
	messages := r.subscribe(l, log.SubscriberConfig{BatchSize: 10}, string(topic))
	msg, batch := r.receive(messages)
	name := msg.UUID
	for range 3 {
		batch.Records[0].Prepared = "left by the handler"
		msg.Nack()
		wait(r, "the end of the context", msg.Context().Done())
		msg, batch = r.receive(messages)
		require.Equal(r, name, msg.UUID)
		require.Len(r, batch.Records, 10)
		require.Nil(r, batch.Records[0].Prepared)
		for i, record := range batch.Records {
			require.EqualValues(r, i, record.Offset)
		}
	}
	msg.Ack()
	msg, batch = r.receive(messages)
	msg.Ack()
	assert.EqualValues(r, 10, batch.Records[0].Offset)
}

// testStraggler: a handler that is stuck for longer than the grace keeps the next session
// from starting, until it answers.
func testStraggler(r *rig) {
	l := r.open(r.T, 50*time.Millisecond)
	topic := r.topic(l)
	for partition := range int32(Partitions) {
		r.send(l, at(topic, partition), numbered(0, 10)...)
	}
	var inFlight atomic.Int32
	assignor := newPositions()
	assignor.before = func() error {
		assert.Zero(r, inFlight.Load(), "a batch is in flight")
		return nil
	}
	messages := r.subscribe(l, log.SubscriberConfig{Assignor: assignor, Lanes: 1}, string(topic))
	wait(r, "the first session", assignor.called)
	msg, _ := r.receive(messages)
	inFlight.Add(1)
	assignor.restart()
	wait(r, "the end of the context", msg.Context().Done())
	select { // four times the grace
	case <-assignor.called:
		assert.Fail(r, "assigned while a batch is in flight")
	case <-messages:
		assert.Fail(r, "delivered while a batch is in flight")
	case <-time.After(200 * time.Millisecond):
	}
	inFlight.Add(-1)
	msg.Nack()
	wait(r, "the next session", assignor.called)
	msg, batch := r.receive(messages)
	msg.Ack()
	assert.Zero(r, batch.Records[0].Offset)
}

func testGroup(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 20)...)
	cfg := log.SubscriberConfig{BatchSize: 10, Group: r.cfg.Unique("group")}
	subscriber := r.subscriber(l, cfg)
	messages, err := subscriber.Subscribe(r.Context(), string(topic))
	require.NoError(r, err)
	msg, _ := r.receive(messages)
	msg.Ack()
	msg, batch := r.receive(messages) // in flight, never acked
	require.EqualValues(r, 10, batch.Records[0].Offset)
	context.AfterFunc(msg.Context(), func() { msg.Nack() })
	require.NoError(r, subscriber.Close())
	msg, batch = r.receive(r.subscribe(r.log(), cfg, string(topic)))
	assert.EqualValues(r, 10, batch.Records[0].Offset)
	msg.Ack()
}

func testGroups(r *rig) {
	const n = 100
	l := r.log()
	topic := r.topic(l)
	for partition := range int32(Partitions) {
		r.send(l, at(topic, partition), numbered(0, n)...)
	}
	for range 3 {
		r.follow(r.subscribe(l, log.SubscriberConfig{}, string(topic)), map[pipeline.TopicPartition]int64{}, Partitions, n)
	}
}

func testGrowth(r *rig) {
	const n = 500
	l := r.log()
	topic := r.topic(l)
	messages := r.subscribe(l, log.SubscriberConfig{BatchSize: 20}, string(topic))
	var writing sync.WaitGroup
	defer writing.Wait()
	for partition := range int32(Partitions) {
		writing.Go(func() {
			for sent := 0; sent < n; sent += 10 {
				errs := l.Send(r.Context(), []log.PartitionBatch{{TopicPartition: at(topic, partition), Records: numbered(sent, 10)}})
				if !assert.NoError(r, errs[0]) {
					return
				}
			}
		})
	}
	next := map[pipeline.TopicPartition]int64{}
	r.follow(messages, next, Partitions, n)
	// The last of them waits for what comes alone.
	for i := range 10 {
		r.send(l, at(topic, 3), numbered(n+i, 1)...)
		r.follow(messages, next, 1, int64(n+i+1))
	}
}

func testOtherProcess(r *rig) {
	reader, writer := r.log(), r.log()
	topic := r.topic(writer)
	messages := r.subscribe(reader, log.SubscriberConfig{}, string(topic))
	next := map[pipeline.TopicPartition]int64{}
	for i := range 10 {
		r.send(writer, at(topic, 2), numbered(i, 1)...)
		r.follow(messages, next, 1, int64(i+1))
	}
}

func testContext(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 1)...)
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), key{}, "of the subscription"))
	defer cancel()
	messages, err := r.subscriber(l, log.SubscriberConfig{}).Subscribe(ctx, string(topic))
	require.NoError(r, err)
	msg, _ := r.receive(messages)
	assert.NotNil(r, msg.Context().Value(key{}), "the context is derived from that of Subscribe")
	cancel()
	wait(r, "the end of the context", msg.Context().Done())
	msg.Nack()
	r.closed(messages)
}

func testClose(r *rig) {
	l := r.log()
	topic := r.topic(l)
	subscriber := r.subscriber(l, log.SubscriberConfig{})
	messages, err := subscriber.Subscribe(r.Context(), string(topic))
	require.NoError(r, err)
	other := r.subscribe(l, log.SubscriberConfig{}, string(topic))
	for range 2 {
		require.NoError(r, subscriber.Close())
	}
	r.closed(messages)
	_, err = subscriber.Subscribe(r.Context(), string(topic))
	require.ErrorIs(r, err, r.cfg.Closed)
	for range 2 {
		require.NoError(r, l.Close())
	}
	r.closed(other)
	_, err = l.Subscriber(log.SubscriberConfig{Group: "g"})
	require.ErrorIs(r, err, r.cfg.Closed)
	assert.Error(r, l.Send(r.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: numbered(0, 1)}})[0])
}

func testFaults(r *rig) {
	l := r.log()
	_, err := l.Subscriber(log.SubscriberConfig{BatchSize: -1, Lanes: -1, Linger: -1})
	for _, want := range []string{"group", "batch size", "lanes", "linger"} {
		assert.ErrorContains(r, err, want)
	}
	_, err = r.subscriber(l, log.SubscriberConfig{}).Subscribe(r.Context(), "a,,b")
	assert.Error(r, err)
}
