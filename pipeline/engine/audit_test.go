package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// answering is a handler from each of whose records one event follows.
type answering struct{ pipeline.Handler }

func (answering) Audit(_ context.Context, view *audit.View) (audit.Auditor, error) {
	return audit.EachApplied(func(_ context.Context, r *pipeline.Record, events int) error {
		if events != 1 {
			view.Finding.Add(1, max(0, 1-int64(events)), max(0, int64(events)-1), fmt.Sprintf("%d events follow from offset %d", events, r.Offset))
		}
		return nil
	}), nil
}

func init() {
	engine.AuditHolds = func(r *engine.Rig) map[string]map[string]int64 {
		r.T.Helper()
		counts := map[string]map[string]int64{}
		found := auditRig(r)
		requireHolds(r.T, found)
		for name, f := range found {
			counts[name] = f.Counts
		}
		return counts
	}
}

// newAuditRig is a rig of which everything holds: on each partition prices came
// through the outbox, one of them twice, one cannot be read, one came from
// elsewhere, and one event is none of the stage's.
func newAuditRig(t *testing.T) *engine.Rig {
	r := engine.NewRig(t, &engine.Recorder{})
	for partition := range int32(engine.Partitions) {
		r.Emit(partition, 3)
	}
	r.Relay()
	for partition := range int32(engine.Partitions) {
		r.Append(partition, 3, func(record *pipeline.Record) { *record = again(r.LogOf(partition)[2], record.Offset) })
		r.Append(partition, 4, func(record *pipeline.Record) { record.Value = []byte("\xffno price") })
		r.Append(partition, 0, nil)
		r.Append(partition, 5, func(record *pipeline.Record) { *record = of(*record, heard{string(record.Key)}) })
		r.Emit(partition, 2)
	}
	r.Relay()
	r.Consume()
	r.Relay()
	return r
}

// heard is another event on the topic of prices.
type heard struct {
	Of string `json:"of"`
}

func init() { schema.Register[heard]() }

func (heard) EventType() schema.EventType { return "test.price.heard.v1" }
func (heard) Topic() schema.Topic         { return schema.PriceEvents }
func (h heard) Key() string               { return h.Of }
func (heard) OccurredAt() schema.Time     { return engine.PriceNo("S", 1).Timestamp }
func (heard) Validate() error             { return nil }

// again is the same record at another offset.
func again(r pipeline.Record, offset int64) pipeline.Record { r.Offset = offset; return r }

// of is a record with another payload.
func of(r pipeline.Record, p schema.Payload) pipeline.Record {
	headers, value, err := schema.Event{ID: schema.EventID(r.Headers), Source: "test", Payload: p}.Encode()
	if err != nil {
		panic(err)
	}
	link, _, err := chain.LinkOf(r.Headers)
	if err != nil {
		panic(err)
	}
	r.Headers, r.Value = append(headers, link.Headers()...), value
	return r
}

// with is a record with another value in a header.
func with(r pipeline.Record, key, value string) pipeline.Record {
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			r.Headers[i].Value = []byte(value)
		}
	}
	return r
}

// auditOf is the audit of what a snapshot has.
func auditOf(t require.TestingT, r *engine.Rig, view *store.Snapshot) map[string]*audit.Finding {
	ctx := context.Background()
	topics, err := topics.Lookup(ctx, r.DB, r.Broker, engine.RigTopics, engine.ByLastDigit)
	require.NoError(t, err)
	spec := r.Spec()
	spec.Handler = answering{spec.Handler}
	findings, err := audit.Run(ctx, audit.Config{View: view, Broker: r.Broker, Topics: topics, Stages: []engine.StageSpec{spec}, Most: 20})
	require.NoError(t, err)
	byName := map[string]*audit.Finding{}
	for _, f := range findings {
		byName[f.Name] = f
	}
	return byName
}

func auditRig(r *engine.Rig) map[string]*audit.Finding {
	r.T.Helper()
	view, err := r.DB.Snapshot(r.T.Context())
	require.NoError(r.T, err)
	defer view.Close()
	return auditOf(r.T, r, view)
}

func requireHolds(t require.TestingT, findings map[string]*audit.Finding) {
	for name, f := range findings {
		require.Equal(t, audit.Holds, f.State, "%s: %q", name, append(f.Differences, f.Unproven...))
	}
}

func TestAnAuditFindsNothingWhereAllHolds(t *testing.T) {
	t.Parallel()
	r := newAuditRig(t)
	found := auditRig(r)
	requireHolds(t, found)
	assert.Equal(t, map[string]int64{"records": 9 * engine.Partitions, "applied": 6 * engine.Partitions, "repeats": engine.Partitions, "dead letters": engine.Partitions,
		"not for it": engine.Partitions}, found["stage test"].Counts)
	assert.Equal(t, map[string]int64{"dead letters": engine.Partitions}, found["dead letters"].Counts)
	assert.Equal(t, map[string]int64{"records": 15 * engine.Partitions, "repeats": engine.Partitions, "events": 13 * engine.Partitions}, found["log"].Counts)
	for name, f := range found {
		assert.Empty(t, f.Limits, name)
	}
}

func TestAnAuditFindsDamage(t *testing.T) {
	t.Parallel()
	outcome := func(partition int32) pipeline.TopicPartition {
		return pipeline.TopicPartition{Topic: schema.QuoteOutcomes, Partition: partition}
	}
	for name, damage := range map[string]struct {
		do func(r *engine.Rig)
		// in is what finds it, and says.
		in, says      string
		lost, doubled int64
	}{
		"an event that waits is gone": {func(r *engine.Rig) {
			r.Emit(1, 3)
			r.Exec(`DELETE FROM outbox WHERE epoch = $1 AND part = 1 AND seq = 9`, r.Epoch(schema.PriceEvents))
		}, "log", "numbers 9 to 9 of chain", 1, 0},
		"the last event that waits is gone": {func(r *engine.Rig) {
			r.Emit(1, 3)
			r.Exec(`DELETE FROM outbox WHERE epoch = $1 AND part = 1 AND seq = 10`, r.Epoch(schema.PriceEvents))
		}, "log", "numbers 10 to 10 of chain", 1, 0},
		"an event was checkpointed as sent, and was not": {func(r *engine.Rig) {
			r.Logged(schema.PriceEvents, 2, 1)
		}, "log", "lost 1 records at its end", 1, 0},
		"a number is missing, and the stage was told to skip it": {func(r *engine.Rig) {
			r.Append(3, 9, nil) // after 7
			r.Consume()
			r.Resolve(halt.Skip)
			r.Consume()
			r.Relay()
		}, "log", "lost 1 records before offset 9", 1, 0},
		"another event has a number that was": {func(r *engine.Rig) {
			r.Append(0, 7, func(record *pipeline.Record) { *record = with(*record, "ce_id", "another") })
			r.Consume()
		}, "log", "event another at offset 9 of price-events/0 has a number that another event has", 1, 0},
		"an event waits whose number is another's in the log": {func(r *engine.Rig) {
			last := r.Outcomes(1)[5]
			r.Exec(`UPDATE chains SET sent = sent - 1 WHERE epoch = $1 AND part = 1`, r.Epoch(schema.QuoteOutcomes))
			r.Exec(`INSERT INTO outbox (epoch, part, seq, msg_key, headers, payload) VALUES ($1, 1, 6, $2, $3, $4)`, r.Epoch(schema.QuoteOutcomes),
				last.Key, store.EncodeHeaders(with(last, "ce_id", "another").Headers), last.Value)
		}, "log", "has a number that the log has for another event", 1, 0},
		"a derived event is there twice under one id": {func(r *engine.Rig) {
			r.Broker.Log[outcome(1)] = append(r.Outcomes(1), with(again(r.Outcomes(1)[2], 6), chain.HeaderNumber, "7"))
			r.Logged(schema.QuoteOutcomes, 1, 1)
		}, "log", "derived by test, is there under another number as well", 0, 1},
		"a derived event is there twice under two ids": {func(r *engine.Rig) {
			r.Broker.Log[outcome(1)] = append(r.Outcomes(1), with(with(again(r.Outcomes(1)[2], 6), chain.HeaderNumber, "7"), "ce_id", "another"))
			r.Logged(schema.QuoteOutcomes, 1, 1)
		}, "stage test", "follows from no record that the stage applied", 0, 1},
		"an emitted event is there twice": {func(r *engine.Rig) {
			r.Append(1, 8, func(record *pipeline.Record) {
				*record = with(again(r.LogOf(1)[1], record.Offset), chain.HeaderNumber, "8")
			})
			r.Consume()
			r.Relay()
		}, "log", "is there under another number as well", 0, 1},
		"an event that was derived is gone": {func(r *engine.Rig) {
			r.Broker.Log[outcome(1)] = r.Outcomes(1)[:5]
			r.Logged(schema.QuoteOutcomes, 1, -1)
		}, "stage test", "0 events follow from offset 8", 1, 0},
		"a dead letter is gone": {func(r *engine.Rig) {
			r.Exec(`DELETE FROM dead_letters WHERE part = 2`)
		}, "stage test", "the record at offset 4 of price-events/2 should be a dead letter", 1, 0},
		"a byte of a dead letter's value is another": {func(r *engine.Rig) {
			r.Exec(`UPDATE dead_letters SET payload = $1 WHERE part = 2`, []byte("\xfeno price"))
		}, "stage test", "the dead letter of offset 4 of price-events/2 does not have the value of the record", 1, 0},
		"a dead letter's key is another": {func(r *engine.Rig) {
			r.Exec(`UPDATE dead_letters SET msg_key = $1 WHERE part = 2`, []byte("simulated/S1"))
		}, "stage test", "does not have the key of the record", 1, 0},
		"a dead letter's headers are others": {func(r *engine.Rig) {
			r.Exec(`UPDATE dead_letters SET headers = $1 WHERE part = 2`, store.EncodeHeaders(nil))
		}, "stage test", "does not have the headers of the record", 1, 0},
		"a dead letter is of a record that was applied": {func(r *engine.Rig) { r.Bury(1, 1) },
			"stage test", "from the record at offset 1 of price-events/1 follow 1 events, and it was not applied: dead letters", 0, 1},
		"a dead letter is of a repeat": {func(r *engine.Rig) { r.Bury(1, 3) },
			"stage test", `is a dead letter, and should not be: it is among the "repeats"`, 0, 1},
		"a dead letter is of another's event": {func(r *engine.Rig) { r.Bury(1, 6) },
			"stage test", `is a dead letter, and should not be: it is among the "not for it"`, 0, 1},
		"a dead letter is of a record to come": {func(r *engine.Rig) {
			r.Append(1, 8, nil)
			r.Bury(1, 9)
		}, "stage test", "there is a dead letter of offset 9 of price-events/1, and the stage is at 9", 0, 1},
		"a dead letter is of nothing": {func(r *engine.Rig) {
			r.Bury(1, 3)
			r.Exec(`UPDATE dead_letters SET part = 17 WHERE log_offset = 3`)
		}, "dead letters", "of which it takes nothing", 0, 1},
		"a position is beyond the log": {func(r *engine.Rig) {
			r.Exec(`UPDATE positions SET next_offset = 12 WHERE part = 1`)
		}, "positions", "test is at offset 12 of price-events/1, and the log ends at 9", 0, 0},
		"a position continued and left a record out": {func(r *engine.Rig) {
			r.Append(1, 8, nil)
			r.Exec(`UPDATE positions SET next_offset = 10, chain_seq = 8 WHERE part = 1`)
		}, "stage test", "0 events follow from offset 9", 1, 0},
		"a position went back": {func(r *engine.Rig) {
			r.Exec(`UPDATE positions SET next_offset = 8, chain_seq = 6 WHERE part = 1`)
		}, "stage test", "follows from no record that the stage applied", 0, 1},
		"a position knows another number": {func(r *engine.Rig) {
			r.Exec(`UPDATE positions SET chain_seq = 6 WHERE part = 1`)
		}, "positions", "up to number 6 of chain outbox-1, by its position, and by the log up to number 7", 0, 0},
		"a position has halted": {func(r *engine.Rig) {
			r.Append(1, 9, nil)
			r.Consume()
		}, "positions", "test has halted at offset 9 of price-events/1: the log lost 1 records", 0, 0},
		"a position is of no partition": {func(r *engine.Rig) {
			r.Exec(`UPDATE positions SET part = 9 WHERE part = 1`)
		}, "positions", "test is on price-events/9, and there is no such partition", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newAuditRig(t)
			damage.do(r)
			found := auditRig(r)
			f := found[damage.in]
			require.NotNil(t, f)
			assert.Equal(t, audit.Differs, f.State)
			assert.True(t, slices.ContainsFunc(f.Differences, func(d string) bool { return strings.Contains(d, damage.says) }),
				"one says %q: %q", damage.says, f.Differences)
			assert.Equal(t, damage.lost, f.Lost, "lost: %q", f.Differences)
			assert.Equal(t, damage.doubled, f.Doubled, "doubled: %q", f.Differences)
		})
	}
}

// Whatever happens between the snapshot and the look at the log, what is beyond
// the snapshot is no difference.
func TestAnAuditGoesByItsSnapshot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := engine.NewRig(t, &engine.Recorder{})
		step := func() {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				r.Emit(rapid.Int32Range(0, engine.Partitions-1).Draw(rt, "partition"), rapid.IntRange(1, 3).Draw(rt, "events"))
			case 1:
				r.Relay()
			case 2:
				r.Consume()
			case 3: // the answer to a relay was lost
				if p := rapid.Int32Range(0, engine.Partitions-1).Draw(rt, "partition"); len(r.LogOf(p)) > 0 {
					from := rapid.IntRange(0, len(r.LogOf(p))-1).Draw(rt, "again")
					for _, record := range r.LogOf(p)[from:] {
						tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
						r.Broker.Log[tp] = append(r.Broker.Log[tp], again(record, int64(len(r.Broker.Log[tp]))))
					}
				}
			}
		}
		for range rapid.IntRange(0, 8).Draw(rt, "before") {
			step()
		}
		view, err := r.DB.Snapshot(t.Context())
		require.NoError(rt, err)
		defer view.Close()
		for range rapid.IntRange(0, 8).Draw(rt, "since") {
			step()
		}
		requireHolds(rt, auditOf(rt, r, view))
	})
}

// What an operator decided, and what the log no longer has, are limits where
// nothing is lost or doubled by it.
func TestAnAuditKnowsItsLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(t *testing.T, r *engine.Rig) *engine.Rig
		in   string
		says string
	}{
		"the head of the log is gone": {func(_ *testing.T, r *engine.Rig) *engine.Rig {
			for p := range int32(engine.Partitions) {
				r.Broker.Oldest[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}] = 5
				r.Broker.Oldest[pipeline.TopicPartition{Topic: schema.QuoteOutcomes, Partition: p}] = 2
			}
			return r
		}, "log", "price-events/0 begins at offset 5: what was before is not looked at"},
		"the database was restored from a copy": {func(t *testing.T, r *engine.Rig) *engine.Rig {
			copied := t.TempDir() + "/copy"
			r.CopyTo(copied)
			r.Emit(1, 2)
			r.Relay()
			r.Consume()
			r.Relay()
			restored := r.Restore(copied)
			for range 3 { // as long as stages halt
				restored.Emit(1, 1)
				restored.Relay()
				restored.Consume()
				restored.Resolve(halt.Skip)
			}
			restored.Consume()
			restored.Relay()
			return restored
		}, "log", "which another database wrote, or a later state of this one"},
		"a topic was created again": {func(t *testing.T, r *engine.Rig) *engine.Rig {
			r.Recreate("topic-again")
			r.Consume()
			r.Resolve(halt.Skip)
			r.Emit(1, 3)
			r.Relay()
			r.Consume()
			r.Relay()
			return r
		}, "stage test", "price-events was created again"},
		"a stage of another binary ran here": {func(t *testing.T, r *engine.Rig) *engine.Rig {
			require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
				return tx.CreatePositions(t.Context(), []store.Position{{Stage: "other", Topic: string(schema.PriceEvents), TopicID: engine.TestTopicID}})
			}))
			return r
		}, "positions", "this binary does not have stage other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := auditRig(c.do(t, newAuditRig(t)))
			requireHolds(t, found)
			assert.Contains(t, strings.Join(found[c.in].Limits, "\n"), c.says)
		})
	}
}

// A record that another event's number made a repeat was never applied: that is
// lost, and an audit says so, of the stage as well as of the log.
func TestAnAuditFindsARepeatThatWasNeverApplied(t *testing.T) {
	t.Parallel()
	r := newAuditRig(t)
	r.Append(1, 8, func(record *pipeline.Record) { *record = with(*record, "ce_id", "forged") })
	r.Append(1, 8, nil)
	r.Consume()
	r.Relay()
	for _, name := range []string{"log", "stage test"} {
		f := auditRig(r)[name]
		assert.Equal(t, audit.Differs, f.State, name)
		assert.Equal(t, int64(1), f.Lost, name)
	}
	assert.Contains(t, strings.Join(auditRig(r)["stage test"].Differences, "\n"), "was skipped as a repeat, and its event was never applied")
}
