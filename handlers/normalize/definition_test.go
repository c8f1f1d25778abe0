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
