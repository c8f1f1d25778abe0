package halt

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestTimelinesInUseAreLimitedOnlyIfAsked(t *testing.T) {
	t.Parallel()
	at := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}
	known := []store.KnownChain{{Topic: "price-events", Part: 1, Timeline: "b", Sent: 3, Given: 5},
		{Topic: "price-events", Part: 1, Timeline: "c", Sent: 4, Given: 6, Current: true}}
	assert.Equal(t, chain.Timelines{"b": {Order: 0, Sent: 3, Given: 5}, "c": {Order: 1, Sent: chain.Unlimited, Given: chain.Unlimited}}, TimelinesOf(known, false)[at])
	assert.Equal(t, chain.Timelines{"b": {Order: 0, Sent: 3, Given: 5}, "c": {Order: 1, Sent: chain.Unlimited, Given: 6}}, TimelinesOf(known, true)[at])
}
