package operator

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
)

func TestHowFarAChainIsKnownToBeSent(t *testing.T) {
	t.Parallel()
	d := diagnosis{known: []store.KnownChain{
		{Topic: "price-events", Part: 1, Timeline: "former", Sent: 3, Given: 4},
		{Topic: "price-events", Part: 1, Timeline: "present", Sent: 5, Given: 6, Current: true},
		{Topic: "price-events", Part: 2, Timeline: "of another", Sent: 7, Given: 8, Current: true},
	}}
	for name, want := range map[string]int64{"present": 5, "former": chain.Unlimited, "of another": chain.Unlimited, "": chain.Unlimited} {
		assert.Equal(t, want, d.sent(store.Position{Topic: "price-events", Part: 1, Reached: chain.Link{Timeline: name}}), name)
	}
}
