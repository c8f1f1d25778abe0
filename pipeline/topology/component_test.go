package topology_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/schema"
)

var (
	observed  = schema.PriceObserved{}.EventType()
	stored    = schema.QuoteStored{}.EventType()
	unchanged = schema.QuoteUnchanged{}.EventType()
)

func part(kind topology.ComponentKind, name string, consumes, produces []schema.EventType) topology.Component {
	return topology.Component{Kind: kind, Name: name, Consumes: consumes, Produces: produces}
}

func types(t ...schema.EventType) []schema.EventType { return t }

func TestPartsThatFit(t *testing.T) {
	t.Parallel()
	parts := []topology.Component{
		part(topology.SourceComponent, "feed", nil, types(stored)),
		part(topology.HandlerComponent, "read", types(stored), types(observed, unchanged)),
		part(topology.ProjectionComponent, "read", types(observed), nil), // another kind
	}
	require.NoError(t, topology.CheckComponents(parts))
	assert.Equal(t, `flowchart TD
  topic_stored_quotes([stored-quotes])
  topic_price_events([price-events])
  topic_quote_outcomes([quote-outcomes])
  source_feed[/feed/]
  source_feed --> topic_stored_quotes
  handler_read[read]
  topic_stored_quotes --> handler_read
  handler_read --> topic_price_events
  handler_read --> topic_quote_outcomes
  projection_read[(read)]
  topic_price_events --> projection_read
`, topology.Mermaid(parts))
}

// Each fault is said with what to do about it.
func TestComponentsThatDoNotFit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		part topology.Component
		want string
	}{
		"an input that nothing produces": {part(topology.HandlerComponent, "h", types(unchanged), nil),
			`handler h consumes "market.quote.unchanged.v1", which nothing produces: switch on the plugin that does, or list it in its Produces`},
		"two of one name":   {part(topology.SourceComponent, "feed", nil, types(stored)), `there are two of source feed: rename one`},
		"no input":          {part(topology.ProjectionComponent, "p", nil, nil), `projection p consumes no events: list them in Consumes`},
		"no output":         {part(topology.SourceComponent, "s", nil, nil), `source s produces no events: list them in Produces`},
		"a misspelt input":  {part(topology.HandlerComponent, "h", types("market.price.observd.v1"), nil), `handler h consumes "market.price.observd.v1", an event that no package registers`},
		"a misspelt output": {part(topology.HandlerComponent, "h", types(stored), types("market.price.observd.v1")), `produces "market.price.observd.v1", an event that no package registers: call schema.Register for it in init; did you mean "market.price.observed.v1"?`},
	} {
		err := topology.CheckComponents([]topology.Component{part(topology.SourceComponent, "feed", nil, types(stored)), test.part})
		require.ErrorIs(t, err, topology.ErrTopology, name)
		assert.ErrorContains(t, err, test.want, name)
	}
}
