package logtest

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

func testLanes(r *rig) {
	const lanes, n = 2, 500
	l := r.log()
	topic := r.topic(l)
	for partition := range int32(Partitions) {
		r.send(l, at(topic, partition), numbered(0, n)...)
	}
	messages := r.subscribe(l, log.SubscriberConfig{BatchSize: 10, Lanes: lanes}, string(topic))
	var inFlight [lanes]atomic.Int32
	var seen atomic.Int32
	done := make(chan struct{})
	var handlers sync.WaitGroup
	for range 8 {
		handlers.Go(func() {
			for {
				select {
				case msg, open := <-messages:
					if !open {
						return
					}
					batch, _ := log.BatchOf(msg)
					assert.EqualValues(r, 1, inFlight[batch.Lane].Add(1), "batches of lane %d in flight", batch.Lane)
					for _, record := range batch.Records {
						assert.Equal(r, batch.Lane, int(record.Partition)%lanes)
					}
					inFlight[batch.Lane].Add(-1)
					if seen.Add(int32(len(batch.Records))) == n*Partitions {
						close(done)
					}
					msg.Ack()
				case <-done:
					return
				}
			}
		})
	}
	wait(r, "all records", done)
	handlers.Wait()
}

func testSharedLanes(r *rig) {
	l := r.log()
	first, second := r.topic(l), r.topic(l)
	for partition := range int32(Partitions) {
		r.send(l, at(first, partition), numbered(0, 10)...)
		r.send(l, at(second, partition), numbered(0, 10)...)
	}
	messages := r.subscribe(l, log.SubscriberConfig{Lanes: Partitions}, string(first)+", "+string(second))
	lanes := map[pipeline.TopicPartition]int{}
	for seen := 0; seen < 20*Partitions; {
		msg, batch := r.receive(messages)
		for _, record := range batch.Records {
			lanes[record.TopicPartition] = batch.Lane
			seen++
		}
		msg.Ack()
	}
	used := map[int]bool{}
	for partition := range int32(Partitions) {
		assert.Equal(r, lanes[at(first, partition)], lanes[at(second, partition)], "partition %d", partition)
		used[lanes[at(first, partition)]] = true
	}
	assert.Len(r, used, Partitions)
}

func testBatchSizes(r *rig) {
	const n = 400
	l := r.log()
	first, second := r.topic(l), r.topic(l)
	for _, topic := range []schema.Topic{first, second} {
		for partition := range int32(Partitions) {
			for sent := 0; sent < n; sent += 100 {
				r.send(l, at(topic, partition), numbered(sent, 100)...)
			}
		}
	}
	for _, size := range []int{1, 7, 250, 5000} {
		r.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			r := &rig{T: t, cfg: r.cfg, open: r.open}
			messages := r.subscribe(l, log.SubscriberConfig{BatchSize: size, Lanes: 3}, string(first)+","+string(second))
			next := map[pipeline.TopicPartition]int64{}
			for seen := 0; seen < 2*Partitions*n; {
				msg, batch := r.receive(messages)
				require.LessOrEqual(r, len(batch.Records), size)
				for _, record := range batch.Records {
					require.Equal(r, next[record.TopicPartition], record.Offset)
					require.Equal(r, strconv.FormatInt(record.Offset, 10), string(record.Value))
					next[record.TopicPartition]++
				}
				seen += len(batch.Records)
				msg.Ack()
			}
		})
	}
}

func testBatchBytes(r *rig) {
	const records, size, limit = 20, 900_000, 4 << 20
	l := r.log()
	topic := r.topic(l)
	for i := range records {
		record := numbered(i, 1)
		record[0].Value = make([]byte, size)
		r.send(l, at(topic, 0), record...)
	}
	messages := r.subscribe(l, log.SubscriberConfig{}, string(topic))
	for next := int64(0); next < records; {
		msg, batch := r.receive(messages)
		assert.Less(r, len(batch.Records)*size, limit+size)
		for _, record := range batch.Records {
			require.Equal(r, next, record.Offset)
			next++
		}
		msg.Ack()
	}
}

// testSingle: a record that no publisher of Watermill wrote is delivered as well.
func testSingle(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), log.OutgoingRecord{}, log.OutgoingRecord{Value: []byte{0xff, 0x00},
		Headers: []schema.Header{{Key: "a", Value: []byte("1")}}})
	messages := r.subscribe(l, log.SubscriberConfig{BatchSize: 1}, string(topic))
	for i, want := range []string{"", "\xff\x00"} {
		msg, batch := r.receive(messages)
		require.Len(r, batch.Records, 1)
		assert.Equal(r, want, string(msg.Payload))
		assert.Equal(r, string(topic)+"/0@"+strconv.Itoa(i), msg.UUID)
		assert.Equal(r, map[bool]string{true: "1"}[i == 1], msg.Metadata.Get("a"))
		msg.Ack()
	}
}
