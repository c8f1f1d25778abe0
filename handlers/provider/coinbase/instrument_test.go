package coinbase

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/schema"
)

func TestDescribeSymbol(t *testing.T) {
	t.Parallel()
	for symbol, currency := range map[schema.Symbol]string{"BTC-USD": "USD", "ETH-USDT": "USDT", "BTC": "", "-USD": "", "BTC-": "", "BTC-U": ""} {
		want := schema.Instrument{Currency: currency, Venue: "Coinbase Exchange", Class: "crypto", Hours: schema.HoursAlways}
		assert.Equal(t, want, (*provider)(nil).DescribeSymbol(symbol), symbol)
	}
}
