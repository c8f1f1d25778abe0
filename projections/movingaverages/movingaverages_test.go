package movingaverages_test

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return movingaverages.New(pipeline.Env{}) }})
}

func newProjection(t require.TestingT, windows ...int) pipeline.Projection {
	p, err := movingaverages.New(pipeline.Env{Settings: map[string]any{"windows": windows}})
	require.NoError(t, err)
	return p
}

var generation = pipeline.Generation{Projection: movingaverages.Name, Number: 1, Active: true}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// recreate empties the tables of projections.
func recreate(t require.TestingT, db *store.Store, all ...pipeline.Projection) {
	require.NoError(t, db.Write(context.Background(), func(tx *store.Tx) error {
		for _, p := range all {
			for _, name := range p.TableNames() {
				if err := tx.DDL(context.Background(), "DROP TABLE IF EXISTS "+generation.Table(name)); err != nil {
					return err
				}
			}
			for _, ddl := range p.Tables(generation) {
				if err := tx.DDL(context.Background(), ddl); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// drawPrice gives 1 to 18 significant digits, with the point anywhere.
func drawPrice(t *rapid.T) string {
	digits := rapid.StringMatching(`[1-9][0-9]{0,17}`).Draw(t, "digits")
	point := rapid.IntRange(0, len(digits)).Draw(t, "point")
	if point == 0 {
		return "0." + digits
	}
	if point == len(digits) {
		return digits
	}
	return digits[:point] + "." + digits[point:]
}

// drawLog gives prices of a few symbols, with ties and late arrivals.
func drawLog(t *rapid.T) []pipeline.Record {
	n := rapid.IntRange(1, 60).Draw(t, "records")
	records := make([]pipeline.Record, n)
	for i := range records {
		at := schema.NewTime(time.Unix(int64(rapid.IntRange(0, 20).Draw(t, "second")), 0))
		records[i] = pipeline.Record{
			TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents}, Offset: int64(i),
			Event: schema.Event{ID: fmt.Sprint(i), Payload: schema.PriceObserved{
				Symbol: schema.Symbol(rapid.SampledFrom([]string{"A", "B"}).Draw(t, "symbol")),
				Source: schema.Provider(rapid.SampledFrom([]string{"p", "q"}).Draw(t, "provider")),
				Price:  schema.MustDecimal(drawPrice(t)), Timestamp: at, ReceivedAt: at,
				Sequence: rapid.SampledFrom([]schema.Sequence{0, 0, 1, 2, -1}).Draw(t, "sequence")}}}
	}
	return records
}

// expected is an average of the recomputation.
type expected struct {
	key, value string
	window     int
	newest     time.Time
}

// recompute computes each average from scratch, with rationals, by sorting
// everything there was so far.
func recompute(records []pipeline.Record, windows []int) []expected {
	type observation struct {
		at       time.Time
		sequence schema.Sequence
		price    *big.Rat
	}
	history := map[string][]observation{}
	var all []expected
	for _, r := range records {
		p := r.Event.Payload.(schema.PriceObserved)
		price, _ := new(big.Rat).SetString(p.Price.String())
		history[p.Key()] = append(history[p.Key()], observation{p.Timestamp.Time, p.Sequence, price})
		for _, window := range windows {
			sorted := slices.Clone(history[p.Key()])
			slices.SortStableFunc(sorted, func(a, b observation) int {
				return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.sequence, b.sequence))
			})
			last := sorted[max(0, len(sorted)-window):]
			sum := new(big.Rat)
			for _, o := range last {
				sum.Add(sum, o.price)
			}
			sum.Quo(sum, new(big.Rat).SetInt64(int64(len(last))))
			all = append(all, expected{p.Key(), halfEven(sum), window, last[len(last)-1].at})
		}
	}
	return all
}

// halfEven rounds to 18 digits, by integers.
func halfEven(r *big.Rat) string {
	scaled := new(big.Int).Mul(r.Num(), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))
	quotient, remainder := new(big.Int).QuoRem(scaled, r.Denom(), new(big.Int))
	switch twice := new(big.Int).Lsh(remainder, 1); twice.Cmp(r.Denom()) {
	case 1:
		quotient.Add(quotient, big.NewInt(1))
	case 0:
		quotient.Add(quotient, new(big.Int).SetUint64(uint64(quotient.Bit(0))))
	}
	text := fmt.Sprintf("%019s", quotient.String())
	text = text[:len(text)-18] + "." + text[len(text)-18:]
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

type row struct {
	Provider string         `db:"provider"`
	Symbol   string         `db:"symbol"`
	Window   int            `db:"window_size"`
	Value    schema.Decimal `db:"value"`
	At       schema.Time    `db:"timestamp"`
}

// Whatever the prices, their order, and the cuts into batches, with or without
// what a lane remembers, the history equals the recomputation, row by row.
func TestAveragesEqualARecomputation(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	rapid.Check(t, func(t *rapid.T) {
		windows := rapid.SliceOfNDistinct(rapid.IntRange(1, 12), 1, 3, rapid.ID[int]).Draw(t, "windows")
		projection := newProjection(t, windows...)
		recreate(t, db, projection)
		records := drawLog(t)
		lane := engine.NewLane()
		for rest := records; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
			if rapid.Bool().Draw(t, "restart") {
				lane = engine.NewLane()
			}
			if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
				require.Error(t, lane.Run(context.Background(), db, func(tx *pipeline.Tx) error {
					return fmt.Errorf("rolled back: %w", projection.Apply(context.Background(), tx, generation, rest[:n]))
				}))
			}
			require.NoError(t, lane.Run(context.Background(), db, func(tx *pipeline.Tx) error {
				return projection.Apply(context.Background(), tx, generation, rest[:n])
			}))
			rest = rest[n:]
		}
		slices.Sort(windows)
		want := recompute(records, windows)
		var got []row
		require.NoError(t, db.Select(context.Background(), &got,
			`SELECT provider, symbol, window_size, value, timestamp FROM moving_averages ORDER BY id`))
		require.Len(t, got, len(want))
		for i, w := range want {
			require.Equal(t, w, expected{got[i].Provider + "/" + got[i].Symbol, got[i].Value.String(), got[i].Window, got[i].At.Time}, "row %d", i)
		}
	})
}

func newPrices(t *testing.T) pipeline.Projection {
	t.Helper()
	for _, module := range pipeline.Projections() {
		if module.Name == processedprices.Name {
			prices, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			return prices
		}
	}
	require.Fail(t, "not registered")
	return nil
}

// At each price, whatever the window: the average of a log that ends with it,
// had all prices come in their order.
func TestHistoryEqualsARecomputation(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	prices := newPrices(t)
	reader := movingaverages.NewReader(db)
	rapid.Check(t, func(t *rapid.T) {
		recreate(t, db, prices)
		log := drawLog(t)
		require.NoError(t, engine.NewLane().Run(context.Background(), db, func(tx *pipeline.Tx) error {
			return prices.Apply(context.Background(), tx, generation, log)
		}))
		window := rapid.IntRange(1, 12).Draw(t, "window")
		from, to := at(rapid.IntRange(0, 20).Draw(t, "from")), at(rapid.IntRange(0, 21).Draw(t, "to"))
		var sorted []pipeline.Record
		for _, r := range log {
			if r.Event.Payload.Key() == "p/A" {
				sorted = append(sorted, r)
			}
		}
		slices.SortStableFunc(sorted, func(a, b pipeline.Record) int {
			p, q := a.Event.Payload.(schema.PriceObserved), b.Event.Payload.(schema.PriceObserved)
			return cmp.Or(p.Timestamp.Compare(q.Timestamp), cmp.Compare(p.Sequence, q.Sequence))
		})
		var want, got []string
		for i, e := range recompute(sorted, []int{window}) {
			if when := sorted[i].Event.Payload.OccurredAt(); !when.Before(from.Time) && when.Before(to.Time) {
				want = append([]string{e.newest.String() + " " + e.value}, want...)
			}
		}
		q := processedprices.Query{Provider: "p", Symbol: "A", From: from, Behind: projections.Before(to),
			Limit: rapid.IntRange(1, 20).Draw(t, "page")}
		for {
			page, err := reader.History(context.Background(), window, q)
			require.NoError(t, err)
			for _, point := range page {
				got = append(got, point.Timestamp.Time.String()+" "+point.Value.String())
			}
			if len(page) < q.Limit {
				break
			}
			q.Behind = page[len(page)-1].Place
		}
		require.Equal(t, want, got)
	})
}

func at(second int) schema.Time { return schema.NewTime(time.Unix(int64(second), 0)) }

func TestQueries(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	averages, prices := newProjection(t, 3), newPrices(t)
	recreate(t, db, averages, prices)
	reader := movingaverages.NewReader(db)
	_, err := reader.Average(t.Context(), "p", "A", 3)
	require.ErrorIs(t, err, projections.ErrNotFound)

	var records []pipeline.Record
	for i, price := range []string{"1", "2", "4", "0.00001304", "8"} {
		at := schema.NewTime(time.Unix(int64(100-i), 0)) // each later in the log is earlier in time
		records = append(records, pipeline.Record{Offset: int64(i), Event: schema.Event{ID: price, Payload: schema.PriceObserved{
			Symbol: "A", Source: "p", Price: schema.MustDecimal(price), Timestamp: at, ReceivedAt: at}}})
	}
	for _, projection := range []pipeline.Projection{averages, prices} {
		require.NoError(t, engine.NewLane().Run(t.Context(), db, func(tx *pipeline.Tx) error {
			return projection.Apply(t.Context(), tx, generation, records)
		}))
	}
	for window, want := range map[int]string{1: "1", 2: "1.5", 3: "2.333333333333333333", 4: "1.75000326", 5: "3.000002608", 1000: "3.000002608"} {
		got, err := reader.Average(t.Context(), "p", "A", window)
		require.NoError(t, err)
		assert.Equal(t, want, got.Value.String(), "window %d", window)
		assert.Equal(t, int64(100), got.Timestamp.Unix(), "window %d", window)
		assert.Equal(t, window, got.Window)
		of, err := reader.AveragesOf(t.Context(), "p", []schema.Symbol{"B", "A", "C"}, window)
		require.NoError(t, err)
		assert.Equal(t, []*movingaverages.Average{nil, &got, nil}, of)
	}
	_, err = reader.Average(t.Context(), "q", "A", 3)
	require.ErrorIs(t, err, projections.ErrNotFound)

	for second, want := range map[int]string{100: "2.333333333333333333", 500: "2.333333333333333333", 99: "2.000004346666666667", 97: "4.00000652", 96: "8"} {
		got, err := reader.AsOf(t.Context(), "p", "A", 3, at(second))
		require.NoError(t, err)
		assert.Equal(t, want, got.Value.String(), "as of %d", second)
		assert.Equal(t, at(min(second, 100)), got.Timestamp)
	}
	_, err = reader.AsOf(t.Context(), "p", "A", 3, at(95))
	require.ErrorIs(t, err, projections.ErrNotFound)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]any{
		"zero":     {"windows": []int{0}},
		"too long": {"windows": []int{1001}},
		"too many": {"windows": make([]int, 65)},
		"misspelt": {"window": []int{5}},
	} {
		if name == "too many" {
			windows := settings["windows"].([]int)
			for i := range windows {
				windows[i] = i + 1
			}
		}
		_, err := movingaverages.New(pipeline.Env{Settings: settings})
		assert.Error(t, err, name)
	}
}
