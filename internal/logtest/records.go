package logtest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

func testTopics(r *rig) {
	first, second := schema.Topic(r.cfg.Unique("topic")), schema.Topic(r.cfg.Unique("topic"))
	topics := []schema.Topic{first, second, first}
	answers := make([]map[schema.Topic]log.TopicInfo, 4)
	var creators sync.WaitGroup
	for i := range answers {
		l := r.log()
		creators.Go(func() {
			var err error
			answers[i], err = l.EnsureTopics(r.Context(), topics)
			assert.NoError(r, err)
		})
	}
	creators.Wait()
	for _, answer := range answers {
		assert.True(r, maps.Equal(answer, answers[0]), "%v and %v", answer, answers[0])
	}
	require.Len(r, answers[0], 2)
	assert.NotEqual(r, answers[0][first].ID, answers[0][second].ID)
	for _, info := range answers[0] {
		assert.NotEmpty(r, info.ID)
		assert.EqualValues(r, Partitions, info.Partitions)
	}
	l := r.log()
	again, err := l.EnsureTopics(r.Context(), topics)
	require.NoError(r, err)
	assert.Equal(r, answers[0], again)
	described, err := l.Topics(r.Context(), topics)
	require.NoError(r, err)
	assert.Equal(r, answers[0], described)
}

func testUnknownTopics(r *rig) {
	l := r.log()
	unknown := schema.Topic(r.cfg.Unique("unknown"))
	known := r.topic(l)
	infos, err := l.Topics(r.Context(), []schema.Topic{unknown, known})
	require.NoError(r, err)
	assert.Len(r, infos, 1)
	assert.Contains(r, infos, known)
	_, err = l.Offsets(r.Context(), unknown)
	require.ErrorIs(r, err, r.cfg.UnknownTopic)
	_, err = l.OffsetsAt(r.Context(), unknown, time.Now())
	require.ErrorIs(r, err, r.cfg.UnknownTopic)
	for _, tp := range []pipeline.TopicPartition{at(known, Partitions), at(known, -1), at(unknown, 0)} {
		require.ErrorIs(r, l.Read(r.Context(), tp, 0, 0, nil), r.cfg.UnknownTopic, tp)
	}
}

// moment is a time of the log's that is n milliseconds after noon.
func moment(n int) time.Time {
	return time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Millisecond)
}

// written makes records that were written at these moments.
func written(moments ...int) []log.OutgoingRecord {
	records := numbered(0, len(moments))
	for i, n := range moments {
		records[i].Timestamp = moment(n)
	}
	return records
}

func testValues(r *rig) {
	l := r.log()
	topic := r.topic(l)
	infos, err := l.Topics(r.Context(), []schema.Topic{topic})
	require.NoError(r, err)
	empty := []byte{}
	want := []log.OutgoingRecord{
		{Value: []byte("no key"), Timestamp: moment(40)},
		{Key: empty, Value: empty, Timestamp: moment(10).Add(999 * time.Microsecond)},
		{Key: []byte{0, 0xff}, Timestamp: moment(86_400_000), Headers: []schema.Header{
			{Key: "twice", Value: []byte("b")}, {Key: "", Value: nil}, {Key: "twice", Value: []byte("a")}, {Key: "e", Value: empty}}},
		{Key: []byte("key"), Value: []byte("é𝄞\x00"), Headers: []schema.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}},
	}
	before := time.Now().Truncate(time.Millisecond)
	r.send(l, at(topic, 2), want...)
	after := time.Now()
	null := func(b []byte) bool { return b == nil }
	check := func(got []pipeline.Record) {
		require.Len(r, got, len(want))
		for i, w := range want {
			g := got[i]
			assert.Equal(r, at(topic, 2), g.TopicPartition)
			assert.Equal(r, infos[topic].ID, g.TopicID)
			assert.EqualValues(r, i, g.Offset)
			assert.True(r, bytes.Equal(w.Key, g.Key) && null(w.Key) == null(g.Key), "key %d: %#v", i, g.Key)
			assert.True(r, bytes.Equal(w.Value, g.Value) && null(w.Value) == null(g.Value), "value %d: %#v", i, g.Value)
			same := func(a, b schema.Header) bool {
				return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && null(a.Value) == null(b.Value)
			}
			assert.True(r, slices.EqualFunc(w.Headers, r.headers(g), same), "headers %d: %v", i, g.Headers)
			if w.Timestamp.IsZero() {
				assert.WithinRange(r, g.Timestamp, before, after)
			} else {
				assert.True(r, w.Timestamp.Truncate(time.Millisecond).Equal(g.Timestamp), "%v is %v", w.Timestamp, g.Timestamp)
			}
		}
	}
	check(r.read(l, at(topic, 2)))
	check(r.read(r.log(), at(topic, 2)))
	msg, batch := r.receive(r.subscribe(l, log.SubscriberConfig{}, string(topic)))
	check(batch.Records)
	assert.Equal(r, string(topic)+"/2@0-3", msg.UUID)
	assert.Empty(r, msg.Payload)
	msg.Ack()
}

func testOrder(r *rig) {
	const rounds, size = 20, 50
	l := r.log()
	one, two := r.topic(l), r.topic(l)
	var senders sync.WaitGroup
	for _, topic := range []schema.Topic{one, two} {
		senders.Go(func() {
			for round := range rounds {
				var batches []log.PartitionBatch
				for partition := range int32(Partitions) {
					batches = append(batches, log.PartitionBatch{TopicPartition: at(topic, partition), Records: numbered(round*size, size)})
				}
				assert.NoError(r, errors.Join(l.Send(r.Context(), batches)...))
			}
		})
	}
	senders.Wait()
	for _, topic := range []schema.Topic{one, two} {
		for partition := range int32(Partitions) {
			records := r.read(l, at(topic, partition))
			require.Len(r, records, rounds*size)
			for i, record := range records {
				require.EqualValues(r, i, record.Offset)
				require.Equal(r, strconv.Itoa(i), string(record.Value))
			}
		}
	}
}

func testLarge(r *rig) {
	l := r.log()
	topic := r.topic(l)
	source := rand.NewChaCha8([32]byte{1})
	var want [][]byte
	for _, size := range []int{1, 511, 512, 513, 64 << 10, 256<<10 - 1, 256 << 10, 256<<10 + 1, log.MaxEventBytes} {
		random := make([]byte, size)
		_, _ = source.Read(random) // never fails
		want = append(want, random, bytes.Repeat([]byte{'a'}, size))
	}
	for _, value := range want {
		r.send(l, at(topic, 0), log.OutgoingRecord{Key: []byte("k"), Value: value})
	}
	got := r.read(l, at(topic, 0))
	require.Len(r, got, len(want))
	for i := range want {
		assert.True(r, bytes.Equal(want[i], got[i].Value), "record %d of %d bytes", i, len(want[i]))
	}
}

func testSendErrors(r *rig) {
	l := r.log()
	topic, unknown := r.topic(l), schema.Topic(r.cfg.Unique("unknown"))
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second) // a cluster is asked again until then
	defer cancel()
	errs := l.Send(ctx, []log.PartitionBatch{
		{TopicPartition: at(topic, 0), Records: numbered(0, 1)},
		{TopicPartition: at(unknown, 0), Records: numbered(0, 1)},
		{TopicPartition: at(topic, Partitions), Records: numbered(0, 1)},
		{TopicPartition: at(topic, 2)},
		{TopicPartition: at(topic, 0), Records: numbered(1, 1)},
		{TopicPartition: at(unknown, 0), Records: numbered(1, 1)},
	})
	require.Len(r, errs, 6)
	for _, i := range []int{0, 3, 4} {
		assert.NoError(r, errs[i], i)
	}
	for _, i := range []int{1, 2, 5} {
		assert.Error(r, errs[i], i)
	}
	assert.ErrorIs(r, errs[1], r.cfg.UnknownTopic)
	assert.Len(r, r.read(l, at(topic, 0)), 2)
	canceled, cancel := context.WithCancel(r.Context())
	cancel()
	assert.Error(r, l.Send(canceled, []log.PartitionBatch{{TopicPartition: at(topic, 1), Records: numbered(0, 1)}})[0])
	assert.Empty(r, l.Send(r.Context(), nil))
}

func testOffsets(r *rig) {
	l := r.log()
	topic := r.topic(l)
	ranges, err := l.Offsets(r.Context(), topic)
	require.NoError(r, err)
	assert.Equal(r, make([]log.OffsetRange, Partitions), ranges)
	r.send(l, at(topic, 2), numbered(0, 7)...)
	for _, l := range []Log{l, r.log()} {
		ranges, err = l.Offsets(r.Context(), topic)
		require.NoError(r, err)
		assert.Equal(r, []log.OffsetRange{{}, {}, {Oldest: 0, End: 7}, {}}, ranges)
	}
}

func testOffsetsAt(r *rig) {
	l := r.log()
	topic := r.topic(l)
	// Several batches; within them and from one to the next, time may go back.
	for _, batch := range [][]int{{0, 10}, {20, 20, 15}, {5, 30, 40}, {35}} {
		r.send(l, at(topic, 0), written(batch...)...)
	}
	r.send(l, at(topic, 1), written(20)...)
	for _, c := range []struct {
		at   time.Time
		want []int64
	}{
		{time.Time{}, []int64{0, 0, 0, 0}},
		{moment(0), []int64{0, 0, 0, 0}},
		{moment(0).Add(time.Microsecond), []int64{1, 0, 0, 0}},
		{moment(11), []int64{2, 0, 0, 0}},
		{moment(20), []int64{2, 0, 0, 0}},
		{moment(21), []int64{6, 1, 0, 0}},
		{moment(36), []int64{7, 1, 0, 0}},
		{moment(41), []int64{9, 1, 0, 0}},
	} {
		got, err := l.OffsetsAt(r.Context(), topic, c.at)
		require.NoError(r, err)
		assert.Equal(r, c.want, got, c.at)
	}
}

func testReadBounds(r *rig) {
	const n = 300
	l := r.log()
	topic := r.topic(l)
	for sent := 0; sent < n; {
		some := min(1+sent%17, n-sent)
		r.send(l, at(topic, 1), numbered(sent, some)...)
		sent += some
	}
	bounds := [][2]int64{{0, n}, {0, 1}, {n - 1, n}, {0, 0}, {n, n}}
	for range 50 {
		from := rand.Int64N(n)
		bounds = append(bounds, [2]int64{from, from + rand.Int64N(n-from)})
	}
	for _, b := range bounds {
		next := b[0]
		require.NoError(r, l.Read(r.Context(), at(topic, 1), b[0], b[1], func(records []pipeline.Record) error {
			for _, record := range records {
				require.Equal(r, next, record.Offset, b)
				require.Equal(r, strconv.FormatInt(next, 10), string(record.Value), b)
				next++
			}
			return nil
		}))
		require.Equal(r, b[1], next, b)
	}
}

func testReadOutOfRange(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 10)...)
	for _, bounds := range [][2]int64{{0, 11}, {-1, 5}, {11, 11}, {5, 4}} {
		err := l.Read(r.Context(), at(topic, 0), bounds[0], bounds[1], func([]pipeline.Record) error {
			assert.Fail(r, "records were read", bounds)
			return nil
		})
		assert.ErrorIs(r, err, r.cfg.OutOfRange, bounds)
		assert.ErrorContains(r, err, string(topic)+"/0")
	}
}

func testReadEnds(r *rig) {
	l := r.log()
	topic := r.topic(l)
	for sent := range 30 {
		record := numbered(sent, 1)
		record[0].Value = make([]byte, 900_000) // more than lie ready
		r.send(l, at(topic, 0), record...)
	}
	enough := errors.New("enough")
	assert.Equal(r, enough, l.Read(r.Context(), at(topic, 0), 0, 30, func([]pipeline.Record) error { return enough }))
	ctx, cancel := context.WithCancel(r.Context())
	assert.ErrorIs(r, l.Read(ctx, at(topic, 0), 0, 30, func([]pipeline.Record) error {
		cancel()
		return nil
	}), context.Canceled)
}

// testReadGrowing: what Offsets says is there, is there, from the first record on.
func testReadGrowing(r *rig) {
	const n = 1000
	writer, reader := r.log(), r.log()
	topic := r.topic(writer)
	var writing sync.WaitGroup
	for partition := range int32(2) {
		writing.Go(func() {
			for sent := 0; sent < n; sent += 10 {
				errs := writer.Send(r.Context(), []log.PartitionBatch{{TopicPartition: at(topic, partition), Records: numbered(sent, 10)}})
				assert.NoError(r, errs[0])
			}
		})
	}
	for next := [2]int64{}; next != [2]int64{n, n}; {
		ranges, err := reader.Offsets(r.Context(), topic)
		require.NoError(r, err)
		for partition := range next {
			require.NoError(r, reader.Read(r.Context(), at(topic, int32(partition)), next[partition], ranges[partition].End,
				func(records []pipeline.Record) error {
					for _, record := range records {
						require.Equal(r, strconv.FormatInt(next[partition], 10), string(record.Value))
						next[partition]++
					}
					return nil
				}))
			require.Equal(r, ranges[partition].End, next[partition])
		}
		if r.Failed() {
			break
		}
	}
	writing.Wait()
}
