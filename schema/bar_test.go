package schema_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

func bar() schema.BarObserved {
	open := schema.NewTime(time.Date(2023, 10, 27, 0, 0, 0, 0, time.UTC))
	end := open.Add(time.Hour - time.Millisecond)
	volume := schema.MustDecimal("908.27901")
	return schema.BarObserved{Symbol: "BTCUSDT", Source: "csv", Price: schema.MustDecimal("34015.27"), Timestamp: end, ReceivedAt: end,
		Bar: schema.Bar{OpenTime: open, Open: schema.MustDecimal("34151.66"), High: schema.MustDecimal("34171.28"),
			Low: schema.MustDecimal("33972.39"), Close: schema.MustDecimal("34015.27"), Volume: &volume}}
}

func TestBarsAreValidated(t *testing.T) {
	t.Parallel()
	require.NoError(t, bar().Validate())
	negative := schema.MustDecimal("-1")
	for want, spoil := range map[string]func(*schema.BarObserved){
		"price: 1 is not the close":    func(b *schema.BarObserved) { b.Price = schema.MustDecimal("1") },
		"is below the low":             func(b *schema.BarObserved) { b.High = schema.MustDecimal("1") },
		"is not before the timestamp":  func(b *schema.BarObserved) { b.OpenTime = b.OpenTime.Add(time.Hour) },
		"volume: size: -1 is negative": func(b *schema.BarObserved) { b.Volume = &negative },
		"open_time: required":          func(b *schema.BarObserved) { b.OpenTime = schema.Time{} },
		"timestamp: required":          func(b *schema.BarObserved) { b.Timestamp = schema.Time{} },
		"symbol":                       func(b *schema.BarObserved) { b.Symbol = "" },
	} {
		b := bar()
		spoil(&b)
		assert.ErrorContains(t, b.Validate(), want)
	}
}

// What runs on prices runs on the close of a bar, which is no trade.
func TestTheCloseOfABarIsAPrice(t *testing.T) {
	t.Parallel()
	b := bar()
	price, ok := schema.PriceOf(b)
	require.True(t, ok)
	assert.Equal(t, schema.PriceObserved{Symbol: "BTCUSDT", Source: "csv", Price: b.Close, Timestamp: b.Timestamp, ReceivedAt: b.ReceivedAt}, price)
	assert.NoError(t, price.Validate())
	same, ok := schema.PriceOf(price)
	require.True(t, ok)
	assert.Equal(t, price, same)
	_, ok = schema.PriceOf(schema.QuoteUnchanged{})
	assert.False(t, ok)
	for _, payload := range []schema.Payload{b, price} {
		assert.Contains(t, schema.PriceTypes(), payload.EventType())
	}
}
