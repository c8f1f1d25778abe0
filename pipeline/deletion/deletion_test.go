package deletion_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/deletion"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

var at = schema.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

const partitions = 2

// onPartition puts all keys of a provider on one partition.
func onPartition(key []byte, n int32) int32 { return int32(len(key)) % n }

// rig is a database that is open, with its log: a table, or a cluster.
type rig struct {
	t     *testing.T
	db    *store.Store
	log   log.Broker
	table *table.Log
	kafka *kafka.Broker
	close func()
}

// logDir is where the cluster of a database keeps its log, of one whose log is on Kafka.
func logDir(path string) string { return path + ".kafka" }

// openDatabase opens a database without its log.
func openDatabase(t *testing.T, path string) *rig {
	t.Helper()
	engine, err := sqlite.Open(path, sqlite.Expendable)
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	return &rig{t: t, db: db}
}

// open opens a database; also its cluster, where it has one.
func open(t *testing.T, path string) *rig {
	t.Helper()
	r := openDatabase(t, path)
	db := r.db
	if _, err := os.Stat(logDir(path)); err != nil {
		r.table = table.Open(table.Config{Store: db, Partitions: partitions, Partitioner: onPartition})
		r.log, r.close = r.table, func() { require.NoError(t, errors.Join(r.table.Close(), db.Close())) }
		return r
	}
	cluster, err := kafkatest.Start(kafkatest.Config{Dir: logDir(path)})
	require.NoError(t, err)
	r.kafka, err = kafka.New(t.Context(), kafka.Config{Brokers: []string{cluster.Addr()}, Partitions: partitions})
	require.NoError(t, err)
	r.log, r.close = r.kafka, func() { require.NoError(t, errors.Join(r.kafka.Close(), db.Close(), cluster.Close())) }
	return r
}

func (r *rig) exec(statements ...string) {
	r.t.Helper()
	require.NoError(r.t, r.db.Write(r.t.Context(), func(tx *store.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(r.t.Context(), s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	}))
}

func (r *rig) send(id string, payload schema.Payload) {
	r.t.Helper()
	headers, value, err := schema.Event{ID: id, Source: "test", Payload: payload}.Encode()
	require.NoError(r.t, err)
	r.sendRecord(payload.Topic(), log.OutgoingRecord{Key: []byte(payload.Key()), Headers: headers, Value: value, Timestamp: at.Time})
}

func (r *rig) sendRecord(topic schema.Topic, record log.OutgoingRecord) {
	r.t.Helper()
	require.NoError(r.t, errors.Join(r.log.Send(r.t.Context(), []log.PartitionBatch{{
		TopicPartition: pipeline.TopicPartition{Topic: topic, Partition: onPartition(record.Key, partitions)}, Records: []log.OutgoingRecord{record}}})...))
}

// newDatabase makes a database with data of the providers gone and kept, of the symbols A and
// B&B, and returns the path of its file.
func newDatabase(t *testing.T) string { return newDatabaseOn(t, false) }

// newDatabaseOn makes one with its log on a cluster.
func newDatabaseOn(t *testing.T, cluster bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if cluster {
		require.NoError(t, os.Mkdir(logDir(path), 0o700))
	}
	r := open(t, path)
	defer r.close()
	recorded := store.TableLog
	if cluster {
		var err error
		recorded, err = r.kafka.ClusterID(t.Context())
		require.NoError(t, err)
	}
	require.NoError(t, r.db.RecordLog(t.Context(), recorded))
	infos, err := r.log.EnsureTopics(t.Context(), schema.Topics())
	require.NoError(t, err)
	for _, topic := range schema.Topics() {
		_, err := r.db.RegisterTopic(t.Context(), string(topic), infos[topic].ID, infos[topic].Partitions)
		require.NoError(t, err)
	}
	price, err := schema.ParseDecimal("1.5")
	require.NoError(t, err)
	for n := range 3 {
		for _, provider := range []schema.Provider{"gone", "kept"} {
			for _, symbol := range []schema.Symbol{"A", "B&B"} {
				id := fmt.Sprintf("%s-%s-%d", provider, symbol, n)
				quote := schema.Quote{Provider: provider, Symbol: symbol, RequestID: "job-" + string(provider) + "." + id}
				fetched := schema.QuoteFetched{Quote: quote, RawResponse: []byte("answer of " + string(provider)), ReceivedAt: at}
				r.send("request-"+id, schema.FetchRequested{Quote: quote, JobID: "job-" + string(provider), RequestedAt: at, Deadline: at})
				r.send(id, fetched)
				r.send("stored-"+id, schema.QuoteStored{QuoteFetched: fetched, RawResponseID: id})
				r.send("price-"+id, schema.PriceObserved{Symbol: symbol, Source: provider, Price: price, Timestamp: at, ReceivedAt: at, RawResponseID: id})
				r.exec(fmt.Sprintf(`INSERT INTO raw_market_data (id, event_id, symbol, provider, raw_response, timestamp, request_id, definition)
					VALUES ((SELECT COUNT(*) + 1 FROM raw_market_data), '%s', '%s', '%s', 'answer of %[3]s', '2026-01-01', '', 'v-%[3]s')`, id, symbol, provider))
			}
		}
	}
	for _, provider := range []schema.Provider{"gone", "kept"} {
		r.send("adjustment-"+string(provider), schema.AdjustmentRecorded{AdjustmentID: "a", Symbol: "A", Source: provider, Reason: "r", RecordedAt: at,
			AdjustmentTerms: schema.AdjustmentTerms{EffectiveAt: at, Kind: schema.SplitAdjustment, Value: price}})
	}
	r.send("job", schema.PollingJobCreated{JobID: "job-gone", Symbols: []schema.Symbol{"A", "B&B"}, Interval: 60, Provider: "gone", CreatedAt: at})
	r.sendRecord(schema.RawQuotes, log.OutgoingRecord{Key: []byte("gone/A"), Value: []byte("unreadable"), Timestamp: at.Time})
	r.sendRecord(schema.RawQuotes, log.OutgoingRecord{Key: []byte("?"), Value: []byte("of no provider"), Timestamp: at.Time})
	for _, table := range []string{"by_columns", "by_columns_g2"} {
		r.exec(`CREATE TABLE `+table+` (id INTEGER PRIMARY KEY, provider TEXT, symbol TEXT)`,
			`INSERT INTO `+table+` (provider, symbol) SELECT provider, symbol FROM raw_market_data`)
	}
	r.exec(`CREATE TABLE by_key (quote_key TEXT PRIMARY KEY)`, `CREATE TABLE by_job (job_id TEXT PRIMARY KEY)`, `CREATE TABLE by_nothing (id INTEGER PRIMARY KEY)`,
		`CREATE TABLE commands (id INTEGER PRIMARY KEY, provider TEXT, symbols TEXT)`, `CREATE TABLE of_a_plugin (id INTEGER PRIMARY KEY)`, `CREATE TABLE keeper (market TEXT PRIMARY KEY)`,
		`INSERT INTO by_key VALUES ('gone/A'), ('gone/A|X'), ('gone/AA'), ('gone/B&B'), ('kept/A')`, `INSERT INTO keeper VALUES ('gone/A'), ('gone/B&B'), ('kept/A')`,
		`INSERT INTO by_job VALUES ('job-gone'), ('job-kept')`, `INSERT INTO by_nothing VALUES (1), (2)`, `INSERT INTO commands VALUES (1, 'gone', 'A')`, `INSERT INTO of_a_plugin VALUES (1)`,
		`INSERT INTO generations (projection, number, fold, active, created_at, scratch, following, tables) VALUES
			('columns', 1, 'v1', 1, '2026-01-01', 0, 1, 'by_columns'), ('columns', 2, 'v1', 0, '2026-01-01', 0, 0, 'by_columns'), ('key', 1, 'v1', 1, '2026-01-01', 0, 1, 'by_key'),
			('job', 1, 'v1', 1, '2026-01-01', 0, 1, 'by_job'), ('nothing', 1, 'v1', 1, '2026-01-01', 0, 1, ''), ('commands', 1, 'v1', 1, '2026-01-01', 0, 1, 'commands')`)
	for _, stage := range []string{"columns.g1", "nothing.g1", "job.g1"} {
		r.exec(`INSERT INTO positions (stage, topic, part, topic_id, next_offset, chain_outbox, chain_seq, halted, moved_at)
			SELECT '` + stage + `', 'price-events', 0, topic_id, 3, 'x', 3, '', '2026-01-01T00:00:00.000000Z' FROM topics WHERE name = 'price-events'`)
	}
	r.exec(`INSERT INTO positions (stage, topic, part, topic_id, next_offset, chain_outbox, chain_seq, halted, moved_at)
			SELECT 'commands.g1', 'polling-jobs', 0, topic_id, 1, 'x', 1, '', '2026-01-01T00:00:00.000000Z' FROM topics WHERE name = 'polling-jobs'`,
		`INSERT INTO normalized_quotes VALUES ('gone/A', '1', '2026-01-01'), ('gone/B&B', '1', '2026-01-01'), ('kept/A', '1', '2026-01-01')`,
		`INSERT INTO schedules (job_id, symbols, interval_s, provider, next_run, status) VALUES ('job-gone', '["A","B\u0026B"]', 60, 'gone', '2026-01-01', 'stopped')`,
		`INSERT INTO failing_jobs VALUES ('job-gone', '{}'), ('job-kept', '{}')`,
		`INSERT INTO streams (stream_id, provider, symbols, status, started_at, sequences, holes, last_error) VALUES
			('s1', 'gone', '["A","B\u0026B"]', 'stopped', '2026-01-01', '{"A":1,"B\u0026B":2}', '{"A":[1]}', 'a message'), ('s2', 'kept', '["A"]', 'active', '2026-01-01', '{"A":1}', '{}', 'x')`,
		`INSERT INTO backfills (backfill_id, provider, symbol, from_time, to_time, status, started_at, next_page, last_id, last_error, prices) VALUES
			('b1', 'gone', 'A', '2026-01-01', '2026-01-02', 'completed', '2026-01-01', 'cursor', 'id', 'e', 3), ('b2', 'kept', 'A', '2026-01-01', '2026-01-02', 'active', '2026-01-01', 'cursor', 'id', 'e', 3)`,
		`INSERT INTO provider_definitions VALUES ('v-gone', 'gone'), ('v-kept', 'kept')`,
		`INSERT INTO letter_retries VALUES ('r', 1, 0, 1, 0, 'it quotes', '2026-01-01')`,
		`INSERT INTO renormalizations (id, seq, provider, reason, state, created_at, changed_at) VALUES ('n', 1, 'gone', 'r', 'promoted', '2026-01-01', '2026-01-01')`,
		// Of one that is withdrawn, the record says whose it is.
		`INSERT INTO revised_prices (renormalization, event_id, record_id, event_type, payload) SELECT 'n', 'e' || o.n, (epoch << 56) | (o.n << 6), '', ''
			FROM topics, (SELECT 0 AS n UNION SELECT 2) o WHERE name = 'price-events'`,
		`INSERT INTO revised_prices (renormalization, event_id, record_id, event_type, payload) VALUES ('n', 'g', 0, 'market.price.observed.v1', '`+revised("gone", price)+`'),
			('n', 'k', 0, 'market.price.observed.v1', '`+revised("kept", price)+`')`,
		`INSERT INTO fetch_queue (request_id, provider, symbol, requested_at, deadline, traceparent, claimed_by, claimed_until) VALUES
			('1', 'gone', 'A', '', '', '', '', 0), ('2', 'kept', 'A', '', '', '', '', 0)`)
	require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
		letter := func(offset int64, key string) store.DeadLetter {
			return store.DeadLetter{Stage: "raw-store", Topic: string(schema.RawQuotes), TopicID: "t", Offset: offset, Key: []byte(key),
				Headers: store.EncodeHeaders(nil), Payload: []byte("unreadable"), Reason: "no", CreatedAt: at, Epoch: 1}
		}
		return tx.AddDeadLetters(t.Context(), []store.DeadLetter{letter(1, "gone/A"), letter(2, "kept/A"), letter(3, "?")})
	}))
	return path
}

// revised is the payload of a price of symbol A.
func revised(provider schema.Provider, price schema.Decimal) string {
	_, value, err := schema.Event{ID: "i", Source: "s", Payload: schema.PriceObserved{Symbol: "A", Source: provider, Price: price, Timestamp: at, ReceivedAt: at}}.Encode()
	if err != nil {
		return err.Error()
	}
	return string(value)
}

// keeper is a plugin with a table.
type keeper struct{}

func (keeper) Tables() []string     { return nil }
func (keeper) DataTables() []string { return []string{"keeper"} }
func (keeper) DataOf(_ string, provider schema.Provider, symbol schema.Symbol) (string, []any) {
	if symbol != "" {
		return "market = $1", []any{schema.MarketKey(provider, symbol)}
	}
	return "substr(market, 1, length($1)) = $1", []any{string(provider) + "/"}
}

func (r *rig) config(subject schema.Subject) deletion.Config {
	var cluster string
	if r.kafka != nil {
		var err error
		cluster, err = r.kafka.ClusterID(r.t.Context())
		require.NoError(r.t, err)
	}
	known := func(ctx context.Context) (*topics.Set, error) {
		return topics.Lookup(ctx, r.db, r.log, schema.Topics(), onPartition)
	}
	return deletion.Config{Store: r.db, Table: r.table, Kafka: r.kafka, Cluster: cluster, Groups: "ours.", Topics: known, Subject: subject, Reason: "the contract ended", RequestedBy: "ada", Keepers: []pipeline.DataKeeper{keeper{}},
		TablesOf: func(projection string) []string { return map[string][]string{"nothing": {"by_nothing"}}[projection] }, Now: func() time.Time { return at.Time }}
}

// dump is all that the database holds, without the ids of deletions.
func (r *rig) dump() map[string]string {
	r.t.Helper()
	recorded, err := store.Deletions(r.t.Context(), r.db)
	require.NoError(r.t, err)
	var ids []string
	for _, d := range recorded {
		ids = append(ids, d.ID, "ID", schema.DeriveID("deletion", d.ID), "EVENT")
	}
	plain := strings.NewReplacer(ids...).Replace
	all := map[string]string{}
	view, err := r.db.Snapshot(r.t.Context())
	require.NoError(r.t, err)
	defer view.Close()
	tables, err := view.Tables(r.t.Context())
	require.NoError(r.t, err)
	for _, name := range tables {
		if name != "log_segments" && name != "goose_db_version" {
			all[name] = plain(r.rows(view, name))
		}
	}
	for _, topic := range schema.Topics() {
		ranges, err := r.log.Offsets(r.t.Context(), topic)
		require.NoError(r.t, err)
		var text strings.Builder
		for part, held := range ranges {
			require.NoError(r.t, r.log.Read(r.t.Context(), pipeline.TopicPartition{Topic: topic, Partition: int32(part)}, held.Oldest, held.End, func(records []pipeline.Record) error {
				for _, record := range records {
					if topic == schema.PollingJobs { // where it lies goes by the id
						record.Offset, record.Timestamp, record.Headers = 0, time.Time{}, slices.Clone(record.Headers[:len(record.Headers)-2])
					}
					fmt.Fprintf(&text, "%d %d %s %s %s\n", record.Offset, record.Timestamp.UnixMilli(), record.Key, record.Headers, record.Value)
				}
				return nil
			}))
		}
		all["topic "+string(topic)] = plain(text.String())
	}
	return all
}

func (r *rig) rows(view *store.Snapshot, name string) string {
	r.t.Helper()
	table, err := view.Table(r.t.Context(), name)
	require.NoError(r.t, err)
	rows, err := view.Rows(r.t.Context(), table)
	require.NoError(r.t, err)
	defer func() { assert.NoError(r.t, rows.Close()) }()
	var text strings.Builder
	for {
		values, err := rows.Next()
		require.NoError(r.t, err)
		if values == nil {
			return text.String()
		}
		fmt.Fprintln(&text, values...)
	}
}

var gone = schema.Subject{Provider: "gone"}

// Interrupted before any step, a deletion that is run again comes to what one comes to that
// was not interrupted.
func TestADeletionIsInterrupted(t *testing.T) {
	t.Parallel()
	original := newDatabase(t)
	content, err := os.ReadFile(original)
	require.NoError(t, err)
	for _, subject := range []schema.Subject{gone, {Provider: "gone", Symbol: "B&B"}} {
		t.Run(strings.ReplaceAll(subject.String(), "/", " "), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			run := func(name string, stopAt int) (map[string]string, deletion.Result, int) {
				path := filepath.Join(dir, name)
				require.NoError(t, os.WriteFile(path, content, 0o600))
				stop := errors.New("stop")
				steps := 0
				r := open(t, path)
				c := r.config(subject)
				c.Step = func(context.Context, string) error {
					if steps++; steps == stopAt {
						return stop
					}
					return nil
				}
				result, err := deletion.Run(t.Context(), c)
				if stopAt > 0 {
					require.ErrorIs(t, err, stop)
					r.close()
					r = open(t, path)
					c = r.config(subject)
					result, err = deletion.Run(t.Context(), c)
				}
				require.NoError(t, err)
				defer r.close()
				return r.dump(), result, steps
			}
			want, whole, steps := run("whole", 0)
			assert.False(t, whole.Resumed)
			assert.Greater(t, steps, 20)
			for stopAt := 1; stopAt <= steps; stopAt++ {
				got, result, _ := run(fmt.Sprintf("stopped-%d", stopAt), stopAt)
				assert.Equal(t, stopAt > 1, result.Resumed, "the first step records it")
				assert.Equal(t, whole.Records, result.Records)
				assert.Equal(t, whole.Rows, result.Rows)
				for name := range want {
					if name != "chains" { // on which partition the event lies goes by its id
						require.Equal(t, want[name], got[name], "%s, stopped at step %d", name, stopAt)
					}
				}
			}
		})
	}
}

func TestWhatADeletionDoes(t *testing.T) {
	t.Parallel()
	path := newDatabase(t)
	r := open(t, path)
	defer r.close()
	before := r.dump()
	planned, err := deletion.NewPlan(t.Context(), r.config(gone))
	require.NoError(t, err)
	assert.Equal(t, before, r.dump(), "a plan changes nothing")
	assert.Equal(t, map[schema.Topic]int64{schema.FetchRequests: 6, schema.RawQuotes: 7, schema.StoredQuotes: 6, schema.PriceEvents: 6, schema.PollingJobs: 1}, planned.Records)
	assert.Equal(t, map[string]int64{"by_columns": 6, "by_columns_g2": 6, "by_key": 4, "by_job": 1, "keeper": 2, "raw_market_data": 6,
		"normalized_quotes": 2, "failing_jobs": 1, "provider_definitions": 1, "fetch_queue": 1, "dead_letters": 1, "revised_prices": 2}, planned.Rows)
	assert.Equal(t, map[string]int64{"streams": 1, "backfills": 1, "letter_retries": 1}, planned.Cleared)
	assert.Equal(t, map[string]int64{"by_nothing": 2}, planned.Emptied)
	assert.Equal(t, []string{"nothing.g1"}, planned.Refilled)
	assert.Empty(t, planned.Asking)
	require.Len(t, planned.Left, 2)
	assert.Equal(t, []any{"table of_a_plugin", int64(1)}, []any{planned.Left[0].What, planned.Left[0].Count})
	assert.Equal(t, []any{"records that cannot be read", int64(1)}, []any{planned.Left[1].What, planned.Left[1].Count})

	done, err := deletion.Run(t.Context(), r.config(gone))
	require.NoError(t, err)
	assert.Equal(t, planned, done.Plan)
	after := r.dump()
	for name, text := range after {
		if !slices.Contains([]string{"commands", "schedules", "streams", "backfills", "deletions", "renormalizations", "topic polling-jobs"}, name) {
			assert.NotContains(t, text, "gone", name)
		}
	}
	for name, unchanged := range map[string]string{"commands": before["commands"], "schedules": before["schedules"], "of_a_plugin": before["of_a_plugin"]} {
		assert.Equal(t, unchanged, after[name], name)
	}
	assert.Contains(t, after["streams"], "0 0 0 0 {}  <nil> {}")
	assert.NotContains(t, after["backfills"], "gone A 2026-01-01 2026-01-02 completed 2026-01-01 <nil>  0 cursor")
	assert.Contains(t, after["positions"], "nothing.g1 price-events 0")
	assert.Contains(t, after["topic polling-jobs"], `"provider":"gone","reason":"the contract ended","requested_by":"ada","records":26,"rows":33`)
	_, err = deletion.Run(t.Context(), r.config(gone))
	require.ErrorIs(t, err, deletion.ErrNothing)
	var log string
	require.NoError(t, r.db.Get(t.Context(), &log, `SELECT log FROM instance`))
	assert.Equal(t, store.TableLog, log, "others may work with it")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.NotContains(t, string(content), "answer of gone")
	assert.Contains(t, string(content), "answer of kept")
}

func TestWhenADeletionIsRefused(t *testing.T) {
	t.Parallel()
	r := open(t, newDatabase(t))
	defer r.close()
	refused := func(subject schema.Subject, sentence string) {
		t.Helper()
		before := r.dump()
		_, err := deletion.Run(t.Context(), r.config(subject))
		require.ErrorIs(t, err, deletion.ErrRefused)
		require.ErrorContains(t, err, sentence)
		assert.Equal(t, before, r.dump())
	}
	_, err := deletion.Run(t.Context(), r.config(schema.Subject{Provider: "none"}))
	require.ErrorIs(t, err, deletion.ErrNothing)
	for _, status := range []string{"active", "stopped"} {
		r.exec(`UPDATE schedules SET status = '` + status + `'`)
		if status == "active" {
			refused(gone, "[polling job job-gone]")
			refused(schema.Subject{Provider: "gone", Symbol: "B&B"}, "polling job job-gone")
		}
	}
	r.exec(`UPDATE streams SET status = 'failing'`, `UPDATE backfills SET status = 'active'`)
	refused(gone, "[stream s1 backfill b1]")
	refused(schema.Subject{Provider: "gone", Symbol: "B&B"}, "[stream s1]")
	r.exec(`UPDATE streams SET status = 'stopped'`, `UPDATE backfills SET status = 'stopped'`)

	// An answer of A has a price of C.
	price, err := schema.ParseDecimal("2")
	require.NoError(t, err)
	r.send("odd", schema.PriceObserved{Symbol: "C", Source: "gone", Price: price, Timestamp: at, ReceivedAt: at, RawResponseID: "gone-A-0"})
	for _, symbol := range []schema.Symbol{"A", "C"} {
		refused(schema.Subject{Provider: "gone", Symbol: symbol}, "an answer of gone has prices of several symbols")
	}
	_, err = deletion.Run(t.Context(), r.config(schema.Subject{Provider: "gone", Symbol: "B&B"}))
	require.NoError(t, err, "its answers have no other")

	r.exec(`UPDATE generations SET tables = '' WHERE projection = 'key'`)
	refused(gone, "this binary does not have projection key")
}

// TestEveryTableHasATreatment: a migration that makes a table has to say what a deletion does
// with it.
func TestEveryTableHasATreatment(t *testing.T) {
	t.Parallel()
	r := open(t, filepath.Join(t.TempDir(), "db"))
	defer r.close()
	tables, err := r.db.Tables(t.Context())
	require.NoError(t, err)
	var listed []string
	for _, treatment := range deletion.Treatments {
		listed = append(listed, treatment.Table)
		columns, err := r.db.Columns(t.Context(), treatment.Table)
		require.NoError(t, err)
		if slices.ContainsFunc(columns, func(c store.Column) bool { return c.Name == "provider" || c.Name == "quote_key" }) && treatment.Kind == deletion.Kept {
			assert.NotEmpty(t, treatment.Why, "%s names a provider, and its rows stay", treatment.Table)
		}
	}
	slices.Sort(listed)
	assert.Equal(t, slices.DeleteFunc(tables, func(name string) bool { return name == "goose_db_version" }), listed)
}
