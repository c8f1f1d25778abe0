package kafka_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

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

func TestSendKeepsTimestamps(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"none", "zstd"} {
		b := newBroker(t, func(c *kafka.Config) { c.Compression = codec })
		topic := newTopic(t, b)
		want := []int{40, 10, 86_400_000, 0, 10, -5}
		records := written(want...)
		records[1].Timestamp = records[1].Timestamp.Add(999 * time.Microsecond)
		send(t, b, at(topic, 0), append(records, numbered(6, 1)...)...)
		got := readAll(t, b, at(topic, 0))
		for i, n := range want {
			if !got[i].Timestamp.Equal(moment(n)) {
				t.Errorf("%s: record %d is of %v, want %v", codec, i, got[i].Timestamp, moment(n))
			}
		}
		if age := time.Since(got[6].Timestamp); age < 0 || age > time.Minute {
			t.Errorf("a record without a time is of %v ago", age)
		}
	}
}

// What a copy sends again is what was read: also no key and an empty one, no value
// and an empty one, headers twice.
func TestSendWhatWasRead(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	from, to := newTopic(t, b), newTopic(t, b)
	empty := []byte{}
	send(t, b, at(from, 1),
		log.OutgoingRecord{Value: []byte("no key"), Timestamp: moment(1)},
		log.OutgoingRecord{Key: empty, Value: empty, Timestamp: moment(2)},
		log.OutgoingRecord{Key: []byte{0, 0xff}, Timestamp: moment(3), Headers: []schema.Header{
			{Key: "twice", Value: []byte("b")}, {Key: "", Value: nil}, {Key: "twice", Value: []byte("a")}, {Key: "e", Value: empty}}})
	want := readAll(t, b, at(from, 1))
	for _, r := range want {
		send(t, b, at(to, 1), log.OutgoingRecord{Key: r.Key, Headers: r.Headers, Value: r.Value, Timestamp: r.Timestamp})
	}
	same := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	for i, got := range readAll(t, b, at(to, 1)) {
		headers := slices.EqualFunc(got.Headers, want[i].Headers, func(a, b schema.Header) bool { return a.Key == b.Key && same(a.Value, b.Value) })
		if !same(got.Key, want[i].Key) || !same(got.Value, want[i].Value) || !headers || !got.Timestamp.Equal(want[i].Timestamp) {
			t.Errorf("got %+v, want %+v", got, want[i])
		}
	}
}

func TestOffsetsAt(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	// Several batches; within them and from one to the next, time may go back.
	for _, batch := range [][]int{{0, 10}, {20, 20, 15}, {5, 30, 40}, {35}} {
		send(t, b, at(topic, 0), written(batch...)...)
	}
	send(t, b, at(topic, 1), written(20)...)
	for _, c := range []struct {
		at   time.Time
		want []int64
	}{
		{time.Time{}, []int64{0, 0, 0, 0}},
		{time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC), []int64{0, 0, 0, 0}},
		{moment(0), []int64{0, 0, 0, 0}},
		{moment(1), []int64{1, 0, 0, 0}},
		{moment(10), []int64{1, 0, 0, 0}},
		{moment(10).Add(1), []int64{2, 0, 0, 0}},
		{moment(20), []int64{2, 0, 0, 0}},
		{moment(20).Add(time.Nanosecond), []int64{6, 1, 0, 0}},
		{moment(31), []int64{7, 1, 0, 0}},
		{moment(40), []int64{7, 1, 0, 0}},
		{moment(41), []int64{9, 1, 0, 0}},
		{time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), []int64{9, 1, 0, 0}},
	} {
		got, err := b.OffsetsAt(t.Context(), topic, c.at)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("at %v: %v, want %v: %v", c.at, got, c.want, err)
		}
	}

	// Of a log whose head is gone, none before the oldest.
	if err := newAdmin(t).DeleteRecords(string(topic), map[int32]int64{0: 3}); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]int64{0: 3, 15: 3, 20: 3, 21: 6} {
		got, err := b.OffsetsAt(t.Context(), topic, moment(n))
		if err != nil || got[0] != want {
			t.Errorf("after the head is gone, at %d: %v, want %d: %v", n, got, want, err)
		}
	}
	if _, err := b.OffsetsAt(t.Context(), noTopic(), moment(0)); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("of no topic: %v", err)
	}
}

// A broker that looks for a time sees one segment. Where the record that it would
// have found there is gone with the head of the log, those after it count.
func TestOffsetsAtBehindAHeadThatIsGone(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := schema.Topic(unique("segments"))
	admin, size, forEver := newAdmin(t), "1048576", "-1" // the least that Kafka takes
	detail := &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1,
		ConfigEntries: map[string]*string{"segment.bytes": &size, "retention.ms": &forEver}}
	if err := admin.CreateTopic(string(topic), detail, false); err != nil {
		t.Fatal(err)
	}
	for _, batch := range [][]int{{40, 10}, {30}, {20}, {5}} {
		records := written(batch...)
		records[0].Value = make([]byte, 900_000) // a segment has one of them
		send(t, b, at(topic, 0), records...)
	}
	if err := admin.DeleteRecords(string(topic), map[int32]int64{0: 1}); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]int64{5: 1, 10: 1, 15: 2, 25: 2, 30: 2, 31: 5, 41: 5} {
		got, err := b.OffsetsAt(t.Context(), topic, moment(n))
		if err != nil || got[0] != want {
			t.Errorf("at %d: %v, want %d: %v", n, got, want, err)
		}
	}
}

func TestKeepsTimestamps(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	for _, c := range []struct {
		setting string
		want    bool
	}{{"", true}, {"LogAppendTime", false}, {"CreateTime", true}} {
		if c.setting != "" {
			entries := map[string]*string{"message.timestamp.type": &c.setting}
			if err := newAdmin(t).AlterConfig(sarama.TopicResource, string(topic), entries, false); err != nil {
				t.Fatal(err)
			}
		}
		// A broker answers before it has applied the setting.
		began := time.Now()
		keeps, err := b.KeepsTimestamps(t.Context(), topic)
		for err == nil && keeps != c.want && time.Since(began) < 30*time.Second {
			keeps, err = b.KeepsTimestamps(t.Context(), topic)
		}
		if err != nil || keeps != c.want {
			t.Errorf("with %q: %v, %v", c.setting, keeps, err)
		}
	}
}
