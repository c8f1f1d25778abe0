package cmd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// TestTheKeyOfPriceEvents: KAFKA_PRICE_EVENTS_KEY says what consumers find as the key. It
// can be changed at any time: the partition of a record stays that of its provider and
// symbol, and old and new keys are read alike.
func TestTheKeyOfPriceEvents(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	symbols := []string{"BTC/USD", "ETH/USD", "SOL/USD", "/ES"} // of which one at least lies elsewhere by itself
	want := map[string][]string{}
	for day, setting := range []string{"", "symbol", "provider/symbol"} {
		rows := "time,symbol,price\n"
		for _, symbol := range symbols {
			rows += fmt.Sprintf("2024-01-0%d,%s,1.5\n", day+1, symbol)
			key := "csv/" + symbol
			if setting == "symbol" {
				key = symbol
			}
			want[symbol] = append(want[symbol], key)
		}
		file := filepath.Join(t.TempDir(), "prices.csv")
		require.NoError(t, os.WriteFile(file, []byte(rows), 0o600))
		summary := ingested(t, env.with(environment{"KAFKA_PRICE_EVENTS_KEY": setting}), "--work", file)
		require.EqualValues(t, len(symbols), summary.New)
	}
	status, stdout, stderr := run(t, env, "replay", "price-events")
	require.Zero(t, status, stderr)
	got, partitions := map[string][]string{}, map[string]map[int32]bool{}
	for line := range strings.Lines(stdout) {
		var record struct {
			Partition int32
			Key       string
			Value     schema.PriceObserved
		}
		require.NoError(t, json.Unmarshal([]byte(line), &record), line)
		symbol := string(record.Value.Symbol)
		got[symbol] = append(got[symbol], record.Key)
		if partitions[symbol] == nil {
			partitions[symbol] = map[int32]bool{}
		}
		partitions[symbol][record.Partition] = true
	}
	assert.Equal(t, want, got)
	for symbol, on := range partitions {
		assert.Len(t, on, 1, symbol)
	}
	rows := counted(t, env)
	assert.Equal(t, []int{12, 12, 0}, []int{rows["prices"], rows["averages"], rows["letters"]})
	proven(t, env)

	status, _, stderr = run(t, env.with(environment{"KAFKA_PRICE_EVENTS_KEY": "sybol"}), "stages", "list")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `KAFKA_PRICE_EVENTS_KEY: there is no key "sybol"; use provider/symbol or symbol`)
}
