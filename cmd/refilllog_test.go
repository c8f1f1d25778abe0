package cmd_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// loseTopics deletes topics of a stopped program; all where none are named.
func loseTopics(t testing.TB, env environment, topics ...schema.Topic) {
	t.Helper()
	if len(topics) == 0 {
		topics = schema.Topics()
	}
	for _, topic := range topics {
		deleteTopic(t, env, topic)
	}
}

// recreateTopic leaves an empty topic in the place of one.
func recreateTopic(t testing.TB, env environment, topic schema.Topic) {
	t.Helper()
	deleteTopic(t, env, topic)
	createTopic(t, env, topicName(env, topic), partitionsInTests, map[string]string{"retention.ms": "-1", "retention.bytes": "-1"})
}

// filledLog is what refill log prints.
type filledLog struct {
	Start    string               `json:"start"`
	Topics   []refill.FilledTopic `json:"topics"`
	Lost     map[string]int64     `json:"lost"`
	Unplaced int64                `json:"unplaced"`
	Checks   []*audit.Finding     `json:"checks"`
}

func (f filledLog) of(topic schema.Topic) refill.FilledTopic {
	for _, filled := range f.Topics {
		if filled.Topic == topic {
			return filled
		}
	}
	return refill.FilledTopic{}
}

func refillLog(t testing.TB, env environment) (f filledLog) {
	t.Helper()
	status, stdout, stderr := run(t, env, "refill", "log", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &f), stdout)
	return f
}

// keptByRefillOfLog are the rows of all tables that a refill of the log leaves as they are: all
// that say nothing of the topics themselves.
func keptByRefillOfLog(t testing.TB, env environment) map[string][]string {
	t.Helper()
	kept := keptOf(t, env)
	for _, table := range []string{"topics", "positions", "dead_letters"} { // they name topics by their ids
		delete(kept, table)
	}
	return kept
}

// TestRefillLog loses all topics of an installation with all kinds of records, and fills other ones
// from the database, with three kills on the way. Every row is as it was, every read model follows
// from the new log, and work continues.
func TestRefillLog(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newKafkaStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20", "MIN_POLL_INTERVAL": "1s", "DEFAULT_PROVIDER": "csv",
		"PLUGINS": "price-alerts,candles,vwap,ema,instruments"})
	file := filepath.Join(t.TempDir(), "alerts.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  price-alerts:\n    alerts: [simulated/S1 above 50000]\n"), 0o600))
	env["CONFIG_FILE"] = file
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	id := p.newJob(`{"symbols":["AAPL","MSFT"],"interval":1,"provider":"simulated"}`)
	stopped := p.newJob(`{"symbols":["TSLA"],"interval":1,"provider":"simulated"}`)
	paused := p.newJob(`{"symbols":["IBM"],"interval":1,"provider":"simulated"}`)
	p.runs(paused, 1)
	p.command(http.MethodDelete, stopped)
	p.command(http.MethodPost, paused+"/pause")
	p.runs(id, 2)
	answers := makeAnswers(random, refillPrices, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	p.feed(answers)
	p.feed(answers[:200]) // a stream repeats itself
	ingestedCorrections(t, p)
	makeDeadLetters(t, p, schema.RawQuotes, 3, "raw-store")
	makeDeadLetters(t, p, schema.PriceEvents, 2, "moving-averages.g1", "latest-prices.g1", "price-alerts")
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?provider=simulated&symbol=ASKED").status, "a request of a client")
	p.get("/api/v1/prices/latest?provider=csv&symbol=REFUSED")
	p.command(http.MethodPost, paused+"/resume")
	p.runs(paused, p.job(paused).Counts.Runs+1)
	p.command(http.MethodPost, paused+"/pause")
	p.command(http.MethodPost, id+"/pause")
	awaitDrained(t, env)
	status, _, stderr := run(t, env, "refill", "log")
	assert.Equal(t, 1, status)
	assert.Regexp(t, "another process works with the database|another pricemill runs on", stderr)
	p.stopped()
	proven(t, env)
	status, stdout, _ := run(t, env, "refill", "log")
	assert.Zero(t, status)
	assert.Contains(t, stdout, "no topic is lost")
	before, places, ends := keptByRefillOfLog(t, env), placesOf(t, env), endsOfAll(t, env)
	assert.NotEmpty(t, places["dead_letters"])

	loseTopics(t, env)
	for range refillKills {
		killRefillOf(t, env, "log", 1+random.IntN(8), time.Duration(random.IntN(4000))*time.Microsecond)
	}
	checking := 3 + 2*len(schema.Topics()) // the last step: the topics are written, and the database knows them
	killRefillOf(t, env, "log", checking, 0)
	for _, args := range [][]string{{"serve"}, {"verify"}, {"migrate"}, {"stages", "list"}, {"refill", "database"}} {
		status, _, stderr = run(t, env, args...)
		assert.Equal(t, 1, status, args)
		assert.Contains(t, stderr, "the log is being filled again", args)
	}
	f := refillLog(t, env)
	assert.Equal(t, "continued", f.Start)
	assert.Zero(t, f.Unplaced)
	assert.Empty(t, f.Lost)
	assert.Equal(t, "finished", refillLog(t, env).Start, "another run")
	after := endsOfAll(t, env)
	for _, topic := range []schema.Topic{schema.PollingJobs, schema.FetchRequests, schema.RawQuotes, schema.StoredQuotes, schema.PriceEvents, schema.QuoteOutcomes} {
		assert.Equal(t, ends[topic], after[topic], topic)
	}
	sameRows(t, before, keptByRefillOfLog(t, env))
	sameRows(t, places, placesOf(t, env))
	proven(t, env)

	// A job continues with its next slot, nothing that was asked is asked again, and nothing is
	// stored twice.
	p = start(t, env)
	p.eventually("/readyz", http.StatusOK)
	p.feed(answers[:500])
	runs := p.job(id).Counts.Runs
	p.command(http.MethodPost, id+"/resume")
	p.runs(id, runs+2)
	p.command(http.MethodPost, id+"/pause")
	more := makeAnswers(random, refillPrices+500, time.Date(2025, 6, 15, 15, 0, 0, 0, time.UTC))[refillPrices:]
	p.feed(more)
	awaitDrained(t, env)
	p.stopped()
	assert.Len(t, keptOf(t, env)["raw_market_data"], len(before["raw_market_data"])+500+2*(p2runs(t, env, id)-runs))
	proven(t, env)
}

// TestRefillLogOfWhatWasUnderWay: what waited in the outbox is sent, and what was sent and not
// read follows from answers, and is read.
func TestRefillLogOfWhatWasUnderWay(t *testing.T) {
	t.Parallel()
	const each = 30 * partitionsInTests
	for name, test := range map[string]struct {
		// roles are those of the processes that run one after the other until all is where it is.
		roles []string
		there func(counts map[string]int) bool
		lost  map[string]int64
	}{
		"stored answers in the outbox": {[]string{"api,handlers,projections"},
			func(c map[string]int) bool { return c["answers"] == each+10*partitionsInTests && c["outbox"] == each }, map[string]int64{}},
		"stored answers that no stage read": {[]string{"api,handlers,projections", "relay"},
			func(c map[string]int) bool { return c["outbox"] == 0 }, map[string]int64{"stored-quotes": each}},
		"prices that no stage read": {[]string{"api,handlers,relay"},
			func(c map[string]int) bool { return c["answers"] == each+10*partitionsInTests && c["outbox"] == 0 }, map[string]int64{"price-events": each}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newKafkaStack(t, nil)
			p := start(t, env)
			p.feed(oneEach(0, 10))
			p.stopped()
			for i, roles := range test.roles {
				p = start(t, env.with(environment{"ROLES": roles}))
				if i == 0 {
					feed(t, env, oneEach(10, 30))
					require.Eventually(t, func() bool { return counted(t, env)["answers"] == each+10*partitionsInTests }, time.Minute, 50*time.Millisecond)
				}
				if i == len(test.roles)-1 {
					require.Eventually(t, func() bool { return test.there(counted(t, env)) && normalized(t, env, test.lost["price-events"] > 0) }, time.Minute, 50*time.Millisecond)
				}
				p.stopped()
			}
			loseTopics(t, env)
			f := refillLog(t, env)
			assert.Equal(t, test.lost, f.lostOrNone())
			for topic, n := range test.lost {
				assert.Equal(t, n, f.of(schema.Topic(topic)).Appended, topic)
			}
			p = start(t, env)
			p.feed(oneEach(40, 10))
			expect(t, env, 50*partitionsInTests, 50*partitionsInTests)
			p.stopped()
			proven(t, env)
		})
	}
}

func (f filledLog) lostOrNone() map[string]int64 {
	if f.Lost == nil {
		return map[string]int64{}
	}
	return f.Lost
}

// normalized reports whether all stored answers were read and what follows was sent, if that is
// wanted.
func normalized(t *testing.T, env environment, wanted bool) bool {
	t.Helper()
	if !wanted {
		return true
	}
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var read, sent int
	require.NoError(t, db.Get(t.Context(), &read, `SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage = 'normalize'`))
	require.NoError(t, db.Get(t.Context(), &sent, `SELECT COALESCE(SUM(c.sent), 0) FROM chains AS c JOIN topics AS t ON t.epoch = c.epoch WHERE t.name = 'price-events'`))
	return read == 40*partitionsInTests && sent == 40*partitionsInTests
}

// TestRefillLogOfSomeTopics: those that are there stay as they are, and one that someone has created
// again, empty, is filled.
func TestRefillLogOfSomeTopics(t *testing.T) {
	t.Parallel()
	for _, topics := range [][]schema.Topic{{schema.PriceEvents}, {schema.StoredQuotes}, {schema.RawQuotes, schema.QuoteOutcomes}} {
		t.Run(string(topics[0]), func(t *testing.T) {
			t.Parallel()
			env := newKafkaStack(t, nil)
			p := start(t, env)
			p.feed(oneEach(0, 20))
			ingestedCorrections(t, p)
			awaitDrained(t, env)
			p.stopped()
			before, ends := keptByRefillOfLog(t, env), endsOfAll(t, env)
			for i, topic := range topics {
				if i == 0 {
					recreateTopic(t, env, topic)
				} else {
					loseTopics(t, env, topic)
				}
			}
			f := refillLog(t, env)
			assert.Len(t, f.Topics, len(topics))
			assert.Equal(t, ends, endsOfAll(t, env))
			sameRows(t, before, keptByRefillOfLog(t, env))
			p = start(t, env)
			p.feed(oneEach(0, 30)) // 20 of which are known
			awaitDrained(t, env)
			assert.Equal(t, 30*partitionsInTests+5, counted(t, env)["answers"])
			assert.Equal(t, 30*partitionsInTests+4, counted(t, env)["prices"], "one was retracted")
			p.stopped()
			proven(t, env)
		})
	}
}

// TestRefillLogAfterAServiceBegan on the empty cluster: it created the topics, and halted. What it
// has not written to is filled; what it has, or someone else, is refused.
func TestRefillLogAfterAServiceBegan(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	p := start(t, env)
	p.feed(oneEach(0, 20))
	p.stopped()
	before := keptByRefillOfLog(t, env)
	loseTopics(t, env)
	p = start(t, env)
	p.halts("created again", "pricemill stages skip")
	p.stopped()
	refillLog(t, env)
	sameRows(t, before, keptByRefillOfLog(t, env))
	proven(t, env)

	loseTopics(t, env, schema.RawQuotes)
	p = start(t, env)
	p.halts("created again", "pricemill stages skip")
	feed(t, env, oneEach(20, 1))
	p.stopped()
	status, stdout, stderr := run(t, env, "refill", "log")
	assert.Equal(t, 1, status, stdout)
	assert.Contains(t, stderr, "topic "+topicName(env, schema.RawQuotes)+" of the cluster has records")
	loseTopics(t, env, schema.RawQuotes)
	refillLog(t, env)
	p = start(t, env)
	p.feed(oneEach(20, 10))
	expect(t, env, 30*partitionsInTests, 30*partitionsInTests)
	p.stopped()
	proven(t, env)
}

// TestRefillLogIsRefused where there is nothing to fill it from, or it would not be whole.
func TestRefillLogIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(env environment, wanted int, sentence string) {
		t.Helper()
		status, stdout, stderr := run(t, env, "refill", "log")
		assert.Equal(t, wanted, status, stdout)
		assert.Contains(t, stderr, sentence)
	}
	refused(environment{"DATA_DIR": t.TempDir()}, 2, "without Kafka, the log is in the database")
	env := newKafkaStack(t, nil)
	refused(env, 1, "there is nothing to fill the log from")
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	administer(t, env, func(admin sarama.ClusterAdmin) {
		require.NoError(t, admin.DeleteRecords(topicName(env, schema.RawQuotes), map[int32]int64{1: 3}))
	})
	refused(env, 1, "oldest records are: "+topicName(env, schema.RawQuotes)+"/1 begins at offset 3. Only whole topics are filled")
	loseTopics(t, env)
	if onPostgres() { // on SQLite, a file lock excludes them
		execute(t, env, `INSERT INTO leases (name, owner, expires_ms) VALUES ('log', 'another run', 9000000000000)`)
		refused(env, 1, "another process works with the database")
		execute(t, env, `DELETE FROM leases WHERE name = 'log'`)
	}
	execute(t, env, `INSERT INTO positions (stage, topic, part, topic_id, next_offset, chain_outbox, chain_seq, halted, moved_at)
		SELECT 'latest-prices.g1', topic, part, topic_id, next_offset + 1, chain_outbox, chain_seq, '', moved_at FROM positions WHERE stage = 'raw-store' AND part = 2`)
	refused(env, 1, "raw-store is 1 records behind on raw-quotes/2")
	execute(t, env, `DELETE FROM positions WHERE stage = 'latest-prices.g1' AND topic = 'raw-quotes'`)
	for _, stage := range []string{"polling-jobs.g1", "adjustments.g1", "stream", "backfill"} {
		execute(t, env, `UPDATE positions SET next_offset = next_offset + 1 WHERE topic = 'polling-jobs' AND part = 2 AND stage <> '`+stage+`'`)
		refused(env, 1, strings.TrimSuffix(stage, ".g1")+" is 1 records behind on polling-jobs/2")
		execute(t, env, `UPDATE positions SET next_offset = next_offset - 1 WHERE topic = 'polling-jobs' AND part = 2 AND stage <> '`+stage+`'`)
	}
	execute(t, env, `INSERT INTO renormalizations (id, seq, provider, reason, state, created_at, changed_at) SELECT 'r1', 1, '', 'a reason', 'promoted', moved_at, moved_at FROM positions LIMIT 1`)
	refused(env, 1, "r1 serves: of answers that were read again")
	execute(t, env, `DELETE FROM renormalizations`)
	execute(t, env, `UPDATE processed_prices SET price = '1.5' WHERE id = (SELECT MIN(id) FROM processed_prices)`)
	refused(env, 1, "the new log and the database do not agree")
	status, stdout, _ := run(t, env, "refill", "log", "--accept-differences")
	assert.Zero(t, status)
	assert.Contains(t, stdout, "the differences above were accepted")
}

// execute changes the database of a stopped program.
func execute(t *testing.T, env environment, statement string) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), statement)
		return err
	}))
}

// TestRefillLogAfterRetention: the requests of long ago are deleted, and jobs count their outcomes
// all the same, also after a read model was built from the new log.
func TestRefillLogAfterRetention(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"c":185.75,"t":1750000000}`)) // to a client that reads
	}))
	t.Cleanup(service.Close)
	env := newKafkaStack(t, environment{"MIN_POLL_INTERVAL": "1s", "SIMULATED_FAULTS": "NOPE=unknown,DOWN=fail",
		"FINNHUB_API_KEY": "key", "FINNHUB_BASE_URL": service.URL})
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	failing := p.newJob(`{"symbols":["AAPL","NOPE","DOWN"],"interval":1,"provider":"simulated"}`)
	closed := p.newJob(`{"symbols":["AAPL"],"interval":1,"provider":"finnhub"}`)
	require.Eventually(t, func() bool { return p.job(failing).Counts.Failures >= 8 && p.job(closed).Counts.Runs >= 4 }, time.Minute, 20*time.Millisecond)
	p.command(http.MethodPost, failing+"/pause")
	p.command(http.MethodPost, closed+"/pause")
	awaitDrained(t, env)
	p.stopped()
	// Between a request and its answer.
	execute(t, env, `INSERT INTO retention (name, kept_from) SELECT 'requests', settled_at FROM
		(SELECT settled_at FROM requests WHERE state = 'observed' AND asked_at < settled_at ORDER BY asked_at LIMIT 1 OFFSET 2) AS kept`)
	execute(t, env, `DELETE FROM requests WHERE asked_at < (SELECT kept_from FROM retention WHERE name = 'requests')`)
	proven(t, env)
	before, ends := keptByRefillOfLog(t, env), endsOfAll(t, env)
	loseTopics(t, env)
	f := refillLog(t, env)
	assert.Zero(t, f.Unplaced)
	assert.Positive(t, f.of(schema.FetchRequests).Gaps, "requests that were deleted")
	assert.Zero(t, f.of(schema.QuoteOutcomes).Gaps)
	assert.Equal(t, ends[schema.QuoteOutcomes], endsOfAll(t, env)[schema.QuoteOutcomes])
	sameRows(t, before, keptByRefillOfLog(t, env))
	proven(t, env)
}

// TestRefillLogWithManyGaps: offsets that are far from the start, as after repeats or on a topic
// that was moved, are kept.
func TestRefillLogWithManyGaps(t *testing.T) {
	t.Parallel()
	const gaps = 20_000
	env := newKafkaStack(t, nil)
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	execute(t, env, fmt.Sprintf(`UPDATE positions SET next_offset = next_offset + %d WHERE topic = 'fetch-requests'`, gaps))
	loseTopics(t, env)
	began := time.Now()
	f := refillLog(t, env)
	t.Logf("%d gaps in %v", f.of(schema.FetchRequests).Gaps, time.Since(began))
	assert.EqualValues(t, gaps*partitionsInTests, f.of(schema.FetchRequests).Gaps)
	p = start(t, env)
	p.feed(oneEach(10, 10))
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=ASKED").status, "a request after the gaps")
	awaitDrained(t, env)
	p.stopped()
	proven(t, env)
}

// placesOf is what the tables that name topics by their ids say besides.
func placesOf(t *testing.T, env environment) map[string][]string {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var positions []struct {
		Stage  string `db:"stage"`
		Topic  string `db:"topic"`
		Part   int32  `db:"part"`
		Next   int64  `db:"next_offset"`
		Halted string `db:"halted"`
	}
	require.NoError(t, db.Select(t.Context(), &positions, `SELECT stage, topic, part, next_offset, halted FROM positions ORDER BY stage, topic, part`))
	var letters []struct {
		ID      int64  `db:"id"`
		Stage   string `db:"stage"`
		Topic   string `db:"topic"`
		Part    int32  `db:"part"`
		Offset  int64  `db:"log_offset"`
		Key     string `db:"msg_key"`
		Payload string `db:"payload"`
		Reason  string `db:"reason"`
		Epoch   int64  `db:"epoch"`
	}
	require.NoError(t, db.Select(t.Context(), &letters, `SELECT id, stage, topic, part, log_offset, msg_key, payload, reason, epoch FROM dead_letters ORDER BY id`))
	places := map[string][]string{}
	for _, p := range positions {
		places["positions"] = append(places["positions"], fmt.Sprintf("%+v", p))
	}
	for _, l := range letters {
		places["dead_letters"] = append(places["dead_letters"], fmt.Sprintf("%+v", l))
	}
	return places
}

// TestRefillLogOfAKilledService: the service is killed while answers go through it, some times, and
// then Kafka is lost. Once the stream has sent all of it again, each answer and each price is there
// once.
func TestRefillLogOfAKilledService(t *testing.T) {
	t.Parallel()
	const events, kills = 6_000, 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newKafkaStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	answers := makeAnswers(random, events, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	process, l := spawn(t, env)
	l.await(t, "pipeline running")
	fed := make(chan struct{})
	go func() { defer close(fed); feed(t, env, answers) }()
	for i := range kills {
		awaitApplied(t, env, (events*i+random.IntN(events))/(kills+1))
		require.NoError(t, process.Process.Kill())
		_ = process.Wait() // it was killed
		if i < kills-1 {
			process, l = spawn(t, env)
			l.await(t, "pipeline running")
		}
	}
	<-fed
	before := counted(t, env)
	loseTopics(t, env)
	var stdout, stderr string
	require.Eventually(t, func() bool { // the session of the killed one expires
		var status int
		status, stdout, stderr = run(t, env, "refill", "log")
		return status == 0 || !strings.Contains(stderr, "another process works with the database")
	}, 2*time.Minute, 200*time.Millisecond)
	agree := strings.Contains(stdout, "which can be used")
	if !agree { // a price that only one stage had read may be at another offset, which the check says
		t.Logf("%s\n%s", stdout, stderr)
		require.Contains(t, stderr, "do not agree")
		status, _, stderr := run(t, env, "refill", "log", "--accept-differences")
		require.Zero(t, status, stderr)
	}
	t.Logf("%v before:\n%s", before, stdout)
	assert.Equal(t, before["answers"], counted(t, env)["answers"])
	p := start(t, env)
	p.feed(answers)
	assert.Equal(t, events, counted(t, env)["answers"])
	assert.Equal(t, events, counted(t, env)["prices"])
	p.stopped()
	if agree {
		proven(t, env)
	}
}
