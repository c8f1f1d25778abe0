package simulated_test

import (
	"testing"

	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/handlers/provider/simulated"
)

func TestNormalize(t *testing.T) {
	t.Parallel()
	providertest.Normalize(t, simulated.Name, newProvider(t, simulated.Config{}))
}

func FuzzNormalize(f *testing.F) {
	providertest.FuzzNormalize(f, simulated.Name, newProvider(f, simulated.Config{}))
}
