package yahoo_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/handlers/provider/yahoo"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.RunREST(t, providertest.REST{
		Name: yahoo.Name, New: yahoo.New,
		Symbol: "^GSPC", Request: "/v8/finance/chart/%5EGSPC?interval=1d&range=1d",
		Answer: `{"chart":{"result":[{"meta":{"currency":"USD","symbol":"^GSPC","regularMarketTime":1700168402,` +
			`"regularMarketPrice":4508.24},"timestamp":[1700168402],"indicators":{"quote":[{"close":[4508.24]}]}}],"error":null}}`,
		UnknownStatus: 404,
		UnknownAnswer: `{"chart":{"result":null,"error":{"code":"Not Found","description":"No data found, symbol may be delisted"}}}`,
		NotFound:      schema.CodeBadResponse,
	})
}

func FuzzNormalize(f *testing.F) {
	p, err := yahoo.New(pipeline.Env{})
	require.NoError(f, err)
	providertest.FuzzNormalize(f, yahoo.Name, p)
}
