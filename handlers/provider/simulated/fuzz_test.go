package simulated_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/simulated"
)

// Faults that are read are some that the provider can have.
func FuzzParseFaults(f *testing.F) {
	for _, seed := range []string{"FAIL=fail,HANG=hang,SLOW=late:200ms,NOPE=unknown", "", " , ", "A=", "=fail", "EURUSD=X=zero", "A=late:-1s",
		"A=late", "A=fail,A=hang", "a=fail:1ns", "A=fail:9223372036854775807ns"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		faults, err := simulated.ParseFaults(text)
		if err != nil {
			require.Empty(t, faults)
			return
		}
		for symbol, fault := range faults {
			require.NoError(t, symbol.Validate())
			require.True(t, fault.Delay >= 0 && fault.Kind != "")
		}
		_, err = simulated.New(simulated.Config{Seed: 1, Faults: faults})
		require.NoError(t, err)
	})
}
