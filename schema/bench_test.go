package schema_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

var benchEvent = schema.Event{ID: schema.DeriveID("bench"), Source: "pricemill/normalize", Payload: schema.PriceObserved{
	Symbol: "BTC-USD", Price: schema.MustDecimal("64321.12345678"), Timestamp: schema.NewTime(time.Unix(1_700_000_000, 123_456_000)),
	Source: "coinbase", RawResponseID: "1234567890123", ReceivedAt: schema.NewTime(time.Unix(1_700_000_001, 0))}}

func BenchmarkEncode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _, err := benchEvent.Encode()
		require.NoError(b, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	headers, value, err := benchEvent.Encode()
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, err := schema.DecodeEvent(headers, value)
		require.NoError(b, err)
	}
}

func BenchmarkDeriveID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		schema.DeriveID("normalize", "kMxCk0ZrTqWvN3rJ4nT1bw", "11", "123456", "0")
	}
}
