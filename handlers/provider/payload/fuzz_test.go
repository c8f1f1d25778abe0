package payload_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// A field that holds a price is one that an event can carry, and a field that holds
// seconds a time; all others have a code that says which of the two they are not.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{"261.74", `"261.740"`, "1.304e-05", "null", "", `"`, "0", "-1", `"NaN"`, "1e999999", "1750000000", "253402300800", "-5", `"\u0031"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, field []byte) {
		price, err := payload.Price(json.RawMessage(field))
		if err != nil {
			requireCode(t, schema.CodeBadPrice, err)
		} else {
			require.Positive(t, price.Sign())
			again, err := payload.ParsePrice(price.String())
			require.NoError(t, err)
			require.Zero(t, price.Cmp(again))
		}
		at, err := payload.Seconds(json.RawMessage(field))
		if err != nil {
			requireCode(t, schema.CodeBadResponse, err)
			return
		}
		require.NoError(t, payload.CheckTime(at))
		require.NotContains(t, string(field), ".")
	})
}

func requireCode(t *testing.T, want schema.Code, err error) {
	t.Helper()
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	require.Equal(t, want, q.Code)
	require.LessOrEqual(t, len(schema.CutReason(q.Reason)), schema.MaxReason)
}
