package finnhub_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/provider/finnhub"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.RunREST(t, providertest.REST{
		Name: finnhub.Name, New: finnhub.New, KeyHeader: "X-Finnhub-Token",
		Symbol: "IC MARKETS:1", Request: "/quote?symbol=IC+MARKETS%3A1",
		Answer:        `{"c":261.74,"d":2.29,"dp":0.8826,"h":263.31,"l":260.68,"o":261.07,"pc":259.45,"t":1582641000}`,
		UnknownStatus: 200, UnknownAnswer: `{"c":0,"d":null,"dp":null,"h":0,"l":0,"o":0,"pc":0,"t":0}`,
		NotFound: schema.CodeBadResponse,
	})
}

func FuzzNormalize(f *testing.F) {
	p, err := finnhub.New(pipeline.Env{})
	require.NoError(f, err)
	providertest.FuzzNormalize(f, finnhub.Name, p)
}
