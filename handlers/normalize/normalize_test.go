package normalize_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/handlers/normalize"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted reads answers that say themselves what is to be made of them.
type scripted struct{ pipeline.Provider }

// script is such an answer.
type script struct {
	Prices []quoted    `json:"prices"`
	Code   schema.Code `json:"code"`
	Plain  string      `json:"plain"` // an error that is no QuoteError
	Panic  string      `json:"panic"`
}

type quoted struct {
	Symbol schema.Symbol  `json:"symbol"`
	Price  schema.Decimal `json:"price"`
	Second int64          `json:"second"`
	Bar    bool           `json:"bar"` // of a minute: open, low and volume are 1, high is the close
}

func (scripted) Normalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	var s script
	if err := json.Unmarshal(quote.RawResponse, &s); err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "not JSON", Err: err}
	}
	switch {
	case s.Panic != "":
		panic(s.Panic)
	case s.Plain != "":
		return nil, errors.New(s.Plain)
	case s.Code != "":
		return nil, pipeline.Quotef(s.Code, "as told")
	}
	var prices []pipeline.Price
	for _, q := range s.Prices {
		p := pipeline.Price{Symbol: q.Symbol, Price: q.Price, Time: at(q.Second)}
		if q.Bar {
			one := schema.MustDecimal("1")
			p.Bar = &schema.Bar{OpenTime: at(q.Second - 60), Open: one, High: q.Price, Low: one, Close: q.Price, Volume: &one, AdjustedClose: &one}
		}
		prices = append(prices, p)
	}
	return prices, nil
}

func at(second int64) schema.Time { return schema.NewTime(time.Unix(second, 0)) }

func newHandler(t pipelinetest.TB) pipeline.Handler {
	t.Helper()
	return newHandlerWith(t, nil)
}

func newHandlerWith(t pipelinetest.TB, metrics prometheus.Registerer) pipeline.Handler {
	t.Helper()
	for _, module := range pipeline.Handlers() {
		if module.Name == normalize.Name {
			h, err := module.New(pipeline.Env{Metrics: metrics, Provider: func(name schema.Provider) (pipeline.Provider, bool) {
				return scripted{}, name == "p"
			}})
			require.NoError(t, err)
			return h
		}
	}
	require.Fail(t, "not registered")
	return nil
}

const received = 1_000_000 // seconds

func answer(t require.TestingT, s script) string {
	text, err := json.Marshal(s)
	require.NoError(t, err)
	return string(text)
}

func stored(symbol schema.Symbol, answer string) schema.QuoteStored {
	return schema.QuoteStored{RawResponseID: "77", QuoteFetched: schema.QuoteFetched{
		Quote:       schema.Quote{Provider: "p", Symbol: symbol, RequestID: "r"},
		RawResponse: schema.RawResponse(answer), ReceivedAt: at(received)}}
}

func price(symbol schema.Symbol, value string, second int64) quoted {
	return quoted{Symbol: symbol, Price: schema.MustDecimal(value), Second: second}
}

func bar(symbol schema.Symbol, value string, second int64) quoted {
	return quoted{symbol, schema.MustDecimal(value), second, true}
}

// outcome is an event in short.
func outcome(e schema.Event) string {
	switch p := e.Payload.(type) {
	case schema.PriceObserved:
		return fmt.Sprintf("price %s %s@%d", p.Symbol, p.Price, p.Timestamp.Unix())
	case schema.BarObserved:
		return fmt.Sprintf("bar %s %s-%s %s@%d-%d v%s", p.Symbol, p.Low, p.High, p.Price, p.OpenTime.Unix(), p.Timestamp.Unix(), p.Volume)
	case schema.QuoteUnchanged:
		return fmt.Sprintf("unchanged %s %s@%d", p.Symbol, p.Price, p.Timestamp.Unix())
	case schema.QuoteRejected:
		return "rejected " + string(p.Code)
	default:
		return fmt.Sprintf("%T", p)
	}
}

func outcomes(t pipelinetest.TB, rig *pipelinetest.Rig) []string {
	t.Helper()
	var all []string
	for _, topic := range []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes} {
		for _, e := range rig.Events(t, topic) {
			all = append(all, outcome(e))
		}
	}
	return all
}

// A symbol that had a price is not unknown because one answer holds none.
func TestAKnownSymbolDoesNotBecomeUnknown(t *testing.T) {
	t.Parallel()
	unknown := answer(t, script{Code: schema.CodeUnknownSymbol})
	for name, batches := range map[string][][]schema.QuoteStored{
		"in one batch": {{stored("B", unknown), stored("A", answer(t, script{Prices: []quoted{price("A", "2", 10)}})), stored("A", unknown), stored("B", unknown)}},
		"later":        {{stored("A", answer(t, script{Prices: []quoted{price("A", "2", 10)}}))}, {stored("B", unknown), stored("A", unknown), stored("B", unknown)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			for _, batch := range batches { // each by a process that was just started
				stage := rig.StartHandler(t, normalize.Name, newHandler(t))
				var payloads []schema.Payload
				for _, quote := range batch {
					payloads = append(payloads, quote)
				}
				require.NoError(t, stage.Deliver(rig.AppendAll(t, payloads...)...))
				stage.Close(t)
			}
			all := outcomes(t, rig)
			slices.Sort(all)
			assert.Equal(t, []string{"price A 2@10", "rejected unavailable", "rejected unknown_symbol", "rejected unknown_symbol"}, all)
			for _, e := range rig.Events(t, schema.QuoteOutcomes) {
				if rejected := e.Payload.(schema.QuoteRejected); rejected.Symbol == "A" {
					assert.Contains(t, rejected.Reason, "the last known one, 2 of 1970-01-01T00:00:10Z, is stale")
				}
			}
		})
	}
}

// TestReplay gives the same events again, with the same ids, however the records are cut.
func TestReplay(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	rig := pipelinetest.New(t)
	handler := newHandler(t)
	stage := rig.StartHandler(t, normalize.Name, handler)
	defer stage.Close(t)
	var quotes []schema.Payload
	for range 300 {
		s := script{}
		if random.IntN(4) == 0 {
			s.Code = []schema.Code{schema.CodeUnknownSymbol, schema.CodeBadPrice}[random.IntN(2)]
		} else {
			for range 1 + random.IntN(3) {
				s.Prices = append(s.Prices, price([]schema.Symbol{"A", "B"}[random.IntN(2)], []string{"1", "2"}[random.IntN(2)], random.Int64N(3)+1))
			}
		}
		quote := stored("A", answer(t, s))
		if random.IntN(2) == 0 {
			quote.RequestID = ""
		}
		quotes = append(quotes, quote)
	}
	records := rig.AppendAll(t, quotes...)
	require.NoError(t, stage.Deliver(records...))
	want := map[string]schema.Payload{}
	for _, topic := range []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes} {
		for _, e := range rig.Events(t, topic) {
			want[e.ID] = e.Payload
		}
	}
	replay, ours := normalize.NewReplay(handler)
	require.True(t, ours)
	got := map[string]schema.Payload{}
	for part := range slices.Chunk(records, 1+random.IntN(len(records))) {
		events, err := replay.Events(t.Context(), rig.DB, part)
		require.NoError(t, err)
		prices, err := replay.Prices(t.Context(), rig.DB, part)
		require.NoError(t, err)
		for i, all := range events {
			for n, e := range all {
				got[e.ID] = e.Payload
				if _, isPrice := e.Payload.(schema.PriceObserved); isPrice {
					require.Equal(t, e.Payload, prices[i][n])
				}
			}
		}
	}
	require.NotEmpty(t, want)
	require.Equal(t, want, got)
}

// Two trades of a stream or a file are two prices although price and time agree.
func TestWhatNobodyAskedForIsNews(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, normalize.Name, newHandler(t))
	defer stage.Close(t)
	first := stored("A", answer(t, script{Prices: []quoted{price("A", "2", 10)}}))
	first.RequestID = ""
	require.NoError(t, stage.Deliver(rig.AppendAll(t, first, first)...))
	assert.Equal(t, []string{"price A 2@10", "price A 2@10"}, outcomes(t, rig))
	asked := first
	asked.RequestID = "r"
	require.NoError(t, stage.Deliver(rig.AppendAll(t, asked)...))
	assert.Equal(t, []string{"unchanged A 2@10"}, outcomes(t, rig))
}

// How late a price is, is told once, when it is news.
func TestDelay(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, normalize.Name, newHandlerWith(t, registry))
	defer stage.Close(t)
	late := stored("A", answer(t, script{Prices: []quoted{price("A", "2", received-10)}}))
	require.NoError(t, stage.Deliver(rig.AppendAll(t, late, late)...))
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	got := families[0].GetMetric()
	require.Len(t, got, 1)
	assert.Equal(t, "p", got[0].GetLabel()[0].GetValue())
	assert.EqualValues(t, 1, got[0].GetHistogram().GetSampleCount())
	assert.InDelta(t, 10, got[0].GetHistogram().GetSampleSum(), 1e-9)
}

func TestWhatBecomesOfAnAnswer(t *testing.T) {
	t.Parallel()
	const day = 24 * 3600
	one := func(quotes ...quoted) string { return answer(t, script{Prices: quotes}) }
	for name, test := range map[string]struct {
		answers []string
		want    []string // prices first, then the others
	}{
		"a price":                          {[]string{one(price("A", "185.75", 10))}, []string{"price A 185.75@10"}},
		"the same again":                   {[]string{one(price("A", "2.0", 10)), one(price("A", "2.00", 10))}, []string{"price A 2@10", "unchanged A 2@10"}},
		"another price":                    {[]string{one(price("A", "2", 10)), one(price("A", "3", 10))}, []string{"price A 2@10", "price A 3@10"}},
		"another time":                     {[]string{one(price("A", "2", 10)), one(price("A", "2", 11))}, []string{"price A 2@10", "price A 2@11"}},
		"late, then the newest":            {[]string{one(price("A", "2", 10)), one(price("A", "9", 5)), one(price("A", "2", 10))}, []string{"price A 2@10", "price A 9@5", "unchanged A 2@10"}},
		"several prices":                   {[]string{one(price("A", "1", 1), price("A", "2", 2), price("A", "2", 2), price("B", "5", 2))}, []string{"price A 1@1", "price A 2@2", "price B 5@2", "unchanged A 2@2"}},
		"exactly a day ahead":              {[]string{one(price("A", "1", received+day))}, []string{fmt.Sprintf("price A 1@%d", received+day)}},
		"more than a day":                  {[]string{one(price("A", "1", received+day+1))}, []string{"rejected bad_response"}},
		"one of two is bad":                {[]string{one(price("A", "1", 1), price("A", "0", 2))}, []string{"rejected bad_price"}},
		"zero":                             {[]string{one(price("A", "0", 1))}, []string{"rejected bad_price"}},
		"negative":                         {[]string{one(price("A", "-1", 1))}, []string{"rejected bad_price"}},
		"no symbol":                        {[]string{one(price("", "1", 1))}, []string{"rejected bad_price"}},
		"before 1000":                      {[]string{one(price("A", "1", -4e10))}, []string{"rejected bad_price"}},
		"no price at all":                  {[]string{one()}, []string{"rejected bad_response"}},
		"unknown symbol":                   {[]string{answer(t, script{Code: schema.CodeUnknownSymbol})}, []string{"rejected unknown_symbol"}},
		"garbage":                          {[]string{"<html>\x00\xff"}, []string{"rejected bad_response"}},
		"an error without code":            {[]string{answer(t, script{Plain: strings.Repeat("é", 1000)})}, []string{"rejected internal"}},
		"a panic":                          {[]string{answer(t, script{Panic: "index out of range"})}, []string{"rejected internal"}},
		"a bar":                            {[]string{one(bar("A", "5", 600))}, []string{"bar A 1-5 5@540-600 v1"}},
		"the same bar again":               {[]string{one(bar("A", "5", 600)), one(bar("A", "5", 600))}, []string{"bar A 1-5 5@540-600 v1", "unchanged A 5@600"}},
		"a bar whose low exceeds its high": {[]string{one(bar("A", "0.5", 600))}, []string{"rejected bad_price"}},
		"bad, then good":                   {[]string{one(price("A", "0", 9)), one(price("A", "1", 9))}, []string{"price A 1@9", "rejected bad_price"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			stage := rig.StartHandler(t, normalize.Name, newHandler(t))
			defer stage.Close(t)
			for _, text := range test.answers {
				require.NoError(t, stage.Deliver(rig.AppendAll(t, stored("A", text))...))
			}
			assert.ElementsMatch(t, test.want, outcomes(t, rig))
		})
	}
}

func TestEventsCarryWhatTheyWereReadFrom(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, normalize.Name, newHandler(t))
	defer stage.Close(t)
	good := stored("A", answer(t, script{Prices: []quoted{price("A", "1", 1)}}))
	strange := good
	strange.Provider = "q"
	require.NoError(t, stage.Deliver(rig.AppendAll(t, good, good, strange)...))
	quote := good.Quote
	assert.Equal(t, schema.PriceObserved{Symbol: "A", Price: schema.MustDecimal("1"), Timestamp: at(1), Source: "p",
		RawResponseID: "77", ReceivedAt: at(received), RequestID: "r"}, rig.Events(t, schema.PriceEvents)[0].Payload)
	var got []schema.Payload
	for _, e := range rig.Events(t, schema.QuoteOutcomes) {
		got = append(got, e.Payload)
	}
	assert.ElementsMatch(t, []schema.Payload{
		schema.QuoteUnchanged{Quote: quote, RawResponseID: "77", Price: schema.MustDecimal("1"), Timestamp: at(1), ReceivedAt: at(received)},
		schema.QuoteRejected{Quote: strange.Quote, RawResponseID: "77", Code: schema.CodeUnknownProvider,
			Reason: `no provider "q" in this binary`, ReceivedAt: at(received)},
	}, got)
}

// Two trades of a stream or a file may have one price and one time.
func TestWhatNobodyAskedForIsAFactOfItsOwn(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, normalize.Name, newHandler(t))
	defer stage.Close(t)
	asked := stored("A", answer(t, script{Prices: []quoted{price("A", "1", 1)}}))
	trade := asked
	trade.RequestID = ""
	require.NoError(t, stage.Deliver(rig.AppendAll(t, trade, trade, asked)...))
	assert.Equal(t, []string{"price A 1@1", "price A 1@1", "unchanged A 1@1"}, outcomes(t, rig))
}

// model is normalize without batches, memory and SQL.
func model(log []pipeline.Record) []string {
	type key struct{ asked, symbol schema.Symbol }
	newest := map[key]quoted{}
	var prices, others []string
	for _, r := range log {
		quote := r.Event.Payload.(schema.QuoteStored)
		var s script
		if json.Unmarshal(quote.RawResponse, &s) != nil || s.Code != "" {
			others = append(others, "rejected bad_response")
			continue
		}
		for _, q := range s.Prices {
			k := key{quote.Symbol, q.Symbol}
			before, known := newest[k]
			if known && before.Second == q.Second && before.Price.Cmp(q.Price) == 0 {
				others = append(others, fmt.Sprintf("unchanged %s %s@%d", q.Symbol, q.Price, q.Second))
				continue
			}
			prices = append(prices, fmt.Sprintf("price %s %s@%d", q.Symbol, q.Price, q.Second))
			if !known || before.Second <= q.Second {
				newest[k] = q
			}
		}
	}
	return append(prices, others...)
}

func drawAnswers(t *rapid.T) []schema.Payload {
	var payloads []schema.Payload
	for range rapid.IntRange(1, 25).Draw(t, "answers") {
		asked := rapid.SampledFrom([]schema.Symbol{"A", "B", "C"}).Draw(t, "asked")
		if rapid.IntRange(0, 9).Draw(t, "bad") == 0 {
			payloads = append(payloads, stored(asked, "garbage"))
			continue
		}
		var s script
		for range rapid.IntRange(1, 3).Draw(t, "prices") {
			symbol := asked
			if rapid.IntRange(0, 3).Draw(t, "other") == 0 {
				symbol = "X" // in the answers for several symbols, on several partitions
			}
			s.Prices = append(s.Prices, price(symbol, rapid.SampledFrom([]string{"1", "2"}).Draw(t, "price"),
				int64(rapid.IntRange(1, 4).Draw(t, "second"))))
		}
		payloads = append(payloads, stored(asked, answer(t, s)))
	}
	return payloads
}

// What a lane remembers is what SQL holds: with sessions that begin again at any
// point, batches of any size, rolled back or not, and partitions in any order,
// the events are those of the model.
func TestRememberedAndLoadedStateAreTheSame(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		_, err := rig.Emitter().Emit(context.Background(), func(tx *pipeline.Tx) ([]schema.Event, error) {
			_, err := tx.Exec(context.Background(), `DELETE FROM normalized_quotes`)
			return nil, err
		})
		require.NoError(t, err)
		log := rig.AppendAll(t, drawAnswers(t)...)
		stage := rig.Start(t, engine.StageSpec{Name: fmt.Sprint("normalize-", round), Handler: newHandler(t),
			Consumes: []schema.EventType{schema.QuoteStored{}.EventType()},
			Produces: []schema.EventType{schema.PriceObserved{}.EventType(), schema.QuoteRejected{}.EventType(), schema.QuoteUnchanged{}.EventType()}})
		defer stage.Close(t)
		pipelinetest.DeliverInPieces(t, stage, pipelinetest.Interleave(t, log))
		require.ElementsMatch(t, model(log), outcomes(t, rig))
	})
}
