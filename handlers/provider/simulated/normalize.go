package simulated

import (
	"encoding/json"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Normalize implements pipeline.Provider. An answer holds one price. The codes
// of its errors are CodeUnknownSymbol where the answer says so, CodeBadPrice
// where its price is absent, not a number, not positive or has too many digits,
// and CodeBadResponse for all else that this provider never answers.
func (p *Provider) Normalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	if len(quote.RawResponse) > schema.MaxRawResponse {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "%d bytes, more than %d", len(quote.RawResponse), schema.MaxRawResponse)
	}
	var a answer
	if err := json.Unmarshal(quote.RawResponse, &a); err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "not the JSON of a quote", Err: err}
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
	case a.Time == nil || !plausible(*a.Time):
		return nil, pipeline.Quotef(schema.CodeBadResponse, "no time, or one outside the years 1900 to 9999")
	}
	price, err := schema.ParseDecimal(*a.Price)
	if err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadPrice, Reason: "not a price", Err: err}
	}
	if price.Sign() <= 0 {
		return nil, pipeline.Quotef(schema.CodeBadPrice, "price %s is not positive", price)
	}
	return []pipeline.Price{{Symbol: a.Symbol, Price: price, Time: *a.Time}}, nil
}

// plausible holds for every time that an event may carry.
func plausible(t schema.Time) bool {
	first := time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	end := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	return !t.Before(first) && t.Before(end)
}
