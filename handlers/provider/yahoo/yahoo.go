// Package yahoo asks Yahoo Finance for the chart of a symbol, which holds its last
// price. The endpoint is not official: Yahoo documents neither it nor its limits,
// and may change or end it on any day.
package yahoo

import (
	"context"
	"encoding/json"
	"net/url"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the provider's name in events and answers.
const Name schema.Provider = "yahoo"

// Settings of the module.
type Settings struct {
	// BaseURL is where the service lies. Default: DefaultBaseURL.
	BaseURL string `mapstructure:"base_url" doc:"where the service lies"`
}

// DefaultBaseURL is that of the real service.
const DefaultBaseURL = "https://query1.finance.yahoo.com"

var defaults = Settings{BaseURL: DefaultBaseURL}

func init() {
	pipeline.RegisterProvider(pipeline.ProviderModule{
		Name:     Name,
		Aliases:  []schema.Provider{"yahoo_finance"},
		Doc:      "Prices from Yahoo Finance, via an unofficial endpoint with no guarantees; needs no key.",
		Settings: defaults,
		New:      New,
	})
}

// New makes the provider.
func New(env pipeline.Env) (pipeline.Provider, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	client, err := rest.New(rest.Config{BaseURL: settings.BaseURL, Version: env.Version, Now: env.Now,
		UnknownSymbol: saysNotFound})
	if err != nil {
		return nil, err
	}
	return &provider{client}, nil
}

type provider struct{ client *rest.Client }

var _ pipeline.Limited = (*provider)(nil)

// Limits implements pipeline.Limited. Yahoo states none: this one is our choice,
// and leaves room for three polling jobs of ten symbols a minute.
func (*provider) Limits() []pipeline.Limit { return []pipeline.Limit{{Calls: 30, Per: time.Minute}} }

// Quote implements pipeline.Provider. One day in one step is the shortest chart
// that there is; only what is said about it is read.
func (p *provider) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	return p.client.Get(ctx, url.Values{"interval": {"1d"}, "range": {"1d"}}, "v8", "finance", "chart", string(symbol))
}

// answer is the part of an answer that is read.
type answer struct {
	Chart struct {
		Result []struct {
			Meta struct {
				Symbol string          `json:"symbol"`
				Price  json.RawMessage `json:"regularMarketPrice"`
				Time   json.RawMessage `json:"regularMarketTime"` // seconds since 1970
			} `json:"meta"`
		} `json:"result"`
		Error *struct {
			Code string `json:"code"`
		} `json:"error"`
	} `json:"chart"`
}

// notFound is the code of an error for a symbol that Yahoo does not know.
const notFound = "Not Found"

// saysNotFound tells an unknown symbol from an endpoint that is gone: both have
// status 404.
func saysNotFound(body []byte) bool {
	var a answer
	return payload.Decode(body, &a) == nil && a.Chart.Error != nil && a.Chart.Error.Code == notFound
}

// Normalize implements pipeline.Provider. An answer holds one price: the last one
// of the regular market.
func (*provider) Normalize(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	var a answer
	if err := payload.Decode(fetched.RawResponse, &a); err != nil {
		return nil, err
	}
	switch failure := a.Chart.Error; {
	case failure != nil && failure.Code == notFound:
		return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "there is no chart of %s", fetched.Symbol)
	case failure != nil:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "an error instead of a chart")
	case len(a.Chart.Result) != 1:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "%d charts, not one", len(a.Chart.Result))
	}
	meta := a.Chart.Result[0].Meta
	if symbol, err := schema.ParseSymbol(meta.Symbol); err != nil || symbol != fetched.Symbol {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "a chart of another symbol than %s", fetched.Symbol)
	}
	price, err := payload.Price(meta.Price)
	if err != nil {
		return nil, err
	}
	at, err := payload.Seconds(meta.Time)
	if err != nil {
		return nil, err
	}
	return []pipeline.Price{{Symbol: fetched.Symbol, Price: price, Time: at}}, nil
}
