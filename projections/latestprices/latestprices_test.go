package latestprices_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return newProjection(t), nil },
		Draw: func(t *rapid.T) []schema.Payload { return projectiontest.Corrected(t, drawLog(t)) }})
}

func newProjection(t *testing.T) pipeline.Projection {
	t.Helper()
	for _, module := range pipeline.Projections() {
		if module.Name == latestprices.Name {
			p, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			return p
		}
	}
	require.Fail(t, "not registered")
	return nil
}

func at(second int) schema.Time { return schema.NewTime(time.Unix(int64(second), 0)) }

func observed(symbol schema.Symbol, price string, event, received int) schema.PriceObserved {
	return schema.PriceObserved{Symbol: symbol, Source: "p", Price: schema.MustDecimal(price), Timestamp: at(event), ReceivedAt: at(received)}
}

func unchanged(p schema.PriceObserved, received int) schema.QuoteUnchanged {
	return schema.QuoteUnchanged{Quote: schema.Quote{Provider: p.Source, Symbol: p.Symbol}, RawResponseID: "1",
		Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: at(received)}
}

// drawLog gives prices, with ties and late ones, and repeats of prices that
// stand earlier in the log.
func drawLog(t *rapid.T) []schema.Payload {
	var payloads []schema.Payload
	var prices []schema.PriceObserved
	for range rapid.IntRange(1, 40).Draw(t, "events") {
		received := rapid.IntRange(0, 50).Draw(t, "received")
		if len(prices) > 0 && rapid.Bool().Draw(t, "repeat") {
			payloads = append(payloads, unchanged(rapid.SampledFrom(prices).Draw(t, "repeated"), received))
			continue
		}
		p := observed(rapid.SampledFrom([]schema.Symbol{"A", "B", "C"}).Draw(t, "symbol"),
			rapid.SampledFrom([]string{"1", "2.5", "10", "0.00001304"}).Draw(t, "price"),
			rapid.IntRange(0, 6).Draw(t, "event time"), received)
		p.Sequence = rapid.SampledFrom([]schema.Sequence{0, 0, 1, 2, -1}).Draw(t, "sequence")
		prices, payloads = append(prices, p), append(payloads, p)
	}
	return payloads
}

// newest is what the read model should hold, found by looking at the whole log
// at once.
func newest(log []pipeline.Record) map[schema.Symbol]latestprices.Price {
	want, last := map[schema.Symbol]latestprices.Price{}, map[schema.Symbol]schema.PriceObserved{}
	for _, r := range log {
		p, ok := r.Event.Payload.(schema.PriceObserved)
		if before, known := last[p.Symbol]; ok && (!known || cmp.Or(p.Timestamp.Compare(before.Timestamp), cmp.Compare(p.Sequence, before.Sequence)) >= 0) {
			last[p.Symbol] = p
			want[p.Symbol] = latestprices.Price{Provider: p.Source, Symbol: p.Symbol, Price: p.Price, Timestamp: p.Timestamp}
		}
	}
	for symbol, best := range want {
		for _, r := range log {
			var received schema.Time
			switch p := r.Event.Payload.(type) {
			case schema.PriceObserved:
				if p.Symbol == symbol && p.Timestamp == best.Timestamp {
					received = p.ReceivedAt
				}
			case schema.QuoteUnchanged:
				if p.Symbol == symbol && p.Timestamp == best.Timestamp {
					received = p.ReceivedAt
				}
			}
			if received.After(best.ReceivedAt) {
				best.ReceivedAt = received
			}
		}
		want[symbol] = best
	}
	return want
}

func TestTheNewestPriceWhateverTheOrderOfTopicsAndTheCuts(t *testing.T) {
	t.Parallel()
	pipelinetest.CheckFold(t, newProjection(t), drawLog, func(t *rapid.T, f pipelinetest.Fold) {
		type row struct {
			latestprices.Price
			Prices int64                 `db:"prices"`
			First  sql.Null[schema.Time] `db:"first_time"`
		}
		var rows []row
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT provider, symbol, price, timestamp, received_at, prices,
			first_time FROM `+f.Generation.Table("latest_prices")))
		got := map[schema.Symbol]latestprices.Price{}
		for _, r := range rows {
			got[r.Symbol] = r.Price
			prices, first := count(f.Log, r.Symbol)
			require.Equal(t, prices, r.Prices, r.Symbol)
			require.Equal(t, sql.Null[schema.Time]{V: first, Valid: true}, r.First, r.Symbol)
		}
		require.Equal(t, newest(f.Log), got)
	})
}

// count finds the number of prices of a symbol and the oldest event time.
func count(log []pipeline.Record, symbol schema.Symbol) (prices int64, first schema.Time) {
	for _, r := range log {
		if p, ok := r.Event.Payload.(schema.PriceObserved); ok && p.Symbol == symbol {
			if prices++; prices == 1 || p.Timestamp.Before(first.Time) {
				first = p.Timestamp
			}
		}
	}
	return prices, first
}

func sequenced(p schema.PriceObserved, sequence schema.Sequence) schema.PriceObserved {
	p.Sequence = sequence
	return p
}

func TestLatest(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	spec, err := projections.Open(t.Context(), rig.DB, newProjection(t))
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	defer stage.Close(t)
	reader := latestprices.NewReader(rig.DB)
	_, err = reader.Latest(t.Context(), "p", "A")
	require.ErrorIs(t, err, projections.ErrNotFound)

	first := observed("A", "1.50", 10, 11)
	for _, step := range []struct {
		what     string
		payload  schema.Payload
		price    string
		received int
	}{
		{"the first price", first, "1.5", 11},
		{"a repeat moves only the receipt", unchanged(first, 20), "1.5", 20},
		{"an older receipt does not move it back", unchanged(first, 15), "1.5", 20},
		{"a late price changes nothing", observed("A", "9", 5, 30), "1.5", 20},
		{"of two at one time, the later in the log", observed("A", "2", 10, 12), "2", 20},
		{"or that with the higher sequence", sequenced(observed("A", "3", 10, 12), 7), "3", 20},
		{"whatever comes later", sequenced(observed("A", "4", 10, 12), 6), "3", 20},
		{"a newer one brings its own receipt", observed("A", "3", 11, 13), "3", 13},
	} {
		require.NoError(t, stage.Deliver(rig.AppendAll(t, step.payload)...))
		got, err := reader.Latest(t.Context(), "p", "A")
		require.NoError(t, err)
		assert.Equal(t, step.price, got.Price.String(), step.what)
		assert.Equal(t, at(step.received), got.ReceivedAt, step.what)
	}
	_, err = reader.Latest(t.Context(), "q", "A")
	require.ErrorIs(t, err, projections.ErrNotFound, "another provider's symbol is another one")
}

// TestLatestOf: the prices of many symbols are those of each.
func TestLatestOf(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	spec, err := projections.Open(t.Context(), rig.DB, newProjection(t))
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	defer stage.Close(t)
	reader := latestprices.NewReader(rig.DB)
	var symbols []schema.Symbol
	for i := range 100 {
		symbol := schema.Symbol("S" + strconv.Itoa(i))
		symbols = append(symbols, symbol)
		if i%3 > 0 {
			require.NoError(t, stage.Deliver(rig.AppendAll(t, observed(symbol, strconv.Itoa(i+1), 10+i, 200))...))
		}
	}
	for _, n := range []int{1, 2, 3, 64, 100} {
		want := make([]*latestprices.Price, n)
		for i, symbol := range symbols[:n] {
			price, err := reader.Latest(t.Context(), "p", symbol)
			if !errors.Is(err, projections.ErrNotFound) {
				require.NoError(t, err)
				want[i] = &price
			}
		}
		got, err := reader.LatestOf(t.Context(), "p", symbols[:n])
		require.NoError(t, err)
		assert.Equal(t, want, got, "%d symbols", n)
		assert.Equal(t, (n+2)/3, n-len(slices.DeleteFunc(got, func(p *latestprices.Price) bool { return p == nil })))
	}
	got, err := reader.LatestOf(t.Context(), "q", symbols)
	require.NoError(t, err)
	assert.Equal(t, make([]*latestprices.Price, 100), got, "another provider's symbol is another one")
}

func TestHolders(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	spec, err := projections.Open(t.Context(), rig.DB, newProjection(t))
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	defer stage.Close(t)
	reader := latestprices.NewReader(rig.DB)
	among := []schema.Provider{"p", "q", "r"}
	holders := func(symbol schema.Symbol, among []schema.Provider) []schema.Provider {
		found, err := reader.Holders(t.Context(), symbol, among)
		require.NoError(t, err)
		return found
	}
	assert.Empty(t, holders("A", among))
	elsewhere := observed("A", "1", 10, 10)
	elsewhere.Source = "q"
	require.NoError(t, stage.Deliver(rig.AppendAll(t, observed("A", "1", 10, 10), elsewhere, observed("B", "1", 10, 10))...))
	assert.ElementsMatch(t, []schema.Provider{"p", "q"}, holders("A", among))
	assert.Equal(t, []schema.Provider{"p"}, holders("B", among))
	assert.Empty(t, holders("B", among[1:]), "not asked for")
	assert.Empty(t, holders("A", []schema.Provider{}))
	assert.ElementsMatch(t, []schema.Provider{"p", "q"}, holders("A", nil), "all there are")
	assert.Equal(t, []schema.Provider{"p"}, holders("B", nil))
	assert.Empty(t, holders("C", nil))
}

func TestSymbols(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	spec, err := projections.Open(t.Context(), rig.DB, newProjection(t))
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	defer stage.Close(t)
	at := func(provider schema.Provider, p schema.PriceObserved) schema.PriceObserved {
		p.Source = provider
		return p
	}
	onlyRepeated := observed("Z", "1", 1, 1)
	require.NoError(t, stage.Deliver(rig.AppendAll(t, at("q", observed("A", "1", 10, 10)), at("p", observed("B", "2", 10, 10)),
		at("p", observed("A", "3", 10, 10)), at("p", observed("A", "4.50", 20, 20)), at("p", observed("A", "5", 5, 30)),
		unchanged(onlyRepeated, 2))...))
	reader := latestprices.NewReader(rig.DB)
	list := func(q latestprices.SymbolQuery) []string {
		symbols, err := reader.Symbols(t.Context(), q)
		require.NoError(t, err)
		var texts []string
		for _, s := range symbols {
			texts = append(texts, fmt.Sprintf("%s/%s: %d from %d to %d, last %s", s.Provider, s.Symbol, s.Prices,
				s.First.Unix(), s.Last.Unix(), s.LastPrice))
		}
		return texts
	}
	a, b, other := "p/A: 3 from 5 to 20, last 4.5", "p/B: 1 from 10 to 10, last 2", "q/A: 1 from 10 to 10, last 1"
	assert.Equal(t, []string{a, b, other}, list(latestprices.SymbolQuery{Limit: 10}), "Z has no price yet")
	assert.Equal(t, []string{a, b}, list(latestprices.SymbolQuery{Limit: 2}))
	assert.Equal(t, []string{other}, list(latestprices.SymbolQuery{AfterProvider: "p", AfterSymbol: "B", Limit: 2}))
	assert.Equal(t, []string{a, b}, list(latestprices.SymbolQuery{Provider: "p", Limit: 10}))
	assert.Equal(t, []string{b}, list(latestprices.SymbolQuery{Provider: "p", AfterProvider: "p", AfterSymbol: "A", Limit: 10}))
	assert.Empty(t, list(latestprices.SymbolQuery{Provider: "nobody", Limit: 10}))
	assert.Equal(t, []string{a}, list(latestprices.SymbolQuery{Provider: "p", Symbol: "A", Limit: 10}))
	assert.Empty(t, list(latestprices.SymbolQuery{Provider: "p", Symbol: "Z", Limit: 10}), "Z has no price yet")
	assert.Equal(t, []string{b}, list(latestprices.SymbolQuery{Contains: "b", Limit: 10}), "in upper or lower case")
	assert.Equal(t, []string{other}, list(latestprices.SymbolQuery{Contains: "A", Provider: "q", Limit: 10}))
	assert.Equal(t, []string{other}, list(latestprices.SymbolQuery{Contains: "A", AfterProvider: "p", AfterSymbol: "A", Limit: 10}))
	assert.Equal(t, []string{a}, list(latestprices.SymbolQuery{Contains: "A", Limit: 1}))
	for _, pattern := range []string{"%", "_", "!", "?"} {
		assert.Empty(t, list(latestprices.SymbolQuery{Contains: pattern, Limit: 10}), "a pattern is a text")
	}
}

func TestAClosedDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
	require.NoError(t, db.Close())
	_, err := latestprices.NewReader(db).Latest(t.Context(), "p", "A")
	require.ErrorIs(t, err, projections.ErrUnavailable)
	require.NotErrorIs(t, err, projections.ErrNotFound)
	_, err = latestprices.NewReader(db).Symbols(t.Context(), latestprices.SymbolQuery{Limit: 1})
	require.ErrorIs(t, err, projections.ErrUnavailable)
}
