package normalize_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/normalize"
	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// An answer is read by the definition that it was stored under, whether or not this program
// has a provider of the name. Without the definition it becomes a dead letter.
func TestAnswersAreReadByTheirDefinition(t *testing.T) {
	t.Parallel()
	const before = "name: gone\nbase_url: https://gone.example\nrequest: '{symbol}'\nlimits: [{calls: 1, per: 1m}]\nread: {price: .a, time: .t, unit: seconds}\n"
	rig := pipelinetest.New(t)
	texts := map[string]string{}
	answers := func(text string) schema.QuoteStored {
		d, err := declared.Parse([]byte(text))
		require.NoError(t, err)
		texts[d.Version()] = text
		quote := stored("A", `{"a":612345.67,"b":0.123456789012345678,"t":10}`)
		quote.Provider, quote.Definition = "gone", d.Version()
		return quote
	}
	older, newer := answers(before), answers(strings.Replace(before, ".a", ".b", 1))
	_, err := rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
		return nil, declared.Keep(t.Context(), tx, texts)
	})
	require.NoError(t, err)
	lost := answers(strings.Replace(before, ".a", ".c", 1))

	stage := rig.StartHandler(t, normalize.Name, newHandler(t))
	defer stage.Close(t)
	err = stage.Deliver(rig.AppendAll(t, older, newer, lost, older)...)
	require.ErrorContains(t, err, "there is no definition "+lost.Definition)
	assert.Equal(t, []string{"price A 612345.67@10", "price A 0.123456789012345678@10", "price A 612345.67@10"}, outcomes(t, rig))
}

// Answers whose definition this program refuses, since another version kept it, become dead
// letters; those of other definitions are read.
func TestAnswersOfARefusedDefinition(t *testing.T) {
	t.Parallel()
	const text = "name: gone\nbase_url: https://gone.example\nrequest: '{symbol}'\nlimits: [{calls: 1, per: 1m}]\nread: {price: .a, time: .t, unit: seconds}\n"
	d, err := declared.Parse([]byte(text))
	require.NoError(t, err)
	hog := strings.Repeat("ab", 16)
	rig := pipelinetest.New(t)
	_, err = rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
		return nil, declared.Keep(t.Context(), tx, map[string]string{d.Version(): text,
			hog: strings.Replace(text, "price: .a", `price: 'reduce range(32) as $i ("x"; .+.) | length'`, 1)})
	})
	require.NoError(t, err)
	good := stored("A", `{"a":612345.67,"t":10}`)
	good.Provider, good.Definition = "gone", d.Version()
	bad := good
	bad.Definition = hog

	stage := rig.StartHandler(t, normalize.Name, newHandler(t))
	defer stage.Close(t)
	err = stage.Deliver(rig.AppendAll(t, good, bad, good)...)
	require.ErrorContains(t, err, "reduce may not be used")
	assert.Equal(t, []string{"price A 612345.67@10", "unchanged A 612345.67@10"}, outcomes(t, rig))
}
