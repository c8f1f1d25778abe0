package coinbase

import (
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

var _ pipeline.Describer = (*provider)(nil)

// DescribeSymbol implements pipeline.Describer. The id of a product names its currencies, as
// in BTC-USD: the second one is that of its prices. Coinbase Exchange does not close.
func (*provider) DescribeSymbol(symbol schema.Symbol) schema.Instrument {
	about := schema.Instrument{Venue: "Coinbase Exchange", Class: "crypto", Hours: schema.HoursAlways}
	if cut := strings.LastIndexByte(string(symbol), '-'); cut > 0 {
		about.Currency = string(symbol)[cut+1:]
	}
	return about.Checked()
}
