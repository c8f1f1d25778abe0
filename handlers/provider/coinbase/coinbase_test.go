package coinbase_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/provider/coinbase"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.RunREST(t, providertest.REST{
		Name: coinbase.Name, New: coinbase.New,
		Symbol: "BTC-USD", Request: "/products/BTC-USD/ticker",
		Answer: `{"ask":"115730.08","bid":"115730.07","volume":"3406.57536195","trade_id":862973857,` +
			`"price":"115730.07","size":"0.00439","time":"2025-08-18T05:57:56.350973Z","rfq_volume":"12.979416"}`,
		UnknownStatus: 404, UnknownAnswer: `{"message":"NotFound"}`,
		NotFound: schema.CodeUnknownSymbol,
	})
}

func FuzzNormalize(f *testing.F) {
	p, err := coinbase.New(pipeline.Env{})
	require.NoError(f, err)
	providertest.FuzzNormalize(f, coinbase.Name, p)
}
