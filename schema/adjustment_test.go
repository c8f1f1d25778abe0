package schema_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

func TestParseAdjustment(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"4:1": "4:1", "4": "4:1", "1:3": "1:3", "0.5": "0.5:1", "3:2.0": "3:2"} {
		value, per, err := schema.ParseAdjustment(schema.SplitAdjustment, text)
		require.NoError(t, err, text)
		assert.Equal(t, want, schema.AdjustmentTerms{Kind: schema.SplitAdjustment, Value: value, Per: per}.ValueText(), text)
	}
	value, per, err := schema.ParseAdjustment(schema.DividendAdjustment, "0.24")
	require.NoError(t, err)
	assert.True(t, per.IsZero())
	assert.Equal(t, "0.24", schema.AdjustmentTerms{Kind: schema.DividendAdjustment, Value: value}.ValueText())
	for _, wrong := range []struct {
		kind schema.AdjustmentKind
		text string
	}{{schema.SplitAdjustment, "4:"}, {schema.SplitAdjustment, ":1"}, {schema.SplitAdjustment, "4:0"}, {schema.SplitAdjustment, "0:1"}, {schema.SplitAdjustment, "4:1:1"},
		{schema.SplitAdjustment, ""}, {schema.DividendAdjustment, "4:1"}, {schema.DividendAdjustment, "-1"}, {schema.FactorAdjustment, "0"}, {schema.FactorAdjustment, "x"}} {
		_, _, err := schema.ParseAdjustment(wrong.kind, wrong.text)
		assert.Error(t, err, "%s %q", wrong.kind, wrong.text)
	}
}

// TestAdjustmentIDs: another way to write a value is the same adjustment, and what is another one
// has another id.
func TestAdjustmentIDs(t *testing.T) {
	t.Parallel()
	at := mustTime(t, "2024-01-03T00:00:00Z")
	split := schema.AdjustmentTerms{EffectiveAt: at, Kind: schema.SplitAdjustment, Value: schema.MustDecimal("4")}
	same := split
	same.Per = schema.MustDecimal("1.0")
	id := schema.AdjustmentID("csv", "T", split)
	assert.Equal(t, id, schema.AdjustmentID("csv", "T", same))
	assert.NotEqual(t, id, schema.AdjustmentID("csv", "U", split))
	factor := split
	factor.Kind = schema.FactorAdjustment
	assert.NotEqual(t, id, schema.AdjustmentID("csv", "T", factor))
	assert.NotEqual(t, schema.AdjustmentEventID(id, ""), schema.AdjustmentEventID(id, "before"))
	for _, wrong := range []schema.AdjustmentTerms{{}, {EffectiveAt: at, Kind: "spin", Value: split.Value}, {EffectiveAt: at, Kind: schema.FactorAdjustment},
		{EffectiveAt: at, Kind: schema.FactorAdjustment, Value: split.Value, Per: split.Value}, {EffectiveAt: at, Kind: schema.SplitAdjustment, Value: split.Value, Currency: "USD"},
		{EffectiveAt: at, Kind: schema.DividendAdjustment, Value: split.Value, Currency: "usd"}} {
		assert.Error(t, wrong.Validate(), "%+v", wrong)
	}
}
