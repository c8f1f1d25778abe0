package schema_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

func TestStreamsAreChecked(t *testing.T) {
	t.Parallel()
	at, err := schema.ParseTime("2025-06-15T14:30:00Z")
	require.NoError(t, err)
	good := schema.StreamStarted{StreamID: "stream_abc12345", Provider: "coinbase", Symbols: []schema.Symbol{"BTC-USD"}, StartedAt: at}
	require.NoError(t, good.Validate())
	require.NoError(t, schema.StreamStopped{StreamID: "s", StoppedAt: at}.Validate())
	for hint, change := range map[string]func(*schema.StreamStarted){
		"stream_id":        func(s *schema.StreamStarted) { s.StreamID = "" },
		"started_at":       func(s *schema.StreamStarted) { s.StartedAt = schema.Time{} },
		"invalid provider": func(s *schema.StreamStarted) { s.Provider = "No Name" },
		"symbols: 0":       func(s *schema.StreamStarted) { s.Symbols = nil },
		"symbols: 51":      func(s *schema.StreamStarted) { s.Symbols = make([]schema.Symbol, schema.MaxStreamSymbols+1) },
		"invalid symbol":   func(s *schema.StreamStarted) { s.Symbols = []schema.Symbol{"btc?"} },
	} {
		bad := good
		change(&bad)
		assert.ErrorContains(t, bad.Validate(), hint)
	}
	require.NoError(t, schema.StreamChanged{StreamID: "s", Symbols: []schema.Symbol{"A"}, ChangedAt: at}.Validate())
	assert.ErrorContains(t, schema.StreamChanged{Symbols: []schema.Symbol{"A"}, ChangedAt: at}.Validate(), "stream_id")
	assert.ErrorContains(t, schema.StreamChanged{StreamID: "s", ChangedAt: at}.Validate(), "symbols: 0")
	assert.ErrorContains(t, schema.StreamChanged{StreamID: "s", Symbols: []schema.Symbol{"A"}}.Validate(), "changed_at")
	assert.ErrorContains(t, schema.StreamStopped{StoppedAt: at}.Validate(), "stream_id")
	assert.ErrorContains(t, schema.StreamStopped{StreamID: "s"}.Validate(), "stopped_at")
}
