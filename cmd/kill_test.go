package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// How often the program is killed; the longer target sets 20.
const (
	killsVariable = "PRICEMILL_TEST_KILLS"
	standardKills = 3
)

// TestKilledAtRandomMoments feeds the program answers of a stream, kills it
// with SIGKILL at random moments, starts it again, and then holds every table
// against a recomputation from what was fed and from the log.
func TestKilledAtRandomMoments(t *testing.T) {
	kills := standardKills
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d kills", seed, kills)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	answers := makeAnswers(random)

	process, l := spawn(t, env)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the last process:\n%s", l)
		}
	})
	l.await(t, "the pipeline runs")
	fed := make(chan struct{})
	go func() { feed(t, env, answers); close(fed) }()
	began := time.Now()
	for i := range kills {
		// Somewhere between two shares of the work, by what has been applied.
		awaitApplied(t, env, (killEvents*i+random.IntN(killEvents))/(kills+1))
		require.NoError(t, process.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, process.Wait(), &exit)
		process, l = spawn(t, env)
		restarted := time.Now()
		l.await(t, "the pipeline runs")
		t.Logf("kill %d: back after %v", i+1, time.Since(restarted))
	}
	<-fed
	awaitApplied(t, env, killEvents)
	awaitDrained(t, env)
	t.Logf("%d answers through the chain with %d kills in %v", killEvents, kills, time.Since(began))
	checkTables(t, env, answers)
}

// fedAnswer is one answer of a stream, with an identity of its own.
type fedAnswer struct {
	id    string
	quote schema.QuoteFetched
}

// makeAnswers makes answers by symbol, some of them late.
func makeAnswers(random *rand.Rand) []fedAnswer {
	const symbols = 200
	answers := make([]fedAnswer, killEvents)
	start := time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC)
	for i := range answers {
		symbol := schema.Symbol("S" + strconv.Itoa(random.IntN(symbols)))
		// Each event time is its own, so no answer repeats a price.
		at := start.Add(time.Duration(i) * time.Millisecond)
		if random.IntN(20) == 0 {
			at = at.Add(-time.Duration(random.IntN(2000)) * time.Millisecond).Add(time.Microsecond * time.Duration(1+i%900))
		}
		payload := fmt.Sprintf(`{"simulated":true,"provider":"simulated","symbol":%q,"price":"%d.%08d","time":%q}`,
			symbol, 1+random.IntN(100000), random.IntN(100_000_000), at.Format(time.RFC3339Nano))
		answers[i] = fedAnswer{"trade-" + strconv.Itoa(i), schema.QuoteFetched{
			Quote: schema.Quote{Provider: "simulated", Symbol: symbol}, RawResponse: schema.RawResponse(payload),
			ReceivedAt: schema.NewTime(start.Add(time.Duration(i) * time.Millisecond))}}
	}
	return answers
}

// feed appends all answers to raw-quotes, each partition in order, sending
// again whatever was not acknowledged, as a stream does after a reconnect.
func feed(t testing.TB, env environment, answers []fedAnswer) {
	var broker *kafka.Broker
	defer func() {
		if broker != nil {
			assert.NoError(t, broker.Close())
		}
	}()
	const chunk = 2000
	var partitions int32
	for from := 0; from < len(answers); {
		if broker == nil {
			var err error
			if broker, partitions, err = reach(env); err != nil {
				pause(20 * time.Millisecond)
				continue
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		errs := broker.Send(ctx, batchesOf(t, answers[from:min(from+chunk, len(answers))], partitions))
		cancel()
		err := errors.Join(errs...)
		if err == nil {
			from += chunk
			continue
		}
		t.Logf("feeding from %d: %v", from, err)
		assert.NoError(t, broker.Close())
		broker = nil
	}
}

// pause lies between two looks at another process, which gives no signal.
func pause(d time.Duration) { <-time.After(d) }

// reach returns the broker, and how many partitions a topic has.
func reach(env environment) (*kafka.Broker, int32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	broker, err := dial(ctx, env)
	if err != nil {
		return nil, 0, err
	}
	ranges, err := broker.Offsets(ctx, schema.RawQuotes)
	if err != nil {
		return nil, 0, errors.Join(err, broker.Close())
	}
	return broker, int32(len(ranges)), nil
}

func batchesOf(t testing.TB, answers []fedAnswer, partitions int32) []pipeline.PartitionBatch {
	batches := make([]pipeline.PartitionBatch, partitions)
	for p := range batches {
		batches[p].TopicPartition = pipeline.TopicPartition{Topic: schema.RawQuotes, Partition: int32(p)}
	}
	for _, a := range answers {
		headers, value, err := schema.Event{ID: a.id, Source: "test", Payload: a.quote}.Encode()
		if !assert.NoError(t, err) {
			continue
		}
		key := []byte(a.quote.Key())
		b := &batches[kafka.Partition(key, partitions)]
		b.Records = append(b.Records, pipeline.OutgoingRecord{Key: key, Headers: headers, Value: value})
	}
	return slices.DeleteFunc(batches, func(b pipeline.PartitionBatch) bool { return len(b.Records) == 0 })
}

// awaitApplied waits until n answers have become averages.
func awaitApplied(t testing.TB, env environment, n int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	count := 0
	require.Eventually(t, func() bool {
		// Positions count repeats of the relay as well; counting rows each time
		// would be the heaviest load here.
		err := db.Get(t.Context(), &count, `SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage = 'moving-averages.g1'`)
		return err == nil && count >= n
	}, 5*time.Minute, time.Millisecond, "%d applied", n)
}

// awaitDrained waits until the outbox is empty and no stage lags.
func awaitDrained(t testing.TB, env environment) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	broker := connect(t, env)
	require.Eventually(t, func() bool { return isDrained(t, db, broker) }, 5*time.Minute, 20*time.Millisecond)
}

func isDrained(t testing.TB, db *store.Store, broker pipeline.Broker) bool {
	// An event may move from a log to the outbox, or from there to a log,
	// between two looks. So the outbox must be empty before and after the
	// look at the logs, and no event have passed through it meanwhile.
	before, err1 := store.Chains(t.Context(), db)
	statuses, err2 := pipeline.Status(t.Context(), db, broker)
	after, err3 := store.Chains(t.Context(), db)
	return errors.Join(err1, err2, err3) == nil && slices.Equal(before, after) &&
		!slices.ContainsFunc(after, func(c store.Chain) bool { return c.Sent != c.Last }) &&
		!slices.ContainsFunc(statuses, func(s pipeline.StageStatus) bool { return s.Lag != 0 })
}

// observed is a price as the log has it.
type observed struct {
	offset int64
	price  schema.PriceObserved
}

// readPrices reads price-events, dropping what the relay sent again, by the id
// of the event rather than by its number in the chain.
func readPrices(t testing.TB, env environment) (prices [][]observed, repeats int) {
	t.Helper()
	broker := connect(t, env)
	ranges, err := broker.Offsets(t.Context(), schema.PriceEvents)
	require.NoError(t, err)
	seen := map[string]bool{}
	prices = make([][]observed, len(ranges))
	for p, r := range ranges {
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: int32(p)}
		require.NoError(t, broker.Read(t.Context(), tp, r.Oldest, r.End, func(records []pipeline.Record) error {
			for _, record := range records {
				event, err := schema.DecodeEvent(record.Headers, record.Value)
				if err != nil {
					return err
				}
				if seen[event.ID] {
					repeats++
					continue
				}
				seen[event.ID] = true
				prices[p] = append(prices[p], observed{record.Offset, event.Payload.(schema.PriceObserved)})
			}
			return nil
		}))
	}
	return prices, repeats
}

func checkTables(t testing.TB, env environment, answers []fedAnswer) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	prices, repeats := readPrices(t, env)
	total := 0
	for _, partition := range prices {
		total += len(partition)
	}
	t.Logf("%d prices in the log, and %d repeats by the relay", total, repeats)
	assert.Equal(t, len(answers), total, "each answer is one price")

	// Every answer, byte for byte, once.
	type raw struct {
		EventID string `db:"event_id"`
		Text    string `db:"raw_response"`
	}
	var stored []raw
	require.NoError(t, db.Select(t.Context(), &stored, `SELECT event_id, raw_response FROM raw_market_data`))
	require.Len(t, stored, len(answers))
	byID := make(map[string]string, len(stored))
	for _, r := range stored {
		byID[r.EventID] = r.Text
	}
	wrong := 0
	for _, a := range answers {
		if byID[a.id] != string(a.quote.RawResponse) {
			wrong++
		}
	}
	assert.Zero(t, wrong, "answers that are not as they came")

	checkAverages(t, db, prices)
	checkCounts(t, db, total)
}

func checkCounts(t testing.TB, db *store.Store, total int) {
	t.Helper()
	for query, want := range map[string]int{
		`SELECT count(*) FROM processed_prices`:                 total,
		`SELECT count(DISTINCT event_id) FROM processed_prices`: total,
		`SELECT count(*) FROM dead_letters`:                     0,
		`SELECT count(*) FROM outbox`:                           0,
		`SELECT count(*) FROM positions WHERE halted <> ''`:     0,
	} {
		var got int
		require.NoError(t, db.Get(t.Context(), &got, query))
		assert.Equal(t, want, got, query)
	}
}

// checkAverages recomputes every average of the history from the log.
func checkAverages(t testing.TB, db *store.Store, prices [][]observed) {
	t.Helper()
	type average struct {
		Symbol string         `db:"symbol"`
		Window int            `db:"window_size"`
		Value  schema.Decimal `db:"value"`
	}
	var got []average
	require.NoError(t, db.Select(t.Context(), &got, `SELECT symbol, window_size, value FROM moving_averages ORDER BY id`))
	var want []average
	for _, partition := range prices {
		history := map[string][]observed{}
		for _, o := range partition {
			symbol := string(o.price.Symbol)
			sorted := append(history[symbol], o)
			for i := len(sorted) - 1; i > 0 && sorted[i-1].price.Timestamp.After(sorted[i].price.Timestamp); i-- {
				sorted[i-1], sorted[i] = sorted[i], sorted[i-1]
			}
			history[symbol] = sorted
			for _, window := range []int{5, 20} {
				want = append(want, average{symbol, window, naiveMean(sorted[max(0, len(sorted)-window):])})
			}
		}
	}
	require.Len(t, got, len(want))
	wrong := 0
	for i := range want {
		if got[i].Symbol != want[i].Symbol || got[i].Window != want[i].Window || got[i].Value.Cmp(want[i].Value) != 0 {
			wrong++
			if wrong < 5 {
				assert.Equal(t, want[i], got[i], "row %d", i)
			}
		}
	}
	assert.Zero(t, wrong, "averages that differ from the recomputation")
}

// naiveMean rounds by big integers: numerators at 18 digits, half to even.
func naiveMean(last []observed) schema.Decimal {
	sum := new(big.Rat)
	for _, o := range last {
		price, _ := new(big.Rat).SetString(o.price.Price.String())
		sum.Add(sum, price)
	}
	sum.Quo(sum, big.NewRat(int64(len(last)), 1))
	scaled := new(big.Int).Mul(sum.Num(), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))
	quotient, remainder := new(big.Int).QuoRem(scaled, sum.Denom(), new(big.Int))
	if order := new(big.Int).Lsh(remainder, 1).Cmp(sum.Denom()); order > 0 || (order == 0 && quotient.Bit(0) == 1) {
		quotient.Add(quotient, big.NewInt(1))
	}
	text := quotient.String()
	text = strings.Repeat("0", max(0, 19-len(text))) + text
	return schema.MustDecimal(text[:len(text)-18] + "." + text[len(text)-18:])
}
