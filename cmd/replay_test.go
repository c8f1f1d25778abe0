package cmd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// What is wrong with the flags is said before anything is opened.
func TestTheFlagsOfReplay(t *testing.T) {
	t.Parallel()
	env := environment{"DATA_DIR": filepath.Join(t.TempDir(), "none"), "KAFKA_TOPIC_PREFIX": "mine.", "KAFKA_TOPIC_PRICE_EVENTS": "ticks"}
	for _, c := range []struct {
		flags string
		want  string
	}{
		{"--from yesterday", `--from: neither an offset nor a time: "yesterday"`},
		{"--from -1", "--from"},
		{"--from=-5m", "--from"},
		{"--to=-2", `--to: neither an offset nor a time: "-2"`},
		{"--to 2026-03", "2026-03-01T09:30:00Z"},
		{"--from 2026-03-02 --to 2026-03-01", "lies before"},
		{"--from 5 --to 4", "--to 4 lies before --from 5"},
		{"--from 1h --to 2h", "--to 2h lies before --from 1h"},
		{"--from 2026-03-01T00:00:00Z --to 2026-02-01T00:00:00+01:00", "lies before"},
		{"--append", "--append is for --to-topic"},
		{"--to-topic=", `"" is not of 1 to 249 letters`},
		{"--to-topic a/b", `"a/b" is not of`},
		{"--to-topic ..", `".." is not of`},
		{"--to-topic __consumer_offsets", "Kafka itself"},
		{"--to-topic ticks", "pricemill's topic price-events"},
		{"--to-topic price-events", "pricemill's topic price-events"},
		{"--to-topic mine.raw-quotes", "pricemill's topic raw-quotes"},
		{"--to-topic theirs.quote-outcomes --append", "quote-outcomes-copy would be none"},
		{"--to-topic copy-of-price-events", "an installation with a prefix"},
	} {
		status, stdout, stderr := run(t, env, append([]string{"replay", "price-events"}, strings.Fields(c.flags)...)...)
		assert.Equal(t, 2, status, c.flags)
		assert.Empty(t, stdout, c.flags)
		assert.Contains(t, stderr, c.want, c.flags)
	}
	assert.NoDirExists(t, env["DATA_DIR"])
}

// noon is when the first record of replayStack was written.
var noon = time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)

// replayStack is a log of 6, 3, 2 and no records of price-events, and its broker,
// next to which no service runs. They are of no program of ours.
func replayStack(t *testing.T) (environment, eventLog) {
	t.Helper()
	env := newKafkaStack(t, nil)
	broker := connect(t, env)
	_, err := broker.EnsureTopics(t.Context(), []schema.Topic{schema.PriceEvents})
	require.NoError(t, err)
	send := func(p int32, records ...log.OutgoingRecord) {
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
		require.NoError(t, broker.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: records}})[0])
	}
	for p, count := range []int{6, 3, 1} {
		records := make([]log.OutgoingRecord, count)
		for i := range records { // a minute after the other
			records[i] = log.OutgoingRecord{Key: fmt.Append(nil, "k", p), Value: fmt.Appendf(nil, `{"n":%d}`, i),
				Timestamp: noon.Add(time.Duration(i) * time.Minute), Headers: []schema.Header{{Key: "h", Value: []byte{byte(i)}},
					{Key: "ce_outboxid", Value: []byte("other")}, {Key: "ce_outboxseq", Value: fmt.Append(nil, i+1)}, {Key: "h", Value: nil}}}
		}
		send(int32(p), records...)
	}
	send(2, log.OutgoingRecord{Value: []byte{0xff}, Timestamp: noon.Add(time.Hour)})
	return env, broker
}

// replayed is what replay printed, as partition/offset.
func replayed(t *testing.T, stdout string) []string {
	t.Helper()
	found := []string{}
	for line := range strings.Lines(stdout) {
		var record struct{ Partition, Offset json.Number }
		require.NoError(t, json.Unmarshal([]byte(line), &record))
		found = append(found, record.Partition.String()+"/"+record.Offset.String())
	}
	return found
}

func TestReplayWithinBounds(t *testing.T) {
	t.Parallel()
	env, _ := replayStack(t)
	at := func(minutes float64) string {
		return noon.Add(time.Duration(minutes * float64(time.Minute))).Format(time.RFC3339Nano)
	}
	every := "0/0 0/1 0/2 0/3 0/4 0/5 1/0 1/1 1/2 2/0 2/1"
	cases := []struct {
		flags string
		want  string
		said  string // on standard error; empty: nothing
	}{
		{"", every, ""},
		{"--from 0 --to -1", every, ""},
		{"--partition 1", "1/0 1/1 1/2", ""},
		{"--from 2 --to 4", "0/2 0/3 1/2", "the log ends before that offset"},
		{"--from 4 --partition 0", "0/4 0/5", ""},
		{"--from 6 --partition 0", "", "no record lies within the bounds"},
		{"--from 4", "0/4 0/5", "the log ends before that offset"},
		{"--from " + at(0), every, ""},
		{"--from " + at(1.5), "0/2 0/3 0/4 0/5 1/2 2/1", ""},
		{"--from " + at(2) + " --to " + at(4), "0/2 0/3 1/2", ""},
		{"--to " + at(1), "0/0 1/0 2/0", ""},
		{"--from 1 --to " + at(3), "0/1 0/2 1/1 1/2", "the log ends before that offset"},
		{"--from " + at(1) + " --to 2", "0/1 1/1 2/1", "the log ends before that offset"},
		{"--from 300000h --to 1h", every, ""},
		{"--from 1h", "", "no record lies within the bounds"},
	}
	for _, c := range cases {
		status, stdout, stderr := run(t, env, append([]string{"replay", "price-events"}, strings.Fields(c.flags)...)...)
		assert.Zero(t, status, "%s: %s", c.flags, stderr)
		assert.Equal(t, strings.Fields(c.want), replayed(t, stdout), c.flags)
		if c.said == "" {
			assert.NotContains(t, stderr, "WARN", c.flags)
		}
		assert.Contains(t, stderr, c.said, c.flags)
	}

	outside := func(flags, want string) {
		status, stdout, stderr := run(t, env, append([]string{"replay", "price-events"}, strings.Fields(flags)...)...)
		assert.Equal(t, 2, status, flags)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, want, flags)
	}
	outside("--from 7", "--from 7 lies outside of the log: price-events/0 holds 0 to 5, price-events/1 holds 0 to 2, "+
		"price-events/2 holds 0 to 1, price-events/3 holds nothing yet")
	outside("--partition 3 --from 1", "price-events/3 holds nothing yet")
	outside("--partition 4", "partitions 0 to 3")

	// A log whose head is gone.
	administer(t, env, func(admin sarama.ClusterAdmin) {
		require.NoError(t, admin.DeleteRecords(env["KAFKA_TOPIC_PREFIX"]+"price-events", map[int32]int64{0: 3, 1: 2}))
	})
	for flags, want := range map[string]string{
		"":                "0/3 0/4 0/5 1/2 2/0 2/1",
		"--from 1":        "0/3 0/4 0/5 1/2 2/1",
		"--from " + at(1): "0/3 0/4 0/5 1/2 2/1",
	} {
		status, stdout, stderr := run(t, env, append([]string{"replay", "price-events"}, strings.Fields(flags)...)...)
		assert.Zero(t, status, "%s: %s", flags, stderr)
		assert.Equal(t, strings.Fields(want), replayed(t, stdout), flags)
		assert.Contains(t, stderr, "the head of the log is gone", flags)
		assert.Contains(t, stderr, `"partition":0,"oldest":3,"end":6`, flags)
	}
	_, _, stderr := run(t, env, "replay", "price-events", "--partition", "0", "--from", at(4))
	assert.NotContains(t, stderr, "WARN", "it does not begin where the head was")
	outside("--partition 0 --to 2", "--to 2 lies outside of the log: price-events/0 holds 3 to 5")
	outside("--partition 1 --from 4", "price-events/1 holds 2 to 2")
}

// copied is what a copy says of itself.
type copied struct {
	Records, Beyond int64
	Complete        bool
	Partitions      []engine.Copied
}

func copyTo(t *testing.T, env environment, target string, flags ...string) copied {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"replay", "price-events", "--to-topic", target}, flags...)...)
	require.Zero(t, status, stderr)
	assert.Equal(t, 1, strings.Count(stdout, "\n"), "one line")
	var summary copied
	require.NoError(t, json.Unmarshal([]byte(stdout), &summary), stdout)
	assert.True(t, summary.Complete)
	assert.Zero(t, summary.Beyond)
	return summary
}

// recordsOf reads a topic, partition by partition.
func recordsOf(t *testing.T, broker eventLog, topic schema.Topic) [][]pipeline.Record {
	t.Helper()
	ranges, err := broker.Offsets(t.Context(), topic)
	require.NoError(t, err)
	records := make([][]pipeline.Record, len(ranges))
	for p, held := range ranges {
		require.NoError(t, broker.Read(t.Context(), pipeline.TopicPartition{Topic: topic, Partition: int32(p)}, held.Oldest, held.End,
			func(more []pipeline.Record) error {
				records[p] = append(records[p], more...)
				return nil
			}))
	}
	return records
}

// assertCopy holds a partition of a copy against what it was made of.
func assertCopy(t *testing.T, want, got []pipeline.Record) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		assert.Equal(t, want[i].Partition, got[i].Partition)
		assert.True(t, want[i].Timestamp.Equal(got[i].Timestamp), "%v, want %v", got[i].Timestamp, want[i].Timestamp)
		assert.Equal(t, want[i].Key, got[i].Key)
		assert.Equal(t, want[i].Value, got[i].Value)
		assert.Equal(t, want[i].Headers, got[i].Headers)
	}
}

func TestReplayIntoATopic(t *testing.T) {
	t.Parallel()
	env, broker := replayStack(t)
	target := env["KAFKA_TOPIC_PREFIX"] + "a-copy"
	whole := copyTo(t, env, target)
	assert.EqualValues(t, 11, whole.Records)
	assert.Equal(t, engine.Copied{Partition: 1, To: 3, Next: 3, Records: 3}, whole.Partitions[1])

	status, stdout, stderr := run(t, env, "replay", "price-events", "--to-topic", target)
	assert.Equal(t, 1, status)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "has records, as on partition 0 from 0 to 5; --append copies after them")

	part := copyTo(t, env, target, "--append", "--partition", "0", "--from", "4")
	assert.Equal(t, []engine.Copied{{From: 4, To: 6, Next: 6, Records: 2}}, part.Partitions)
	nothing := copyTo(t, env, target, "--append", "--from", "1h")
	assert.Empty(t, nothing.Partitions)

	want, got := recordsOf(t, broker, schema.PriceEvents), recordsOf(t, broker, schema.Topic(target))
	require.Len(t, got, 4)
	assertCopy(t, slices.Concat(want[0], want[0][4:]), got[0])
	for p := 1; p < 4; p++ {
		assertCopy(t, want[p], got[p])
	}
	administer(t, env, func(admin sarama.ClusterAdmin) {
		entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: target, ConfigNames: []string{"retention.ms"}})
		require.NoError(t, err)
		require.Len(t, entries, 1)
		assert.Equal(t, "-1", entries[0].Value)
	})
}

// Topics that someone made otherwise than a copy needs.
func TestReplayIntoATopicThatIsThere(t *testing.T) {
	t.Parallel()
	env, _ := replayStack(t)
	name := func(text string) string { return env["KAFKA_TOPIC_PREFIX"] + text }
	for topic, c := range map[string]struct {
		partitions int32
		settings   map[string]string
	}{
		"few": {3, nil}, "more": {5, nil}, "arrivals": {4, map[string]string{"message.timestamp.type": "LogAppendTime"}},
		"narrow": {4, map[string]string{"max.message.bytes": "100"}},
	} {
		createTopic(t, env, name(topic), c.partitions, c.settings)
	}
	for topic, want := range map[string]string{
		"few":      name("few") + " has 3 partitions, and price-events has 4",
		"arrivals": "is LogAppendTime",
	} {
		status, stdout, stderr := run(t, env, "replay", "price-events", "--to-topic", name(topic))
		assert.Equal(t, 1, status, topic)
		assert.Empty(t, stdout, topic)
		assert.Contains(t, stderr, want)
	}
	assert.EqualValues(t, 11, copyTo(t, env, name("more")).Records)

	// The batch that is too large for the topic ends the copy, which says where.
	status, stdout, stderr := run(t, env, "replay", "price-events", "--from", "1", "--partition", "0", "--to-topic", name("narrow"))
	assert.Equal(t, 1, status)
	var summary copied
	require.NoError(t, json.Unmarshal([]byte(stdout), &summary), stdout)
	assert.Equal(t, copied{Partitions: []engine.Copied{{From: 1, To: 6, Next: 1}}}, summary)
	assert.Contains(t, stderr, "batch too large")
	assert.Contains(t, stderr, "continue with: pricemill replay price-events --partition 0 --from 1 --to 6 --to-topic "+name("narrow")+" --append")
}

// A copy that is stopped on its way, and continued with as it says, is whole. Where it
// came through before it was stopped, there is nothing to continue with.
func TestReplayIntoATopicIsStopped(t *testing.T) {
	t.Parallel()
	env, broker := replayStack(t)
	value := make([]byte, 200_000) // a few of them are a batch
	for p := range int32(4) {
		for range 12 {
			tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
			records := slices.Repeat([]log.OutgoingRecord{{Value: value}}, 4)
			for i := range records {
				records[i].Key = []byte(uuid.NewString())
			}
			require.NoError(t, broker.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: records}})[0])
		}
	}
	target := schema.Topic(env["KAFKA_TOPIC_PREFIX"] + "a-copy")
	ctx, stop := context.WithCancel(t.Context())
	var out, errs bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- cmd.Main(ctx, []string{"replay", "price-events", "--to-topic", string(target)}, env.lookup, &out, &errs)
	}()
	begun := func() bool {
		ranges, err := broker.Offsets(t.Context(), target)
		return err == nil && slices.ContainsFunc(ranges, func(r log.OffsetRange) bool { return r.End > 0 })
	}
	assert.Eventually(t, begun, 20*time.Second, time.Millisecond)
	stop()
	status := <-ended
	var summary copied
	require.NoError(t, json.Unmarshal(out.Bytes(), &summary), errs.String())
	assert.Equal(t, summary.Complete, status == 0, errs.String())
	t.Logf("stopped after %d of %d records", summary.Records, 4*12*4+11)
	for _, line := range strings.Split(errs.String(), "\n") {
		if _, next, found := strings.Cut(line, "continue with: pricemill "); found {
			status, _, stderr := run(t, env, strings.Fields(next)...)
			require.Zero(t, status, stderr)
		}
	}
	want, got := recordsOf(t, broker, schema.PriceEvents), recordsOf(t, broker, target)
	for p := range want {
		if summary.Beyond == 0 {
			assertCopy(t, want[p], got[p])
		}
		summary.Beyond += int64(len(want[p]) - len(got[p]))
	}
	assert.Zero(t, summary.Beyond, "more than it had said")
}

// Next to a running service, of what it wrote itself; and a topic that the database
// knows takes no copy, whatever its name.
func TestReplayIntoATopicBesideAService(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	p.eventually("/readyz", http.StatusOK)
	for _, symbol := range []string{"AAPL", "MSFT", "IBM"} {
		got := p.get("/api/v1/prices/latest?symbol=" + symbol)
		require.Equal(t, http.StatusOK, got.status, got.body)
	}
	target := p.env["KAFKA_TOPIC_PREFIX"] + "live-copy"
	assert.EqualValues(t, 3, copyTo(t, p.env, target).Records)
	broker := connect(t, p.env)
	want, got := recordsOf(t, broker, schema.PriceEvents), recordsOf(t, broker, schema.Topic(target))
	require.Len(t, got, len(want))
	chained := 0
	for i := range want {
		assertCopy(t, want[i], got[i])
		for _, r := range got[i] {
			if slices.ContainsFunc(r.Headers, func(h schema.Header) bool { return h.Key == "ce_outboxseq" }) {
				chained++
			}
		}
	}
	assert.Equal(t, 3, chained, "a copy has the places in the outbox's chain")
	p.eventually("/readyz", http.StatusOK)

	// The database knows it by another name.
	infos, err := broker.Topics(t.Context(), []schema.Topic{schema.Topic(target)})
	require.NoError(t, err)
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	_, err = db.RegisterTopic(t.Context(), "former", infos[schema.Topic(target)].ID, 4)
	require.NoError(t, err)
	status, _, stderr := run(t, p.env, "replay", "price-events", "--to-topic", target, "--append")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "the database knows as former")
}

// What is said of an installation that takes the copy of another one's topic for its
// own.
func TestACopyIsForeignToPricemill(t *testing.T) {
	t.Parallel()
	env := newSharedStack(t, nil)
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	got := p.get("/api/v1/prices/latest?symbol=AAPL")
	require.Equal(t, http.StatusOK, got.status, got.body)
	target := env["KAFKA_TOPIC_PREFIX"] + "taken"
	assert.EqualValues(t, 1, copyTo(t, env, target).Records)
	id := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	other := start(t, env.with(environment{"DATABASE_URL": newDatabase(t, id), "KAFKA_TOPIC_PREFIX": env["KAFKA_TOPIC_PREFIX"] + "other.",
		"KAFKA_GROUP_ID": env["KAFKA_GROUP_ID"] + "-other", "KAFKA_TOPIC_PRICE_EVENTS": target}))
	assert.Eventually(t, func() bool {
		answer := other.get("/readyz")
		return answer.status == http.StatusServiceUnavailable && strings.Contains(answer.body, "another database")
	}, 30*time.Second, 10*time.Millisecond)
}
