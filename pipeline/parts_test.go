package pipeline_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

var (
	observed  = schema.PriceObserved{}.EventType()
	stored    = schema.QuoteStored{}.EventType()
	unchanged = schema.QuoteUnchanged{}.EventType()
)

func part(kind pipeline.PartKind, name string, takes, gives []schema.EventType) pipeline.Part {
	return pipeline.Part{Kind: kind, Name: name, Takes: takes, Gives: gives}
}

func types(t ...schema.EventType) []schema.EventType { return t }

func TestPartsThatFit(t *testing.T) {
	t.Parallel()
	parts := []pipeline.Part{
		part(pipeline.SourcePart, "feed", nil, types(stored)),
		part(pipeline.HandlerPart, "read", types(stored), types(observed, unchanged)),
		part(pipeline.ProjectionPart, "read", types(observed), nil), // another kind
	}
	require.NoError(t, pipeline.CheckParts(parts))
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
`, pipeline.Mermaid(parts))
}

// Each fault is said with what to do about it.
func TestPartsThatDoNotFit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		part pipeline.Part
		want string
	}{
		"an input that nobody gives": {part(pipeline.HandlerPart, "h", types(unchanged), nil),
			`handler h takes "market.quote.unchanged.v1", which nobody gives: switch on the plugin that does, or let its handler list it in Gives`},
		"two of one name":   {part(pipeline.SourcePart, "feed", nil, types(stored)), `there are two of source feed: rename one`},
		"no input":          {part(pipeline.ProjectionPart, "p", nil, nil), `projection p takes no events: list them in Takes`},
		"no output":         {part(pipeline.SourcePart, "s", nil, nil), `source s gives no events: list them in Gives`},
		"a misspelt input":  {part(pipeline.HandlerPart, "h", types("market.price.observd.v1"), nil), `handler h takes "market.price.observd.v1", an event that no package registers`},
		"a misspelt output": {part(pipeline.HandlerPart, "h", types(stored), types("market.price.observd.v1")), `gives "market.price.observd.v1", an event that no package registers: call schema.Register for it in init; did you mean "market.price.observed.v1"?`},
	} {
		err := pipeline.CheckParts([]pipeline.Part{part(pipeline.SourcePart, "feed", nil, types(stored)), test.part})
		require.ErrorIs(t, err, pipeline.ErrTopology, name)
		assert.ErrorContains(t, err, test.want, name)
	}
}
