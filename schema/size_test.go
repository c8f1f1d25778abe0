package schema_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// A price says its size or says nothing: an event without one is written as it
// was before there were sizes.
func TestSizeOfAPrice(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Unix(1, 0))
	for text, want := range map[string]string{"0": "", "0.00": "", "0.0001": `"size":0.0001,`, "999999999999999999": `"size":999999999999999999,`} {
		price := schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Size: schema.MustDecimal(text), Timestamp: at, ReceivedAt: at}
		require.NoError(t, price.Validate())
		body, err := json.Marshal(price)
		require.NoError(t, err)
		assert.Equal(t, `{"symbol":"A","price":1,`+want+`"timestamp":"1970-01-01T00:00:01.000000Z","source":"p","received_at":"1970-01-01T00:00:01.000000Z"}`, string(body))
	}
	bad := schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at}
	for _, text := range []string{"-0.1", "-1"} {
		bad.Size = schema.MustDecimal(text)
		require.ErrorContains(t, bad.Validate(), "size")
	}
	bad.Size = schema.MustDecimal("999999999999999999").Add(schema.MustDecimal("1"))
	require.ErrorContains(t, bad.Validate(), "size")
}
