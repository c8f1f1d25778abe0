package schema_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

func TestBackfillsAreChecked(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC))
	good := schema.BackfillStarted{BackfillID: "backfill_abc12345", Provider: "coinbase", Symbol: "BTC-USD", From: at, To: at, StartedAt: at}
	require.NoError(t, good.Validate())
	require.NoError(t, schema.BackfillStopped{BackfillID: "b", StoppedAt: at}.Validate())
	for hint, change := range map[string]func(*schema.BackfillStarted){
		"backfill_id":      func(b *schema.BackfillStarted) { b.BackfillID = "" },
		"started_at":       func(b *schema.BackfillStarted) { b.StartedAt = schema.Time{} },
		"invalid provider": func(b *schema.BackfillStarted) { b.Provider = "No Name" },
		"invalid symbol":   func(b *schema.BackfillStarted) { b.Symbol = "btc?" },
		"from: ":           func(b *schema.BackfillStarted) { b.From = schema.Time{} },
		"to: ":             func(b *schema.BackfillStarted) { b.To = schema.Time{} },
		"is after to":      func(b *schema.BackfillStarted) { b.From = at.Add(time.Microsecond) },
	} {
		bad := good
		change(&bad)
		assert.ErrorContains(t, bad.Validate(), hint)
	}
	assert.ErrorContains(t, schema.BackfillStopped{StoppedAt: at}.Validate(), "backfill_id")
	assert.ErrorContains(t, schema.BackfillStopped{BackfillID: "b"}.Validate(), "stopped_at")
}
