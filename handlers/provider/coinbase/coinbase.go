// Package coinbase asks Coinbase Exchange, https://exchange.coinbase.com, for the
// last trades of its products, and streams its trades by WebSocket. It needs no
// key. Files of frames that were streamed are this provider's as well.
package coinbase

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the provider's name in events and answers.
const Name schema.Provider = "coinbase"

// Settings of the module.
type Settings struct {
	// BaseURL is where the service lies. Default: DefaultBaseURL.
	BaseURL string `mapstructure:"base_url" doc:"where the service lies"`
	// WSURL is where its WebSocket feed lies. Default: DefaultWSURL.
	WSURL string `mapstructure:"ws_url" doc:"where its WebSocket feed lies"`
}

// DefaultBaseURL is that of the real service.
const DefaultBaseURL = "https://api.exchange.coinbase.com"

var defaults = Settings{BaseURL: DefaultBaseURL, WSURL: DefaultWSURL}

func init() {
	pipeline.RegisterProvider(pipeline.ProviderModule{
		Name:     Name,
		Doc:      "Crypto from Coinbase Exchange; needs no key.",
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
		UnknownSymbol: func([]byte) bool { return true }})
	feedURL, feedErr := parseFeed(settings.WSURL)
	if err := errors.Join(err, feedErr); err != nil {
		return nil, err
	}
	p := &provider{client: client, feedURL: feedURL, now: env.Now, log: env.Log,
		feedClient: feed.NewClient(feed.Config{MaxFrame: maxFrame, Version: env.Version, Now: env.Now})}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	return p, nil
}

type provider struct {
	client     *rest.Client
	feedURL    string
	feedClient *feed.Client
	now        func() time.Time
	log        *slog.Logger
}

var _ pipeline.Limited = (*provider)(nil)

// Limits implements pipeline.Limited: that of the public endpoints, per address.
func (*provider) Limits() []pipeline.Limit { return []pipeline.Limit{{Calls: 10, Per: time.Second}} }

// Quote implements pipeline.Provider.
func (p *provider) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	return p.client.Get(ctx, nil, "products", string(symbol), "ticker")
}

// ticker is the part that is read of an answer or of a frame. Only frames have a
// type, and name their product.
type ticker struct {
	Type    *string         `json:"type"`
	Product string          `json:"product_id"`
	Price   json.RawMessage `json:"price"`
	// Size is that of the last trade in an answer, and of the trade in a match; LastSize is
	// that of a ticker.
	Size     json.RawMessage `json:"size"`
	LastSize json.RawMessage `json:"last_size"`
	Time     schema.Time     `json:"time"`
	// TradeID counts the trades of a product.
	TradeID json.RawMessage `json:"trade_id"`
}

// Normalize implements pipeline.Provider. An answer, and a frame that tells of a trade,
// hold one price: that of the trade, with its size and time. Other frames hold none.
func (*provider) Normalize(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	var t ticker
	if err := payload.Decode(fetched.RawResponse, &t); err != nil {
		return nil, err
	}
	symbol, size := fetched.Symbol, t.Size
	if t.Type != nil {
		if *t.Type == "ticker" {
			size = t.LastSize
		}
		if !tellsOfTrade(*t.Type) {
			return nil, pipeline.Quotef(schema.CodeBadResponse, "a frame that tells of no trade")
		}
		var err error
		if symbol, err = schema.ParseSymbol(t.Product); err != nil {
			return nil, &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "a frame without a product", Err: err}
		}
	}
	price, err := payload.Price(t.Price)
	if err != nil {
		return nil, err
	}
	if err := payload.CheckTime(t.Time); err != nil {
		return nil, err
	}
	return []pipeline.Price{{Symbol: symbol, Price: price, Size: payload.Size(size), Time: t.Time, Sequence: payload.Sequence(t.TradeID)}}, nil
}
