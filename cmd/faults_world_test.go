package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Faults between what the world outside says and what is kept of it: a handler
// that prepares itself, providers that were asked, files that are read.

// asPreparer has a process that is started as the program run a handler that no
// program has: all those that are built in prepare nothing.
const asPreparer = "PRICEMILL_TEST_AS_PREPARER"

func init() {
	if os.Getenv(asPreparer) != "" {
		pipeline.RegisterHandler(pipeline.HandlerModule{Name: "prepared", Doc: "Keeps what it asked for each answer.",
			Consumes: []schema.EventType{schema.QuoteFetched{}.EventType()},
			New:      func(pipeline.Env) (pipeline.Handler, error) { return preparing{}, nil }})
	}
}

// preparing keeps what the world said about each record. Where Handle gets one
// that was not prepared, it panics, which is a dead letter.
type preparing struct{}

var _ pipeline.Preparer = preparing{}

func (preparing) Prepare(_ context.Context, in []pipeline.Record) error {
	for i := range in {
		in[i].Prepared = worldOn(in[i].Event.ID)
	}
	return nil
}

func worldOn(id string) string { return "the world on " + id }

func (preparing) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	rows := store.Rows{Table: "prepared", Columns: []string{"id", "event_id", "said"}}
	for i := range in {
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, err
		}
		rows.Add(id, in[i].Event.ID, in[i].Prepared.(string))
	}
	return nil, tx.Insert(ctx, rows)
}

// TestFaultsFailpointPrepare kills the service where a handler has asked the
// world, and nothing of the answers is stored.
func TestFaultsFailpointPrepare(t *testing.T) {
	s := newScenario(t, fmt.Sprintf("killed at `%s`", failpoint.StagePrepared), sqliteFirst(everyStack)...)
	s.verifies = []string{"--without", "prepared"} // which is in no binary but that process
	v := s.newVictim(environment{asPreparer: "1"})
	require.NoError(t, v.tables().Write(t.Context(), func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE prepared (id {int} PRIMARY KEY, event_id {text} NOT NULL, said {text} NOT NULL)`)
	}))
	fed := s.feed(v.env)
	for range pick(s, 2, 20) {
		v.dies(fmt.Sprintf("%s=kill@%d", failpoint.StagePrepared, 1+s.random.IntN(20)))
	}
	v.recovers("")
	answers := fed.end()
	s.check(v.env, answers)

	var said []struct {
		EventID string `db:"event_id"`
		Said    string `db:"said"`
	}
	require.NoError(t, v.tables().Select(t.Context(), &said, `SELECT event_id, said FROM prepared`))
	held := int64(0)
	for _, ends := range endsOf(t, v.env, schema.RawQuotes) {
		held += ends.End - ends.Oldest
	}
	assert.Len(t, said, int(held), "each record of the log once, and what was fed twice twice")
	known := map[string]string{}
	for _, row := range said {
		known[row.EventID] = row.Said
	}
	for _, a := range answers {
		if known[a.id] != worldOn(a.id) {
			s.lost++
		}
	}
	assert.Zero(t, s.lost)
	v.stop()
}

// TestFaultsFailpointFetch kills the service where providers have answered and no
// outcome is stored, and then has it fail there. Each request has one outcome.
func TestFaultsFailpointFetch(t *testing.T) {
	s := newScenario(t, fmt.Sprintf("killed, and errors, at `%s`", failpoint.FetchAnswered), everyStack...)
	v := s.newVictim(nil)
	v.up("") // makes the topics
	v.stop()
	kills, errs := pick(s, 2, 20), pick(s, 2, 20)
	requests := makeRequests((kills + errs) * 150)
	appendEvents(t, v.env, requests)
	for range kills {
		v.dies(fmt.Sprintf("%s=kill@%d", failpoint.FetchAnswered, 1+s.random.IntN(8)))
	}
	v.recovers(fmt.Sprintf("%s=error@2/5", failpoint.FetchAnswered))
	require.Eventually(t, func() bool { return len(v.logs.all(failpoint.Message)) >= errs }, 2*time.Minute, 5*time.Millisecond)
	s.cycles += len(v.logs.all(failpoint.Message))
	v.stop()
	v.up("")
	require.Eventually(t, func() bool {
		var open int
		err := v.tables().Get(t.Context(), &open, `SELECT count(*) FROM fetch_queue`)
		return err == nil && open == 0
	}, 2*time.Minute, 20*time.Millisecond)
	s.check(v.env, nil)

	outcomes := outcomesOf(t, v.env)
	s.events += len(requests)
	lost, doubled := 0, 0
	for _, event := range requests {
		switch n := len(outcomes[event.Payload.(schema.FetchRequested).RequestID]); {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	s.lost, s.doubled = s.lost+lost, s.doubled+doubled
	assert.Zero(t, lost, "requests without an outcome")
	assert.Zero(t, doubled, "requests with more than one")
	v.stop()
}

// makeRequests makes n requests, which have all the time they need.
func makeRequests(n int) []schema.Event {
	events := make([]schema.Event, n)
	now := time.Now()
	for i := range events {
		id := "request-" + strconv.Itoa(i)
		events[i] = schema.Event{ID: id, Source: "test", Payload: schema.FetchRequested{
			Quote:       schema.Quote{Provider: "simulated", Symbol: schema.Symbol("S" + strconv.Itoa(i%fedSymbols)), RequestID: id},
			RequestedAt: schema.NewTime(now), Deadline: schema.NewTime(now.Add(time.Hour))}}
	}
	return events
}

// appendEvents appends events to the log, each on the partition of its key.
func appendEvents(t testing.TB, env environment, events []schema.Event) {
	t.Helper()
	broker, err := dial(t.Context(), env)
	require.NoError(t, err)
	defer func() { assert.NoError(t, broker.Close()) }()
	batches := map[pipeline.TopicPartition]*log.PartitionBatch{}
	for _, event := range events {
		headers, value, err := event.Encode()
		require.NoError(t, err)
		topic, key := event.Payload.Topic(), []byte(event.Payload.Key())
		tp := pipeline.TopicPartition{Topic: topic, Partition: kafka.Partition(key, int32(len(endsOfTopic(t, broker, topic))))}
		if batches[tp] == nil {
			batches[tp] = &log.PartitionBatch{TopicPartition: tp}
		}
		batches[tp].Records = append(batches[tp].Records, log.OutgoingRecord{Key: key, Headers: headers, Value: value})
	}
	var all []log.PartitionBatch
	for _, batch := range batches {
		all = append(all, *batch)
	}
	require.NoError(t, errors.Join(broker.Send(t.Context(), all)...))
}

// outcomesOf are the outcomes of each request: the places in the chain at which
// they lie, which repeats of the relay share.
func outcomesOf(t testing.TB, env environment) map[string]map[string]bool {
	t.Helper()
	broker := connect(t, env)
	outcomes := map[string]map[string]bool{}
	for _, topic := range []schema.Topic{schema.RawQuotes, schema.QuoteOutcomes} {
		for partition, held := range endsOfTopic(t, broker, topic) {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(partition)}
			require.NoError(t, broker.Read(t.Context(), tp, held.Oldest, held.End, func(records []pipeline.Record) error {
				for _, record := range records {
					event, err := schema.DecodeEvent(record.Headers, record.Value)
					if err != nil {
						return err
					}
					var request string
					switch payload := event.Payload.(type) {
					case schema.QuoteFetched:
						request = payload.RequestID
					case schema.QuoteFailed:
						request = payload.RequestID
					default:
						continue // what normalize makes of an answer
					}
					place := tp.String()
					for _, h := range record.Headers {
						if strings.HasPrefix(h.Key, "ce_outbox") {
							place += " " + string(h.Value)
						}
					}
					if outcomes[request] == nil {
						outcomes[request] = map[string]bool{}
					}
					outcomes[request][place] = true
				}
				return nil
			}))
		}
	}
	return outcomes
}

// endsOfTopic are the offsets that the partitions of a topic hold.
func endsOfTopic(t testing.TB, broker eventLog, topic schema.Topic) []log.OffsetRange {
	t.Helper()
	ranges, err := broker.Offsets(t.Context(), topic)
	require.NoError(t, err)
	return ranges
}

// TestFaultsFailpointIngest kills an ingest where a part of its file is in the log,
// some of it without an answer, and begins again with the whole file.
func TestFaultsFailpointIngest(t *testing.T) {
	s := newScenario(t, fmt.Sprintf("an ingest killed at `%s` or `%s`", failpoint.AppendSent, failpoint.SenderAnswered), sqliteFirst(everyStack)...)
	v := s.newVictim(nil)
	v.up("")
	const lines = 2500 // more than a batch
	cycles := pick(s, 2, 20)
	for cycle := range cycles {
		name := filepath.Join(t.TempDir(), "prices.csv")
		require.NoError(t, os.WriteFile(name, closes(cycle, lines), 0o600))
		point := failpoint.AppendSent
		if v.env.onKafka() && s.random.IntN(2) == 1 {
			point = failpoint.SenderAnswered
		}
		v.commandDies(fmt.Sprintf("%s=kill@%d", point, 1+s.random.IntN(2)), "ingest", "--provider", "csv", name)
		// Only what raw-store has applied is known to be there already; what it
		// has not, it drops when it comes again.
		applied := s.random.IntN(2) == 0
		if applied {
			awaitDrained(t, v.env)
		}
		summary := ingested(t, v.env, "--provider", "csv", name)
		assert.Equal(t, lines, summary.Quotes)
		if applied {
			assert.Less(t, summary.New, lines, "a part was there already")
		}
	}
	s.check(v.env, nil)
	var stored, prices int
	require.NoError(t, v.tables().Get(t.Context(), &stored, `SELECT count(DISTINCT raw_response) FROM raw_market_data`))
	require.NoError(t, v.tables().Get(t.Context(), &prices, `SELECT count(*) FROM processed_prices`))
	s.events += cycles * lines
	s.lost += cycles*lines - stored
	s.doubled += prices - stored
	assert.Equal(t, cycles*lines, stored)
	assert.Equal(t, stored, prices)
	v.stop()
}

// closes is a file of prices, none of which is in that of another number.
func closes(number, lines int) []byte {
	var b strings.Builder
	b.WriteString("time,symbol,price\n")
	begin := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range lines {
		n := number*lines + i
		fmt.Fprintf(&b, "%s,S%d,%d\n", begin.Add(time.Duration(n)*time.Second).Format(time.RFC3339), n%fedSymbols, n+1)
	}
	return []byte(b.String())
}
