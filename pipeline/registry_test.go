package pipeline_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Not parallel: the registry is the program's.
func TestNamesBelongToOneModule(t *testing.T) {
	require.NoError(t, pipeline.CheckModules())
	pipeline.RegisterHandler(pipeline.HandlerModule{Name: "twice", Doc: "first"})
	pipeline.RegisterHandler(pipeline.HandlerModule{Name: "twice", Doc: "second"})
	pipeline.RegisterProjection(pipeline.ProjectionModule{Name: "twice"})
	pipeline.RegisterSource(pipeline.SourceModule{Name: "Not A Name"})
	pipeline.RegisterProvider(pipeline.ProviderModule{Name: "median"})
	pipeline.RegisterProvider(pipeline.ProviderModule{Name: "honest", Aliases: []schema.Provider{"ok", "freshest"}})
	err := pipeline.CheckModules()
	require.ErrorIs(t, err, pipeline.ErrModules)
	assert.Regexp(t, `3 of them are named "twice": handler registered at pipeline/registry_test.go:\d+, handler registered at pipeline/registry_test.go:\d+, projection registered at .*rename all but one`, err.Error())
	assert.ErrorContains(t, err, `"Not A Name"`)
	assert.ErrorContains(t, err, `provider "median": the name stands for prices of several providers`)
	assert.ErrorContains(t, err, `provider "honest": its alias "freshest" stands for`)
	for _, m := range pipeline.Handlers() {
		if m.Name == "twice" {
			assert.Equal(t, "first", m.Doc, "what was there stays")
		}
	}
}
