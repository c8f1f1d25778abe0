// Package finnhub asks Finnhub, https://finnhub.io, for quotes, and streams its trades by
// WebSocket. It needs a key.
package finnhub

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the provider's name in events and answers.
const Name schema.Provider = "finnhub"

// Settings of the module.
type Settings struct {
	// BaseURL is where the service lies. Default: DefaultBaseURL.
	BaseURL string `mapstructure:"base_url" doc:"where the service lies"`
	// WSURL is where its WebSocket feed lies. Default: DefaultWSURL.
	WSURL string `mapstructure:"ws_url" doc:"where its WebSocket feed lies"`
	// APIKey is a secret. Without one, each Quote is CodeNotConfigured.
	APIKey string `mapstructure:"api_key" doc:"the key, a secret; better set as FINNHUB_API_KEY"`
}

// DefaultBaseURL is that of the real service.
const DefaultBaseURL = "https://finnhub.io/api/v1"

var defaults = Settings{BaseURL: DefaultBaseURL, WSURL: DefaultWSURL}

func init() {
	pipeline.RegisterProvider(pipeline.ProviderModule{
		Name:     Name,
		Doc:      "Stocks, currencies and crypto from finnhub.io; needs a key.",
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
	key := strings.TrimSpace(settings.APIKey) // a file it was read from may end in a new line
	client, err := rest.New(rest.Config{BaseURL: settings.BaseURL, KeyHeader: "X-Finnhub-Token", Key: key,
		ResetHeader: "X-Ratelimit-Reset", Version: env.Version, Now: env.Now})
	feedURL, feedErr := parseFeed(settings.WSURL, key)
	if err := errors.Join(err, feedErr); err != nil {
		return nil, err
	}
	p := &provider{client: client, key: key, now: env.Now, log: env.Log, feedURL: feedURL,
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
	key        string
	feedURL    string // holds the key
	feedClient *feed.Client
	now        func() time.Time
	log        *slog.Logger
}

var (
	_ pipeline.Limited      = (*provider)(nil)
	_ pipeline.Configurable = (*provider)(nil)
)

// Limits implements pipeline.Limited: those of the free plan, and of any plan.
func (*provider) Limits() []pipeline.Limit {
	return []pipeline.Limit{{Calls: 60, Per: time.Minute}, {Calls: 30, Per: time.Second}}
}

// Configured implements pipeline.Configurable.
func (p *provider) Configured() bool { return p.key != "" }

// Quote implements pipeline.Provider. The key travels in a header: URLs end up in
// logs.
func (p *provider) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	if !p.Configured() {
		return nil, pipeline.Quotef(schema.CodeNotConfigured, "there is no key: set FINNHUB_API_KEY")
	}
	return p.client.Get(ctx, url.Values{"symbol": {string(symbol)}}, "quote")
}

// quote is the part of an answer that is read. It does not name its symbol.
type quote struct {
	Current json.RawMessage `json:"c"`
	Time    json.RawMessage `json:"t"` // seconds since 1970
	Error   *string         `json:"error"`
}

// Normalize implements pipeline.Provider. An answer, and a frame of the stream, hold one
// price. A symbol that Finnhub does not know has a quote like any other, but of zeros.
func (*provider) Normalize(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	if isFrame(fetched.RawResponse) {
		return normalizeFrame(fetched.RawResponse)
	}
	var q quote
	if err := payload.Decode(fetched.RawResponse, &q); err != nil {
		return nil, err
	}
	if q.Error != nil {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "an error instead of a quote")
	}
	if isZero(q.Current) && isZero(q.Time) {
		return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "the quote of %s is all zeros", fetched.Symbol)
	}
	price, err := payload.Price(q.Current)
	if err != nil {
		return nil, err
	}
	at, err := payload.Seconds(q.Time)
	if err != nil {
		return nil, err
	}
	return []pipeline.Price{{Symbol: fetched.Symbol, Price: price, Time: at}}, nil
}

func isZero(field json.RawMessage) bool {
	number, err := schema.ParseDecimal(string(field))
	return err == nil && number.Sign() == 0
}
