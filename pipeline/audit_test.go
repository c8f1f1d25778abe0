package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// answering is a recorder from each of whose records one event follows.
type answering struct{ recorder }

func (h *answering) Audit(_ context.Context, view *AuditView) (Auditor, error) {
	return EachApplied(func(_ context.Context, r *Record, events int) error {
		if events != 1 {
			view.Finding.Add(1, max(0, 1-int64(events)), max(0, int64(events)-1), fmt.Sprintf("%d events follow from offset %d", events, r.Offset))
		}
		return nil
	}), nil
}

// newAuditRig is a rig of which everything holds: on each partition prices came
// through the outbox, one of them twice, one cannot be read, one came from
// elsewhere, and one event is none of the stage's.
func newAuditRig(t *testing.T) *rig {
	r := newRig(t, &answering{})
	for partition := range int32(partitions) {
		r.emit(partition, 3)
	}
	r.relay()
	for partition := range int32(partitions) {
		r.append(partition, 3, func(record *Record) { *record = again(r.log(partition)[2], record.Offset) })
		r.append(partition, 4, func(record *Record) { record.Value = []byte("\xffno price") })
		r.append(partition, 0, nil)
		r.append(partition, 5, func(record *Record) { *record = of(*record, heard{string(record.Key)}) })
		r.emit(partition, 2)
	}
	r.relay()
	r.consume()
	r.relay()
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
func (heard) OccurredAt() schema.Time     { return price("S", 1).Timestamp }
func (heard) Validate() error             { return nil }

// again is the same record at another offset.
func again(r Record, offset int64) Record { r.Offset = offset; return r }

// of is a record with another payload.
func of(r Record, p schema.Payload) Record {
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
func with(r Record, key, value string) Record {
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			r.Headers[i].Value = []byte(value)
		}
	}
	return r
}

// auditOf is the audit of what a snapshot has.
func (r *rig) auditOf(t require.TestingT, view *store.Snapshot) map[string]*Finding {
	ctx := context.Background()
	topology, err := LookupTopology(ctx, r.db, r.broker, rigTopics, byLastDigit)
	require.NoError(t, err)
	findings, err := Audit(ctx, AuditConfig{View: view, Broker: r.broker, Topology: topology, Stages: []StageSpec{r.stage.spec}, Most: 20})
	require.NoError(t, err)
	byName := map[string]*Finding{}
	for _, f := range findings {
		byName[f.Name] = f
	}
	return byName
}

func (r *rig) audit() map[string]*Finding {
	r.t.Helper()
	view, err := r.db.Snapshot(r.t.Context())
	require.NoError(r.t, err)
	defer view.Close()
	return r.auditOf(r.t, view)
}

func requireHolds(t require.TestingT, findings map[string]*Finding) {
	for name, f := range findings {
		require.Equal(t, Holds, f.State, "%s: %q", name, append(f.Differences, f.Unproven...))
	}
}

func TestAnAuditFindsNothingWhereAllHolds(t *testing.T) {
	t.Parallel()
	r := newAuditRig(t)
	found := r.audit()
	requireHolds(t, found)
	assert.Equal(t, map[string]int64{"records": 9 * partitions, wasApplied: 6 * partitions, wasRepeat: partitions, wasDead: partitions,
		wasOther: partitions}, found["stage test"].Counts)
	assert.Equal(t, map[string]int64{"dead letters": partitions}, found["dead letters"].Counts)
	assert.Equal(t, map[string]int64{"records": 15 * partitions, "repeats": partitions, "events": 13 * partitions}, found["log"].Counts)
	for name, f := range found {
		assert.Empty(t, f.Limits, name)
	}
}

// outcomes is what the log has of the events that the stage gave on a partition.
func (r *rig) outcomes(partition int32) []Record {
	return r.broker.log[TopicPartition{schema.QuoteOutcomes, partition}]
}

// exec runs one statement on the tables.
func (r *rig) exec(query string, args ...any) {
	r.t.Helper()
	require.NoError(r.t, r.db.Write(r.t.Context(), func(tx *store.Tx) error {
		n, err := tx.Exec(r.t.Context(), query, args...)
		assert.Equal(r.t, int64(1), n, "rows of %q", query)
		return err
	}))
}

// logged has the chain of a partition say that n events more, or fewer, are in
// the log.
func (r *rig) logged(topic schema.Topic, partition int32, n int64) {
	r.t.Helper()
	r.exec(`UPDATE chains SET last = last + $1, sent = sent + $1 WHERE epoch = $2 AND part = $3`, n, r.epoch(topic), partition)
}

func TestAnAuditFindsDamage(t *testing.T) {
	t.Parallel()
	outcome := func(partition int32) TopicPartition { return TopicPartition{schema.QuoteOutcomes, partition} }
	for name, damage := range map[string]struct {
		do func(r *rig)
		// in is what finds it, and says.
		in, says      string
		lost, doubled int64
	}{
		"an event that waits is gone": {func(r *rig) {
			r.emit(1, 3)
			r.exec(`DELETE FROM outbox WHERE epoch = $1 AND part = 1 AND seq = 9`, r.epoch(schema.PriceEvents))
		}, "log", "numbers 9 to 9 of chain", 1, 0},
		"the last event that waits is gone": {func(r *rig) {
			r.emit(1, 3)
			r.exec(`DELETE FROM outbox WHERE epoch = $1 AND part = 1 AND seq = 10`, r.epoch(schema.PriceEvents))
		}, "log", "numbers 10 to 10 of chain", 1, 0},
		"an event was noted as sent, and was not": {func(r *rig) {
			r.logged(schema.PriceEvents, 2, 1)
		}, "log", "lost 1 records at its end", 1, 0},
		"a number is missing, and the stage was told to skip it": {func(r *rig) {
			r.append(3, 9, nil) // behind 7
			r.consume()
			r.resolve(Skip)
			r.consume()
			r.relay()
		}, "log", "lost 1 records before offset 9", 1, 0},
		"another event has a number that was": {func(r *rig) {
			r.append(0, 7, func(record *Record) { *record = with(*record, "ce_id", "another") })
			r.consume()
		}, "log", "event another at offset 9 of price-events/0 has a number that another event has", 1, 0},
		"an event waits whose number is another's in the log": {func(r *rig) {
			last := r.outcomes(1)[5]
			r.exec(`UPDATE chains SET sent = sent - 1 WHERE epoch = $1 AND part = 1`, r.epoch(schema.QuoteOutcomes))
			r.exec(`INSERT INTO outbox (epoch, part, seq, msg_key, headers, payload) VALUES ($1, 1, 6, $2, $3, $4)`, r.epoch(schema.QuoteOutcomes),
				last.Key, store.EncodeHeaders(with(last, "ce_id", "another").Headers), last.Value)
		}, "log", "has a number that the log has for another event", 1, 0},
		"a derived event is there twice under one id": {func(r *rig) {
			r.broker.log[outcome(1)] = append(r.outcomes(1), with(again(r.outcomes(1)[2], 6), chain.HeaderNumber, "7"))
			r.logged(schema.QuoteOutcomes, 1, 1)
		}, "log", "derived by test, is there under another number as well", 0, 1},
		"a derived event is there twice under two ids": {func(r *rig) {
			r.broker.log[outcome(1)] = append(r.outcomes(1), with(with(again(r.outcomes(1)[2], 6), chain.HeaderNumber, "7"), "ce_id", "another"))
			r.logged(schema.QuoteOutcomes, 1, 1)
		}, "stage test", "follows from no record that the stage applied", 0, 1},
		"an emitted event is there twice": {func(r *rig) {
			r.append(1, 8, func(record *Record) { *record = with(again(r.log(1)[1], record.Offset), chain.HeaderNumber, "8") })
			r.consume()
			r.relay()
		}, "log", "is there under another number as well", 0, 1},
		"an event that was derived is gone": {func(r *rig) {
			r.broker.log[outcome(1)] = r.outcomes(1)[:5]
			r.logged(schema.QuoteOutcomes, 1, -1)
		}, "stage test", "0 events follow from offset 8", 1, 0},
		"a dead letter is gone": {func(r *rig) {
			r.exec(`DELETE FROM dead_letters WHERE part = 2`)
		}, "stage test", "the record at offset 4 of price-events/2 should be a dead letter", 1, 0},
		"a byte of a dead letter's value is another": {func(r *rig) {
			r.exec(`UPDATE dead_letters SET payload = $1 WHERE part = 2`, []byte("\xfeno price"))
		}, "stage test", "the dead letter of offset 4 of price-events/2 does not have the value of the record", 1, 0},
		"a dead letter's key is another": {func(r *rig) {
			r.exec(`UPDATE dead_letters SET msg_key = $1 WHERE part = 2`, []byte("simulated/S1"))
		}, "stage test", "does not have the key of the record", 1, 0},
		"a dead letter's headers are others": {func(r *rig) {
			r.exec(`UPDATE dead_letters SET headers = $1 WHERE part = 2`, store.EncodeHeaders(nil))
		}, "stage test", "does not have the headers of the record", 1, 0},
		"a dead letter is of a record that was applied": {func(r *rig) { r.bury(1, 1) },
			"stage test", "from the record at offset 1 of price-events/1 follow 1 events, and it was not applied: dead letters", 0, 1},
		"a dead letter is of a repeat": {func(r *rig) { r.bury(1, 3) },
			"stage test", `is a dead letter, and should not be: it is among the "repeats"`, 0, 1},
		"a dead letter is of another's event": {func(r *rig) { r.bury(1, 6) },
			"stage test", `is a dead letter, and should not be: it is among the "not for it"`, 0, 1},
		"a dead letter is of a record to come": {func(r *rig) {
			r.append(1, 8, nil)
			r.bury(1, 9)
		}, "stage test", "there is a dead letter of offset 9 of price-events/1, and the stage stands at 9", 0, 1},
		"a dead letter is of nothing": {func(r *rig) {
			r.bury(1, 3)
			r.exec(`UPDATE dead_letters SET part = 17 WHERE log_offset = 3`)
		}, "dead letters", "of which it takes nothing", 0, 1},
		"a position is beyond the log": {func(r *rig) {
			r.exec(`UPDATE positions SET next_offset = 12 WHERE part = 1`)
		}, "positions", "test stands at offset 12 of price-events/1, and the log ends at 9", 0, 0},
		"a position went on and left a record out": {func(r *rig) {
			r.append(1, 8, nil)
			r.exec(`UPDATE positions SET next_offset = 10, chain_seq = 8 WHERE part = 1`)
		}, "stage test", "0 events follow from offset 9", 1, 0},
		"a position went back": {func(r *rig) {
			r.exec(`UPDATE positions SET next_offset = 8, chain_seq = 6 WHERE part = 1`)
		}, "stage test", "follows from no record that the stage applied", 0, 1},
		"a position knows another number": {func(r *rig) {
			r.exec(`UPDATE positions SET chain_seq = 6 WHERE part = 1`)
		}, "positions", "up to number 6 of chain outbox-1, by its position, and by the log up to number 7", 0, 0},
		"a position has halted": {func(r *rig) {
			r.append(1, 9, nil)
			r.consume()
		}, "positions", "test has halted at offset 9 of price-events/1: the log lost 1 records", 0, 0},
		"a position is of no partition": {func(r *rig) {
			r.exec(`UPDATE positions SET part = 9 WHERE part = 1`)
		}, "positions", "test stands on price-events/9, and there is no such partition", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newAuditRig(t)
			damage.do(r)
			found := r.audit()
			f := found[damage.in]
			require.NotNil(t, f)
			assert.Equal(t, Differs, f.State)
			assert.True(t, slices.ContainsFunc(f.Differences, func(d string) bool { return strings.Contains(d, damage.says) }),
				"one says %q: %q", damage.says, f.Differences)
			assert.Equal(t, damage.lost, f.Lost, "lost: %q", f.Differences)
			assert.Equal(t, damage.doubled, f.Doubled, "doubled: %q", f.Differences)
		})
	}
}

// bury makes a dead letter of a record.
func (r *rig) bury(partition int32, offset int64) {
	r.t.Helper()
	record := r.log(partition)[offset]
	record.fault = assert.AnError
	require.NoError(r.t, r.db.Write(r.t.Context(), func(tx *store.Tx) error {
		return tx.AddDeadLetters(r.t.Context(), deadLetters("test", price("S", 1).Timestamp, []Record{record}))
	}))
}

// Whatever happens between the snapshot and the look at the log, what is beyond
// the snapshot is no difference.
func TestAnAuditGoesByItsSnapshot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, &answering{})
		step := func() {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				r.emit(rapid.Int32Range(0, partitions-1).Draw(rt, "partition"), rapid.IntRange(1, 3).Draw(rt, "events"))
			case 1:
				r.relay()
			case 2:
				r.consume()
			case 3: // the answer to a relay was lost
				if p := rapid.Int32Range(0, partitions-1).Draw(rt, "partition"); len(r.log(p)) > 0 {
					from := rapid.IntRange(0, len(r.log(p))-1).Draw(rt, "again")
					for _, record := range r.log(p)[from:] {
						tp := TopicPartition{schema.PriceEvents, p}
						r.broker.log[tp] = append(r.broker.log[tp], again(record, int64(len(r.broker.log[tp]))))
					}
				}
			}
		}
		for range rapid.IntRange(0, 8).Draw(rt, "before") {
			step()
		}
		view, err := r.db.Snapshot(t.Context())
		require.NoError(rt, err)
		defer view.Close()
		for range rapid.IntRange(0, 8).Draw(rt, "since") {
			step()
		}
		requireHolds(rt, r.auditOf(rt, view))
	})
}

// What an operator decided, and what the log no longer has, are limits where
// nothing is lost or doubled by it.
func TestAnAuditKnowsItsLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(t *testing.T, r *rig) *rig
		in   string
		says string
	}{
		"the head of the log is gone": {func(_ *testing.T, r *rig) *rig {
			for p := range int32(partitions) {
				r.broker.oldest[TopicPartition{schema.PriceEvents, p}] = 5
				r.broker.oldest[TopicPartition{schema.QuoteOutcomes, p}] = 2
			}
			return r
		}, "log", "price-events/0 begins at offset 5: what was before is not looked at"},
		"the database was restored from a copy": {func(t *testing.T, r *rig) *rig {
			copied := t.TempDir() + "/copy"
			r.copyTo(copied)
			r.emit(1, 2)
			r.relay()
			r.consume()
			r.relay()
			restored := r.restore(copied)
			for range 3 { // as long as stages halt
				restored.emit(1, 1)
				restored.relay()
				restored.consume()
				restored.resolve(Skip)
			}
			restored.consume()
			restored.relay()
			return restored
		}, "log", "which another database wrote, or a later state of this one"},
		"a topic was created again": {func(t *testing.T, r *rig) *rig {
			r.recreate("topic-again")
			r.consume()
			r.resolve(Skip)
			r.emit(1, 3)
			r.relay()
			r.consume()
			r.relay()
			return r
		}, "stage test", "price-events was created again"},
		"a stage of another binary ran here": {func(t *testing.T, r *rig) *rig {
			require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.CreatePositions(t.Context(), []store.Position{{Stage: "other", Topic: string(schema.PriceEvents), TopicID: testTopicID}})
			}))
			return r
		}, "positions", "this binary does not have stage other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := c.do(t, newAuditRig(t)).audit()
			requireHolds(t, found)
			assert.Contains(t, strings.Join(found[c.in].Limits, "\n"), c.says)
		})
	}
}

// recreate empties price-events and gives it another id.
func (r *rig) recreate(id string) {
	r.broker.infos[schema.PriceEvents] = TopicInfo{id, partitions}
	for p := range int32(partitions) {
		delete(r.broker.log, TopicPartition{schema.PriceEvents, p})
	}
	r.stage.outbox.topology = r.topology()
}
