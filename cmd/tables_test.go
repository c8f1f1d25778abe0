package cmd_test

import (
	"cmp"
	"context"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// awaitApplied waits until n answers have become averages.
func awaitApplied(t testing.TB, env environment, n int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.Eventually(t, func() bool {
		count, err := applied(t.Context(), db)
		return err == nil && count >= n
	}, 5*time.Minute, time.Millisecond, "%d applied", n)
}

// applied is how many prices have become averages, and repeats of the relay as well:
// counting rows each time would be the heaviest load here.
func applied(ctx context.Context, db *store.Store) (n int, err error) {
	err = db.Get(ctx, &n, `SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage = 'moving-averages.g1'`)
	return n, err
}

// awaitDrained waits until all that is in the log and the outbox, and all that
// follows from it, is applied.
func awaitDrained(t testing.TB, env environment) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	withLog(t, env, func(log eventLog) { require.NoError(t, engine.CatchUp(ctx, db, log, nil, nil)) })
}

// observed is a price as the log has it.
type observed struct {
	offset  int64
	eventID string
	price   schema.PriceObserved
}

// readLog calls f with each event of a topic, partition by partition, dropping
// what the relay sent again, by the id of the event rather than by its number in
// the chain. A record that is no event must be a dead letter.
func readLog(t testing.TB, env environment, topic schema.Topic, f func(partition int32, offset int64, event schema.Event)) (repeats int) {
	t.Helper()
	dead := deadOffsets(t, env, topic)
	seen := map[string]bool{}
	withLog(t, env, func(log eventLog) {
		ranges, err := log.Offsets(t.Context(), topic)
		require.NoError(t, err)
		for p, r := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(p)}
			require.NoError(t, log.Read(t.Context(), tp, r.Oldest, r.End, func(records []pipeline.Record) error {
				for _, record := range records {
					if dead[place{tp.Partition, record.Offset}] {
						continue
					}
					event, err := schema.DecodeEvent(record.Headers, record.Value)
					if err != nil {
						return err
					}
					if seen[event.ID] {
						repeats++
						continue
					}
					seen[event.ID] = true
					f(tp.Partition, record.Offset, event)
				}
				return nil
			}))
		}
	})
	return repeats
}

// place is where a record is on a topic.
type place struct {
	Part   int32 `db:"part"`
	Offset int64 `db:"log_offset"`
}

// deadOffsets are the places of a topic's records that are dead letters.
func deadOffsets(t testing.TB, env environment, topic schema.Topic) map[place]bool {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var places []place
	require.NoError(t, db.Select(t.Context(), &places, `SELECT DISTINCT part, log_offset FROM dead_letters WHERE topic = $1`, string(topic)))
	dead := make(map[place]bool, len(places))
	for _, p := range places {
		dead[p] = true
	}
	return dead
}

// checkTables holds every table against the log and against what was fed into
// it. Other answers may have come in next to those that were fed.
func checkTables(t testing.TB, env environment, answers []fedAnswer) {
	t.Helper()
	checkTablesBeside(t, env, answers, 0)
}

// checkTablesBeside is checkTables where there should be this many dead letters.
func checkTablesBeside(t testing.TB, env environment, answers []fedAnswer, letters int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	checkRaw(t, env, db, answers)
	prices := map[int32][]observed{}
	total := 0
	repeats := readLog(t, env, schema.PriceEvents, func(partition int32, offset int64, event schema.Event) {
		total++
		prices[partition] = append(prices[partition], observed{offset, event.ID, event.Payload.(schema.PriceObserved)})
	})
	t.Logf("%d prices in the log, and %d repeats by the relay", total, repeats)

	priced := map[string]int{}
	for _, partition := range prices {
		for _, o := range partition {
			priced[o.price.RawResponseID]++
		}
	}
	wrong := 0
	for _, a := range answers {
		if priced[a.id] != 1 {
			wrong++
		}
	}
	assert.Zero(t, wrong, "answers that are not one price each")
	assert.Len(t, priced, total, "an answer is at most one price")

	checkProcessed(t, db, prices)
	checkAverages(t, db, prices)
	checkLatest(t, db, prices)
	for query, want := range map[string]int{
		`SELECT count(*) FROM dead_letters`:                 letters,
		`SELECT count(*) FROM outbox`:                       0,
		`SELECT count(*) FROM fetch_queue`:                  0,
		`SELECT count(*) FROM positions WHERE halted <> ''`: 0,
	} {
		var got int
		require.NoError(t, db.Get(t.Context(), &got, query))
		assert.Equal(t, want, got, query)
	}
}

// checkRaw holds raw_market_data against the answers in the log, byte for byte,
// those that were fed among them.
func checkRaw(t testing.TB, env environment, db *store.Store, answers []fedAnswer) {
	t.Helper()
	type raw struct {
		EventID string `db:"event_id"`
		Text    string `db:"raw_response"`
		Bytes   []byte `db:"raw_bytes"` // instead, where the answer is no text
	}
	var stored []raw
	require.NoError(t, db.Select(t.Context(), &stored, `SELECT event_id,
		COALESCE(raw_response, '') AS raw_response, raw_bytes FROM raw_market_data`))
	texts := make(map[string]string, len(stored))
	for _, r := range stored {
		texts[r.EventID] = r.Text + string(r.Bytes)
	}
	assert.Len(t, texts, len(stored), "each answer is stored once")
	logged, wrong := 0, 0
	readLog(t, env, schema.RawQuotes, func(_ int32, _ int64, event schema.Event) {
		if quote, ok := event.Payload.(schema.QuoteFetched); ok {
			if logged++; texts[event.ID] != string(quote.RawResponse) {
				wrong++
			}
		}
	})
	assert.Len(t, stored, logged, "each answer of the log is stored")
	for _, a := range answers {
		if texts[a.id] != string(a.quote.RawResponse) {
			wrong++
		}
	}
	assert.Zero(t, wrong, "answers that are not as they came")
}

// processed is a row of processed_prices.
type processed struct {
	Symbol    schema.Symbol  `db:"symbol"`
	Price     schema.Decimal `db:"price"`
	Timestamp schema.Time    `db:"timestamp"`
	RawID     string         `db:"raw_response_id"`
	EventID   string         `db:"event_id"`
}

// checkProcessed holds processed_prices against the log, in its order.
func checkProcessed(t testing.TB, db *store.Store, prices map[int32][]observed) {
	t.Helper()
	var got, want []processed
	require.NoError(t, db.Select(t.Context(), &got,
		`SELECT symbol, price, timestamp, raw_response_id, event_id FROM processed_prices ORDER BY id`))
	for _, partition := range slices.Sorted(maps.Keys(prices)) {
		for _, o := range prices[partition] {
			want = append(want, processed{o.price.Symbol, o.price.Price, o.price.Timestamp, o.price.RawResponseID, o.eventID})
		}
	}
	compareRows(t, want, got, func(a, b processed) bool {
		return a.Price.Cmp(b.Price) == 0 && a.Timestamp.Compare(b.Timestamp) == 0 &&
			a.Symbol == b.Symbol && a.RawID == b.RawID && a.EventID == b.EventID
	})
}

// average is a row of moving_averages.
type average struct {
	Symbol    schema.Symbol  `db:"symbol"`
	Window    int            `db:"window_size"`
	Value     schema.Decimal `db:"value"`
	Timestamp schema.Time    `db:"timestamp"`
}

// checkAverages recomputes every average of the history from the log.
func checkAverages(t testing.TB, db *store.Store, prices map[int32][]observed) {
	t.Helper()
	var got, want []average
	require.NoError(t, db.Select(t.Context(), &got, `SELECT symbol, window_size, value, timestamp FROM moving_averages ORDER BY id`))
	for _, partition := range slices.Sorted(maps.Keys(prices)) {
		history := map[schema.Symbol][]observed{}
		for _, o := range prices[partition] {
			symbol := o.price.Symbol
			sorted := append(history[symbol], o)
			for i := len(sorted) - 1; i > 0 && sorted[i-1].price.Timestamp.After(sorted[i].price.Timestamp); i-- {
				sorted[i-1], sorted[i] = sorted[i], sorted[i-1]
			}
			history[symbol] = sorted
			newest := sorted[len(sorted)-1].price.Timestamp
			for _, window := range []int{5, 20} {
				want = append(want, average{symbol, window, naiveMean(sorted[max(0, len(sorted)-window):]), newest})
			}
		}
	}
	compareRows(t, want, got, func(a, b average) bool {
		return a.Symbol == b.Symbol && a.Window == b.Window && a.Value.Cmp(b.Value) == 0 && a.Timestamp.Compare(b.Timestamp) == 0
	})
}

// latest is a row of latest_prices.
type latest struct {
	Symbol    schema.Symbol  `db:"symbol"`
	Price     schema.Decimal `db:"price"`
	Timestamp schema.Time    `db:"timestamp"`
}

// checkLatest holds latest_prices against the log: of the prices with the
// newest event time, the last one.
func checkLatest(t testing.TB, db *store.Store, prices map[int32][]observed) {
	t.Helper()
	var got, want []latest
	require.NoError(t, db.Select(t.Context(), &got, `SELECT symbol, price, timestamp FROM latest_prices`))
	for _, partition := range prices {
		newest := map[schema.Symbol]latest{}
		for _, o := range partition {
			if known, seen := newest[o.price.Symbol]; !seen || o.price.Timestamp.Compare(known.Timestamp) >= 0 {
				newest[o.price.Symbol] = latest{o.price.Symbol, o.price.Price, o.price.Timestamp}
			}
		}
		want = slices.AppendSeq(want, maps.Values(newest))
	}
	for _, rows := range [][]latest{got, want} {
		slices.SortFunc(rows, func(a, b latest) int { return cmp.Compare(a.Symbol, b.Symbol) })
	}
	compareRows(t, want, got, func(a, b latest) bool {
		return a.Symbol == b.Symbol && a.Price.Cmp(b.Price) == 0 && a.Timestamp.Compare(b.Timestamp) == 0
	})
}

// compareRows shows the first few of the rows that differ.
func compareRows[T any](t testing.TB, want, got []T, equal func(a, b T) bool) {
	t.Helper()
	require.Len(t, got, len(want), "rows of %T", want)
	wrong := 0
	for i := range want {
		if !equal(want[i], got[i]) {
			if wrong++; wrong < 5 {
				assert.Equal(t, want[i], got[i], "row %d", i)
			}
		}
	}
	assert.Zero(t, wrong, "rows of %T that differ from the recomputation", want)
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
