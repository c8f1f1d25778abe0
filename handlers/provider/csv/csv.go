// Package csv reads prices out of files of separated values, as services and
// programs write them: with or without a header, in many notations of numbers and
// times, a column a field or a column a symbol.
package csv

import (
	"context"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the provider's name in events and answers.
const Name schema.Provider = "csv"

func init() {
	pipeline.RegisterProvider(pipeline.ProviderModule{
		Name:          Name,
		Doc:           "Prices from files of comma-separated values, by pricemill ingest; import only.",
		CaseSensitive: true, // as files are of some provider that may be
		New:           New,
	})
}

// New makes the provider. It has no settings.
func New(env pipeline.Env) (pipeline.Provider, error) {
	if err := env.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	return provider{}, nil
}

type provider struct{}

var _ pipeline.FileReader = provider{}

// Configured implements pipeline.Configurable: no setting makes a file answer.
func (provider) Configured() bool { return false }

// Quote implements pipeline.Provider: there is no one to ask. The code is
// CodeNotConfigured.
func (provider) Quote(context.Context, schema.Symbol) (schema.RawResponse, error) {
	return nil, pipeline.Quotef(schema.CodeNotConfigured,
		"this provider is import only: its prices come from files, with pricemill ingest")
}

// answer is a row as it is kept. It stands for itself: which columns were read,
// and how, need not be known to read it again.
type answer struct {
	Symbol schema.Symbol `json:"symbol"`
	// Price and Time are nil where they are absent.
	Price *string      `json:"price"`
	Time  *schema.Time `json:"time"`
	// Size is how much was traded; empty where the file does not say.
	Size string `json:"size,omitempty"`
	// Sequence orders the rows of one symbol and time; see rowReader.sequence.
	Sequence schema.Sequence `json:"sequence,omitzero"`
	// Bar is the bar that Price is the close of, and Time the end of; nil for a price
	// that is none.
	Bar *schema.Bar `json:"bar,omitempty"`
	// Signed says that prices of zero and below were asked for.
	Signed bool `json:"signed,omitempty"`
	// Row is the row's text in the file, without the end of its line.
	Row schema.RawResponse `json:"row"`
}

// Normalize implements pipeline.Provider. An answer holds one price.
func (provider) Normalize(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	var a answer
	if err := payload.Decode(fetched.RawResponse, &a); err != nil {
		return nil, err
	}
	switch {
	case a.Symbol != fetched.Symbol:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "a row of another symbol than %s", fetched.Symbol)
	case a.Price == nil:
		return nil, pipeline.Quotef(schema.CodeBadPrice, "no price")
	case a.Time == nil:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "no time")
	}
	if err := payload.CheckTime(*a.Time); err != nil {
		return nil, err
	}
	read := payload.ParsePrice
	if a.Signed {
		read = payload.ParseSigned
	}
	price, err := read(*a.Price)
	if err != nil {
		return nil, err
	}
	found := pipeline.Price{Symbol: a.Symbol, Price: price, Time: *a.Time, Sequence: a.Sequence, Signed: a.Signed, Bar: a.Bar}
	if a.Size != "" {
		if found.Size, err = schema.ParseDecimal(a.Size); err != nil || found.Size.Sign() < 0 {
			return nil, pipeline.Quotef(schema.CodeBadResponse, "no size: %.40q", a.Size)
		}
	}
	return []pipeline.Price{found}, nil
}
