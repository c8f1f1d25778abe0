package instruments_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/instruments"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// teller is a provider whose answers are a currency and a class.
type teller struct{ pipeline.Provider }

func (teller) DescribeAnswer(quote schema.QuoteFetched) (schema.Instrument, bool) {
	currency, class, told := strings.Cut(string(quote.RawResponse), " ")
	return schema.Instrument{Currency: currency, Class: class}, told
}

// silent is a provider whose answers tell nothing but prices.
type silent struct{ pipeline.Provider }

func provider(name schema.Provider) (pipeline.Provider, bool) {
	switch name {
	case "teller":
		return teller{}, true
	case "silent":
		return silent{}, true
	}
	return nil, false
}

func newProjection() (pipeline.Projection, error) {
	return instruments.New(pipeline.Env{Provider: provider})
}

func answer(of schema.Provider, symbol schema.Symbol, text string) schema.Payload {
	return schema.QuoteFetched{Quote: schema.Quote{Provider: of, Symbol: symbol}, RawResponse: schema.RawResponse(text),
		ReceivedAt: schema.NewTime(time.Date(2026, 1, 5, 14, 30, 0, 0, time.UTC))}
}

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: newProjection, Draw: func(draw *rapid.T) []schema.Payload {
		return rapid.SliceOfN(rapid.Custom(func(draw *rapid.T) schema.Payload {
			return answer(rapid.SampledFrom([]schema.Provider{"teller", "teller", "silent", "gone"}).Draw(draw, "provider"),
				rapid.SampledFrom([]schema.Symbol{"A", "B", "C"}).Draw(draw, "symbol"),
				rapid.SampledFrom([]string{"USD equity", "EUR fx", "USD ", "nothing"}).Draw(draw, "answer"))
		}), 1, 60).Draw(draw, "answers")
	}})
}

// The last answer that tells anything counts, and one that tells nothing takes nothing away.
func TestTold(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	p, err := newProjection()
	require.NoError(t, err)
	g := pipeline.Generation{Projection: instruments.Name, Number: 1, Active: true}
	pipelinetest.CreateTables(t, rig.DB, p, g)
	stage := rig.Start(t, pipelinetest.FoldStage(p, g))
	defer stage.Close(t)
	require.NoError(t, stage.Deliver(rig.AppendAll(t, answer("teller", "A", "USD equity"), answer("teller", "B", "USD fx"),
		answer("teller", "A", "EUR equity"), answer("teller", "A", "nothing"), answer("silent", "C", "USD equity"))...))
	a, b, c := instruments.Market{Provider: "teller", Symbol: "A"}, instruments.Market{Provider: "teller", Symbol: "B"}, instruments.Market{Provider: "silent", Symbol: "C"}
	told, err := instruments.Told(t.Context(), rig.DB, []instruments.Market{a, b, c})
	require.NoError(t, err)
	assert.Equal(t, map[instruments.Market]schema.Instrument{a: {Currency: "EUR", Class: "equity"}, b: {Currency: "USD", Class: "fx"}}, told)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = instruments.Told(ended, rig.DB, []instruments.Market{a})
	require.ErrorContains(t, err, "what is known of 1 instruments")
}
