package cmd_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TestFaultsPoison writes records that no stage can take among good ones, at
// random, to every topic that a stage reads: anyone who reaches the log can. Each is
// a dead letter of each stage of its topic, with all its bytes, and everything
// else continues as if they were not there. The events of the scenario are the good
// records, its cycles the others.
//
// What of these is no dead letter: a good event without a key, or with a key of
// its own, is applied, if it lies where it belongs; and what a provider answers is
// data, whatever it is (see unpriced).
func TestFaultsPoison(t *testing.T) {
	s := newScenario(t, "poison records", everyStack...)
	n := pick(s, 5_000, 100_000)
	answers := makeAnswers(s.random, n, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	clean := s.runMixed(newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"}), answers, nil, nil)

	poison := makePoison(t, s.random, n/10)
	if thisStack() != servicesStack {
		// A table log numbers its records itself, whatever their headers say.
		poison = slices.DeleteFunc(poison, func(p poisonOf) bool { return p.kind.name == noPlace })
	}
	odd := makeUnpriced(s.random, n/50)
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	mixed := s.runMixed(env, answers, poison, odd)
	t.Logf("%d answers took %v; with %d poison records and %d answers without a price %v",
		n, clean.Round(time.Millisecond), len(poison), len(odd), mixed.Round(time.Millisecond))
}

// runMixed runs answers, and what is among them, through the chain of a program of
// its own, checks what became of all, and returns how long it took.
func (s *scenario) runMixed(env environment, answers []fedAnswer, poison []poisonOf, odd []oddAnswer) time.Duration {
	t := s.t
	t.Helper()
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	broker := connect(t, env)
	lanes := mix(t, s.random, answers, poison, odd)
	began := time.Now()
	sendAll(t, broker, lanes)
	awaitDrained(t, env)
	took := time.Since(began)
	if len(poison) == 0 {
		return took // for comparison
	}
	s.letters = checkLetters(t, env, poison)
	s.cycles += len(poison)
	s.check(env, answers)
	checkOutcomes(t, env, odd)
	p.eventually("/readyz", http.StatusOK)
	if status, _, stderr := run(t, env, "dead-letters", "list", "--limit", "1000"); status != 0 {
		assert.Fail(t, "listing dead letters", stderr)
	}
	assert.Zero(t, p.stop(), "exit status; log:\n%s", p.logs)
	return took
}

// oddAnswer is an answer without a price, and what should become of it.
type oddAnswer struct {
	name  string
	event schema.Event
	code  schema.Code
}

func makeUnpriced(random *rand.Rand, n int) []oddAnswer {
	names := slices.Sorted(maps.Keys(unpriced))
	odd := make([]oddAnswer, n)
	for i := range odd {
		kind := unpriced[names[i%len(names)]]
		symbol := schema.Symbol("U" + strconv.Itoa(random.IntN(20)))
		at := schema.NewTime(time.Date(2025, 6, 15, 14, 0, i, 0, time.UTC))
		id := "unpriced-" + strconv.Itoa(i)
		odd[i] = oddAnswer{names[i%len(names)], schema.Event{ID: id, Source: "elsewhere", Payload: schema.QuoteFetched{
			Quote:       schema.Quote{Provider: kind.provider, Symbol: symbol, RequestID: id},
			RawResponse: schema.RawResponse(fmt.Sprintf(kind.answer, symbol)), ReceivedAt: at}}, kind.code}
	}
	return odd
}

// mix puts all records in one random order, in which the answers keep theirs, and
// sorts them by partition. Some good ones have no key.
func mix(t testing.TB, random *rand.Rand, answers []fedAnswer, poison []poisonOf, odd []oddAnswer) map[pipeline.TopicPartition][]log.OutgoingRecord {
	t.Helper()
	lanes := map[pipeline.TopicPartition][]log.OutgoingRecord{}
	put := func(tp pipeline.TopicPartition, r log.OutgoingRecord) { lanes[tp] = append(lanes[tp], r) }
	good := func(e schema.Event) {
		headers, value, err := e.Encode()
		require.NoError(t, err)
		key := []byte(e.Payload.Key())
		tp := pipeline.TopicPartition{Topic: e.Payload.Topic(), Partition: kafka.Partition(key, partitionsInTests)}
		switch random.IntN(100) {
		case 0:
			key = nil
		case 1:
			key = []byte("a key of its own")
		}
		put(tp, log.OutgoingRecord{Key: key, Headers: headers, Value: value})
	}
	for a, p, o := 0, 0, 0; a < len(answers) || p < len(poison) || o < len(odd); {
		switch which := random.IntN(len(answers) - a + len(poison) - p + len(odd) - o); {
		case which < len(answers)-a:
			good(schema.Event{ID: answers[a].id, Source: "test", Payload: answers[a].quote})
			a++
		case which < len(answers)-a+len(poison)-p:
			put(poison[p].TopicPartition, poison[p].record)
			p++
		default:
			good(odd[o].event)
			o++
		}
	}
	return lanes
}

// sendAll writes the records of each partition in batches, as many as fit.
func sendAll(t testing.TB, broker eventLog, lanes map[pipeline.TopicPartition][]log.OutgoingRecord) {
	t.Helper()
	const most, bytes = 2000, 950_000
	for len(lanes) > 0 {
		var round []log.PartitionBatch
		for tp, records := range lanes {
			n, size := 0, 0
			for n < min(len(records), most) {
				size += bytesOf(records[n])
				if n > 0 && size > bytes {
					break
				}
				n++
			}
			round = append(round, log.PartitionBatch{TopicPartition: tp, Records: records[:n]})
			if lanes[tp] = records[n:]; len(records) == n {
				delete(lanes, tp)
			}
		}
		for _, err := range broker.Send(t.Context(), round) {
			require.NoError(t, err)
		}
	}
}

func bytesOf(r log.OutgoingRecord) int {
	size := len(r.Key) + len(r.Value) + 50
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value) + 10
	}
	return size
}

// fingerprint is of all bytes of a record. Null is not empty.
func fingerprint(key []byte, headers []schema.Header, value []byte) [sha256.Size]byte {
	hash := sha256.New()
	part := func(b []byte) {
		length := int64(len(b))
		if b == nil {
			length = -1
		}
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(length)))
		hash.Write(b)
	}
	part(key)
	part(value)
	for _, h := range headers {
		if thisStack() != servicesStack && strings.HasPrefix(h.Key, "ce_outbox") {
			continue // a table log has its own
		}
		part([]byte(h.Key))
		part(h.Value)
	}
	return [sha256.Size]byte(hash.Sum(nil))
}

// letterPlace is where a dead letter of a stage lies.
type letterPlace struct {
	Stage string
	pipeline.TopicPartition
	Offset int64
}

// checkLetters holds the dead letters against the poison that is in the log: one
// of each record in each stage of its topic, byte for byte, and no other. It
// returns their number.
func checkLetters(t testing.TB, env environment, poison []poisonOf) int {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	want := expectedLetters(t, env, db, poison)
	listed, err := store.DeadLetters(t.Context(), db, "", len(want)+1)
	require.NoError(t, err)
	assert.Len(t, listed, len(want), "dead letters")
	ids, err := topicIDs(t, env)
	require.NoError(t, err)
	wrong := 0
	for _, l := range listed {
		letter, err := store.ReadDeadLetter(t.Context(), db, l.ID)
		require.NoError(t, err)
		at := letterPlace{letter.Stage, pipeline.TopicPartition{Topic: schema.Topic(letter.Topic), Partition: letter.Part}, letter.Offset}
		p, expected := want[at]
		delete(want, at)
		headers, err := store.DecodeHeaders(letter.Headers)
		require.NoError(t, err)
		same := expected && letter.TopicID == ids[at.Topic] &&
			fingerprint(letter.Key, headers, letter.Payload) == fingerprint(p.record.Key, p.record.Headers, p.record.Value)
		if same {
			same = assert.Contains(t, letter.Reason, p.kind.reason, p.kind.name)
		}
		if !same {
			if wrong++; wrong < 5 {
				t.Errorf("dead letter %d of %s at %s offset %d is not what was sent: %s", letter.ID, letter.Stage, at.TopicPartition, letter.Offset, letter.Reason)
			}
		}
	}
	assert.Zero(t, wrong, "dead letters that are not as they were sent")
	missing := 0
	for at, p := range want {
		if missing++; missing < 5 {
			t.Errorf("no dead letter of %s at %s offset %d: %s", at.Stage, at.TopicPartition, at.Offset, p.kind.name)
		}
	}
	assert.Zero(t, missing, "poison records without a dead letter")
	return len(listed)
}

// expectedLetters finds the poison in the log, and each stage of its topic.
func expectedLetters(t testing.TB, env environment, db *store.Store, poison []poisonOf) map[letterPlace]poisonOf {
	t.Helper()
	positions, err := store.Positions(t.Context(), db, "")
	require.NoError(t, err)
	stages := map[schema.Topic]map[string]bool{}
	for _, p := range positions {
		topic := schema.Topic(p.Topic)
		if stages[topic] == nil {
			stages[topic] = map[string]bool{}
		}
		stages[topic][p.Stage] = true
	}
	sent := map[pipeline.TopicPartition]map[[sha256.Size]byte][]poisonOf{}
	for _, p := range poison {
		if sent[p.TopicPartition] == nil {
			sent[p.TopicPartition] = map[[sha256.Size]byte][]poisonOf{}
		}
		print := fingerprint(p.record.Key, p.record.Headers, p.record.Value)
		sent[p.TopicPartition][print] = append(sent[p.TopicPartition][print], p)
	}
	broker := connect(t, env)
	want := map[letterPlace]poisonOf{}
	for tp, prints := range sent {
		ranges, err := broker.Offsets(t.Context(), tp.Topic)
		require.NoError(t, err)
		require.NoError(t, broker.Read(t.Context(), tp, 0, ranges[tp.Partition].End, func(records []pipeline.Record) error {
			for _, r := range records {
				print := fingerprint(r.Key, r.Headers, r.Value)
				if same := prints[print]; len(same) > 0 {
					prints[print] = same[1:]
					for stage := range stages[tp.Topic] {
						want[letterPlace{stage, tp, r.Offset}] = same[0]
					}
				}
			}
			return nil
		}))
		for _, rest := range prints {
			assert.Empty(t, rest, "poison that is not in the log")
		}
	}
	return want
}

// topicIDs are the cluster's.
func topicIDs(t testing.TB, env environment) (map[schema.Topic]string, error) {
	infos, err := connect(t, env).Topics(t.Context(), schema.Topics())
	ids := map[schema.Topic]string{}
	for topic, info := range infos {
		ids[topic] = info.ID
	}
	return ids, err
}

// checkOutcomes holds the read model of requests against what should have become
// of the answers without a price.
func checkOutcomes(t testing.TB, env environment, odd []oddAnswer) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var rows []struct {
		ID    string      `db:"request_id"`
		State string      `db:"state"`
		Code  schema.Code `db:"code"`
	}
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT request_id, state, code FROM requests WHERE request_id LIKE 'unpriced-%'`))
	got := map[string]string{}
	for _, r := range rows {
		got[r.ID] = r.State + " " + string(r.Code)
	}
	assert.Len(t, rows, len(odd))
	for _, o := range odd {
		assert.Equal(t, "rejected "+string(o.code), got[o.event.ID], o.name)
	}
}
