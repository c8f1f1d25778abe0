package simulated

import (
	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Normalize implements pipeline.Provider. An answer holds one price. The codes
// of its errors are CodeUnknownSymbol where the answer says so, CodeBadPrice
// where its price is absent, not a number, not positive or has too many digits,
// and CodeBadResponse for all else that this provider never answers.
func (p *Provider) Normalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	var a answer
	if err := payload.Decode(quote.RawResponse, &a); err != nil {
		return nil, err
	}
	switch {
	case !a.Simulated || a.Provider != Name:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "not labelled as simulated")
	case a.Symbol != quote.Symbol:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "a quote of another symbol than %s", quote.Symbol)
	case a.Error == unknownSymbol:
		return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "the simulated market has no %s", quote.Symbol)
	case a.Error != "":
		return nil, pipeline.Quotef(schema.CodeBadResponse, "an error that this provider never gives")
	case a.Price == nil:
		return nil, pipeline.Quotef(schema.CodeBadPrice, "no price")
	case a.Time == nil:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "no time")
	}
	if err := payload.CheckTime(*a.Time); err != nil {
		return nil, err
	}
	price, err := payload.ParsePrice(*a.Price)
	if err != nil {
		return nil, err
	}
	size := schema.Decimal{}
	if a.Size != nil {
		if size, err = payload.ParsePrice(*a.Size); err != nil {
			size = schema.Decimal{} // no reason to refuse the price
		}
	}
	return []pipeline.Price{{Symbol: a.Symbol, Price: price, Size: size, Time: *a.Time, Sequence: schema.Sequence(a.Trade)}}, nil
}
