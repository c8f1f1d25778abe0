package schema_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// A price has a sequence or says nothing: an event without one is written as it was
// before there were sequences.
func TestSequencesAreOptional(t *testing.T) {
	t.Parallel()
	at := mustTime(t, "2025-06-15T14:30:00Z")
	price := schema.PriceObserved{Symbol: "A", Price: schema.MustDecimal("1"), Timestamp: at, Source: "p", ReceivedAt: at}
	for sequence, want := range map[schema.Sequence]string{0: "", 7: `"sequence":7,`, -7: `"sequence":-7,`, math.MaxInt64: `"sequence":9223372036854775807,`} {
		price.Sequence = sequence
		text, err := json.Marshal(price)
		require.NoError(t, err)
		assert.Equal(t, `{"symbol":"A","price":1,"timestamp":"2025-06-15T14:30:00.000000Z",`+want+`"source":"p","received_at":"2025-06-15T14:30:00.000000Z"}`, string(text))
		var read schema.PriceObserved
		require.NoError(t, json.Unmarshal(text, &read))
		assert.Equal(t, price, read)
	}
	for _, text := range []string{`1.5`, `"1"`, `9223372036854775808`, `1e3`} {
		require.ErrorContains(t, new(schema.Sequence).UnmarshalJSON([]byte(text)), "sequence", text)
	}
}

func TestParseSequence(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]schema.Sequence{"155987": 155987, "-1": -1, "0": 0} {
		got, ok := schema.ParseSequence(text)
		assert.True(t, ok, text)
		assert.Equal(t, want, got)
	}
	for _, text := range []string{"", "ac1f", "9223372036854775808", "1.0", "c0f86bf4-e2ac-4f0e-a2a1-0a3d4e5b6c7d"} {
		_, ok := schema.ParseSequence(text)
		assert.False(t, ok, text)
	}
}
