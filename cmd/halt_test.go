package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// The breaks of the log are made by the cluster's own means, and by copying a
// database, on whatever stack the tests run. For each: the stage halts, /readyz
// says why and names a command, that command resumes it, and what it says is lost
// is what is lost.

func topicName(env environment, topic schema.Topic) string {
	return env["KAFKA_TOPIC_PREFIX"] + string(topic)
}

// answersOf makes n answers of one symbol, from number first on.
func answersOf(symbol string, first, n int) []fedAnswer {
	start := time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC)
	answers := make([]fedAnswer, n)
	for i := range answers {
		at := start.Add(time.Duration(first+i) * time.Second)
		answers[i] = fedAnswer{fmt.Sprintf("%s-%d", symbol, first+i), schema.QuoteFetched{
			Quote: schema.Quote{Provider: "simulated", Symbol: schema.Symbol(symbol)},
			RawResponse: schema.RawResponse(fmt.Sprintf(`{"simulated":true,"provider":"simulated","symbol":%q,"price":"%d","time":%q}`,
				symbol, first+i+1, at.Format(time.RFC3339Nano))),
			ReceivedAt: schema.NewTime(at)}}
	}
	return answers
}

// partitionsInTests is how many each topic has, on either stack.
const partitionsInTests = 4

// oneEach is n answers of each of four symbols, one on each partition.
func oneEach(first, n int) []fedAnswer {
	var answers []fedAnswer
	for partition, i := int32(0), 0; partition < partitionsInTests; i++ {
		symbol := "S" + strconv.Itoa(i)
		if kafka.Partition([]byte("simulated/"+symbol), partitionsInTests) == partition {
			answers = append(answers, answersOf(symbol, first, n)...)
			partition++
		}
	}
	return answers
}

// stopped is the program, stopped.
func (p *program) stopped() {
	p.t.Helper()
	require.Zero(p.t, p.stop(), "exit status; log:\n%s", p.logs)
}

// endsOf are the ends of a topic.
func endsOf(t testing.TB, env environment, topic schema.Topic) []log.OffsetRange {
	t.Helper()
	broker, err := dial(t.Context(), env)
	require.NoError(t, err)
	defer func() { require.NoError(t, broker.Close()) }()
	ranges, err := broker.Offsets(t.Context(), topic)
	require.NoError(t, err)
	return ranges
}

// feed feeds answers while all stages run, and waits until they went through the
// chain.
func (p *program) feed(answers []fedAnswer) {
	p.t.Helper()
	p.eventually("/readyz", http.StatusOK)
	feed(p.t, p.env, answers)
	awaitDrained(p.t, p.env)
}

// counted are the rows of the tables that hold a row for each answer.
func counted(t testing.TB, env environment) map[string]int {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	rows := map[string]int{}
	for name, query := range map[string]string{
		"answers":  `SELECT count(*) FROM raw_market_data`,
		"prices":   `SELECT count(*) FROM processed_prices`,
		"twice":    `SELECT count(*) - count(DISTINCT event_id) FROM processed_prices`,
		"averages": `SELECT count(*) FROM moving_averages`,
		"letters":  `SELECT count(*) FROM dead_letters`,
		"outbox":   `SELECT count(*) FROM outbox`,
	} {
		var n int
		require.NoError(t, db.Get(t.Context(), &n, query))
		rows[name] = n
	}
	return rows
}

// halts waits until /readyz names the command, and says why.
func (p *program) halts(reason, command string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		answer := p.get("/readyz")
		// One stage may have halted before another.
		return answer.status == http.StatusServiceUnavailable && strings.Contains(answer.body, command) && strings.Contains(answer.body, reason)
	}, 60*time.Second, 20*time.Millisecond, "/readyz names %q and says %q", command, reason)
}

// resolveWith runs the command that /readyz named, for all that has halted, until
// all that is in the log went through the chain, and returns what it said is lost
// by stage. A stage may meet a break only after those before it have continued.
func (p *program) resolveWith(action string) map[string]int64 {
	p.t.Helper()
	db, broker := openTables(p.t, p.env), connect(p.t, p.env)
	defer func() { assert.NoError(p.t, db.Close()) }()
	lost := map[string]int64{}
	require.Eventually(p.t, func() bool {
		status, stdout, stderr := run(p.t, p.env, "stages", action, "--yes", "-o", "json")
		if !assert.Zero(p.t, status, stderr) {
			return true
		}
		var resolutions []operator.Resolution
		if json.Unmarshal([]byte(stdout), &resolutions) == nil {
			for _, l := range resolutions {
				p.t.Logf("%s %s on %s/%d loses %s; it had halted: %s", action, l.Stage, l.Topic, l.Partition, l.Loses, l.Halted)
				lost[l.Stage] += l.Lost
			}
		}
		// Another stage may halt meanwhile: then it goes round again.
		return p.get("/readyz").status == http.StatusOK && engine.CatchUp(p.t.Context(), db, broker, nil, nil) == nil
	}, 60*time.Second, 200*time.Millisecond)
	return lost
}

// expect compares with counted: n of everything, each once.
func expect(t testing.TB, env environment, answers, prices int) {
	t.Helper()
	assert.Equal(t, map[string]int{"answers": answers, "prices": prices, "twice": 0, "averages": prices, "letters": 0, "outbox": 0},
		counted(t, env))
}

func TestTheHeadOfTheLogIsDeleted(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 10))
	p.stopped()
	// 20 more of each while no one works, then the oldest records go: from each
	// partition some that were applied, and some that were not.
	const deleted = 3
	feed(t, env, oneEach(10, 20))
	offsets := map[int32]int64{}
	for partition, held := range endsOf(t, env, schema.RawQuotes) {
		require.Equal(t, int64(30), held.End)
		offsets[int32(partition)] = 10 + deleted
	}
	administer(t, env, func(admin sarama.ClusterAdmin) {
		require.NoError(t, admin.DeleteRecords(topicName(env, schema.RawQuotes), offsets))
	})
	p = start(t, env)
	p.halts("3 records are gone", "pricemill stages skip raw-store raw-quotes 0")
	lost := p.resolveWith("skip")
	assert.Equal(t, map[string]int64{"raw-store": deleted * partitionsInTests}, lost)
	want := (30 - deleted) * partitionsInTests
	expect(t, env, want, want)
	limited(t, env, "raw-quotes/0 begins at offset 13")
}

func TestPartitionsAreAdded(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 10))
	p.stopped()
	administer(t, env, func(admin sarama.ClusterAdmin) {
		for _, topic := range []schema.Topic{schema.StoredQuotes, schema.PriceEvents} {
			require.NoError(t, admin.CreatePartitions(topicName(env, topic), 7, nil, false))
		}
	})
	p = start(t, env)
	p.halts("the topic has 7 partitions, and had 4", "pricemill stages resume normalize stored-quotes 2")
	lost := p.resolveWith("resume")
	for stage, n := range lost {
		assert.Zero(t, n, stage)
	}
	assert.Contains(t, lost, "moving-averages.g1")
	p.feed(oneEach(10, 10))
	expect(t, env, 20*partitionsInTests, 20*partitionsInTests)
	for partition, held := range endsOf(t, env, schema.PriceEvents) {
		assert.Equal(t, partition < partitionsInTests, held.End > 0, "keys stay on the partitions they were on")
	}
	proven(t, env)
}

func TestATopicIsCreatedAgain(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 10))
	p.stopped()
	const unread = 6
	feed(t, env, oneEach(10, unread)) // no one will have read these
	deleteTopic(t, env, schema.RawQuotes)
	p = start(t, env)
	p.halts("the topic was created again", "pricemill stages skip raw-store raw-quotes 1")
	assert.Equal(t, map[string]int64{"raw-store": 0}, p.resolveWith("skip"), "pricemill had sent none of them")
	p.feed(oneEach(10+unread, 10))
	expect(t, env, 20*partitionsInTests, 20*partitionsInTests)
	limited(t, env, "raw-quotes was created again")
}

// What a stage halts before is not ingested, even though no record seems to be behind:
// the topic is shorter than the position.
func TestIngestEndsWhereAStageHasHalted(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 200))
	p.stopped()
	deleteTopic(t, env, schema.RawQuotes)
	status, stdout, stderr := run(t, env, append(append([]string{"ingest", "--work"}, ofCloses...), monthlyCloses)...)
	assert.Equal(t, 1, status, stdout)
	assert.Contains(t, stderr, "the stage has halted")
	assert.Contains(t, stderr, "the topic was created again")
}

// A topic that pricemill itself wrote: how much a fold that lagged has lost is
// known to the record.
func TestATopicOfOursIsCreatedAgain(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 10))
	p.stopped()
	const behind = 4 // prices of each partition that the folds have not applied
	rewind(t, env, schema.PriceEvents, behind)
	deleteTopic(t, env, schema.PriceEvents)
	p = start(t, env)
	p.halts("the topic was created again", "pricemill stages skip moving-averages.g1 price-events 1")
	for stage, lost := range p.resolveWith("skip") {
		assert.Equal(t, int64(behind*partitionsInTests), lost, stage)
	}
	p.feed(oneEach(10, 10))
	expect(t, env, 20*partitionsInTests, (20-behind)*partitionsInTests)
	v, status := verify(t, env)
	assert.Equal(t, 1, status)
	assert.Equal(t, audit.Unproven, v.finding(t, "projection moving-averages").State, "the log no longer has what it was made of")
	assert.Zero(t, v.Lost+v.Doubled)
}

// rewind makes the folds stand some records earlier on each partition of a
// topic, with the rows and the links they had then.
func rewind(t testing.TB, env environment, topic schema.Topic, records int64) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(t.Context(), `UPDATE positions SET next_offset = next_offset - $1, chain_seq = chain_seq - $1
			WHERE topic = $2`, records, string(topic)); err != nil {
			return err
		}
		for _, table := range []string{"processed_prices", "moving_averages"} {
			// An id ends in the offset and six bits for rows of one record.
			if _, err := tx.Exec(t.Context(), `DELETE FROM `+table+` WHERE id IN (SELECT id FROM (SELECT id,
				ROW_NUMBER() OVER (PARTITION BY symbol ORDER BY id DESC) AS n FROM `+table+`) newest WHERE n <= $1)`, records); err != nil {
				return err
			}
		}
		return nil
	}))
}

// A database restored from a copy: nothing is lost, and nothing is there twice.
func TestTheDatabaseIsRestored(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 10))
	p.stopped()
	restore := copyDatabase(t, env)
	p = start(t, env)
	p.feed(oneEach(10, 10))
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=ASKED").status, "an event that no stage derives")
	awaitDrained(t, env)
	before := counted(t, env)
	p.stopped()
	restore()
	p = start(t, env)
	p.halts("was it restored from a copy?", "pricemill stages skip")
	feed(t, env, oneEach(20, 5)) // life continues meanwhile
	for stage, lost := range p.resolveWith("skip") {
		assert.Zero(t, lost, stage)
	}
	want := 25*partitionsInTests + 1
	assert.Equal(t, 20*partitionsInTests+1, before["prices"])
	expect(t, env, want, want)
	limited(t, env, "or a later state of this one")
}

// copyDatabase copies the database of a stopped program, and returns what puts
// the copy in its place.
func copyDatabase(t testing.TB, env environment) (restore func()) {
	t.Helper()
	if !onPostgres() {
		path := filepath.Join(env["DATA_DIR"], "pricemill.db")
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return func() {
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil {
					require.ErrorIs(t, err, os.ErrNotExist)
				}
			}
			require.NoError(t, os.WriteFile(path, content, 0o600))
		}
	}
	admin := administerPostgres(t)
	parsed, err := url.Parse(env["DATABASE_URL"])
	require.NoError(t, err)
	name := strings.TrimPrefix(parsed.Path, "/")
	execute := func(statements ...string) {
		for _, statement := range statements {
			_, err := admin.Exec(statement)
			require.NoError(t, err, statement)
		}
	}
	execute("CREATE DATABASE " + name + "_copy TEMPLATE " + name)
	return func() { execute("DROP DATABASE "+name, "ALTER DATABASE "+name+"_copy RENAME TO "+name) }
}

// A database that was lost altogether: what providers once answered is still in
// the log, and everything follows from it again.
func TestTheDatabaseIsLost(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 10))
	p.stopped()
	loseDatabase(t, env)
	p = start(t, env)
	p.halts("was written by another database", "pricemill stages skip")
	p.resolveWith("skip")
	expect(t, env, 10*partitionsInTests, 10*partitionsInTests)
	limited(t, env, "or a later state of this one")
}

// limited runs verify, and wants everything to hold but for a limit.
func limited(t testing.TB, env environment, limit string) {
	t.Helper()
	v := proven(t, env)
	assert.Contains(t, v.String(), limit)
}

// What loses something asks, and does nothing without an answer.
func TestResolutionsAsk(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	env := p.env
	p.feed(oneEach(0, 3))
	status, stdout, stderr := run(t, env, "stages", "skip")
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "no stage has halted there")
	status, stdout, stderr = run(t, env, "stages", "reset", "moving-averages.g1", "--to", "start")
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "nothing: all records are taken again")
	assert.Contains(t, stderr, "Continue? [y/N]")
	assert.Contains(t, stderr, "nothing was changed")
	for _, args := range [][]string{{"reset", "normalize", "--to", "start", "--yes"}, {"reset", "normalize", "--to", "0", "--yes"}} {
		status, _, stderr = run(t, env, append([]string{"stages"}, args...)...)
		assert.Equal(t, 1, status, stderr)
	}
	for _, args := range [][]string{{"reset"}, {"reset", "normalize"}, {"reset", "normalize", "--to", "soon"}, {"reset", "nobody", "--to", "end"},
		{"reset", "moving-averages.g1", "price-events", "--to", "start"}, {"skip", "a", "b", "c"}, {"skip", "a", "b", "1", "d"}} {
		status, _, stderr = run(t, env, append([]string{"stages"}, args...)...)
		assert.Equal(t, 2, status, "%q: %s", args, stderr)
	}
	expect(t, env, 3*partitionsInTests, 3*partitionsInTests)

	// A fold starts over while the service runs.
	status, _, stderr = run(t, env, "stages", "reset", "moving-averages.g1", "--to", "start", "--yes")
	require.Zero(t, status, stderr)
	awaitDrained(t, env)
	require.Eventually(t, func() bool { return counted(t, env)["averages"] == 3*partitionsInTests }, 20*time.Second, 50*time.Millisecond)
	p.eventually("/readyz", http.StatusOK)
}
