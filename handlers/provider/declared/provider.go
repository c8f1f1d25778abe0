package declared

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Settings of the provider that a definition makes.
type Settings struct {
	// BaseURL is where the service lies. Default: that of the definition.
	BaseURL string `mapstructure:"base_url" doc:"where the service lies"`
	// APIKey is a secret. A definition that has no place for it takes none.
	APIKey string `mapstructure:"api_key" doc:"the key, a secret; better set in the environment, as NAME_API_KEY"`
	// WSURL is where the stream lies. Default: that of the definition. A definition without a
	// stream takes none.
	WSURL string `mapstructure:"ws_url" doc:"where the WebSocket stream lies"`
}

func (d *Definition) defaults() Settings {
	settings := Settings{BaseURL: d.file.BaseURL}
	if d.stream != nil {
		settings.WSURL = d.stream.base
	}
	return settings
}

// Streams says that the definition has a stream.
func (d *Definition) Streams() bool { return d.stream != nil }

// New makes the provider.
func (d *Definition) New(env pipeline.Env) (pipeline.Provider, error) {
	settings := d.defaults()
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	key := strings.TrimSpace(settings.APIKey) // a file it was read from may end in a new line
	client, err := rest.New(rest.Config{BaseURL: settings.BaseURL, Headers: fillHeaders(d.headers, key), Key: key, Secrets: d.secretsOf(key),
		Version: env.Version, Now: env.Now})
	if err := errors.Join(err, d.checkKey(key)); err != nil {
		return nil, err
	}
	p := &provider{Definition: d, client: client, key: key}
	if d.stream == nil {
		if settings.WSURL != "" {
			return nil, errors.New("ws_url: the definition has no stream")
		}
		if d.past != nil {
			return historian{p}, nil
		}
		return p, nil
	}
	s, err := newStreamer(p, settings.WSURL, env)
	switch changes := p.stream.leave.root != nil; {
	case err != nil:
		return nil, err
	case changes && d.past != nil:
		return changingHistorian{changingStreamer{s}}, nil
	case changes:
		return changingStreamer{s}, nil
	case d.past != nil:
		return streamingHistorian{s}, nil
	}
	return s, nil
}

func fillHeaders(templates map[string]template, key string) map[string]string {
	headers := map[string]string{}
	for name, t := range templates {
		headers[name] = t.fill(keyValues(key))
	}
	return headers
}

type provider struct {
	*Definition
	client *rest.Client
	key    string
}

var (
	_ pipeline.Limited      = (*provider)(nil)
	_ pipeline.Configurable = (*provider)(nil)
	_ pipeline.Defined      = (*provider)(nil)
)

// DefinedBy implements pipeline.Defined.
func (p *provider) DefinedBy() (version, text string) { return p.version, p.text }

// Limits implements pipeline.Limited.
func (p *provider) Limits() []pipeline.Limit {
	limits := make([]pipeline.Limit, len(p.file.Limits))
	for i, l := range p.file.Limits {
		limits[i] = pipeline.Limit(l)
	}
	return limits
}

// Configured implements pipeline.Configurable.
func (p *provider) Configured() bool { return p.key != "" || !p.NeedsKey() }

// Quote implements pipeline.Provider.
func (p *provider) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	if !p.Configured() {
		return nil, pipeline.Quotef(schema.CodeNotConfigured, "there is no key: set %s", KeySetting(p.file.Name))
	}
	spelled, err := p.spell(symbol)
	if err != nil {
		return nil, err
	}
	values := keyValues(p.key)
	values[symbolPlace] = spelled
	query, path := p.request.fill(values)
	return p.client.GetJudged(ctx, query, path, func(status int, body []byte) *pipeline.QuoteError {
		return p.refusal(status, body, symbol, spelled)
	})
}

// refusal is what a rule says about an answer that is not kept; nil where none fits.
func (d *Definition) refusal(status int, body []byte, symbol schema.Symbol, spelled string) *pipeline.QuoteError {
	value, err := decodeAnswer(body)
	r := d.judge(status, value, err == nil, symbol, spelled)
	if r == nil || (status == http.StatusOK && r.Means == schema.CodeUnknownSymbol) {
		return nil // such an answer is kept, and Normalize says what it is
	}
	return pipeline.Quotef(r.Means, "status %d, which is %s by rule %d of the definition", status, r.Means, r.number)
}

// KeySetting is the name of the environment variable with a provider's key.
func KeySetting(name schema.Provider) string { return settingPrefix(name) + "_API_KEY" }

// WSURLSetting is the name of the environment variable with the URL of a provider's stream.
func WSURLSetting(name schema.Provider) string { return settingPrefix(name) + "_WS_URL" }

// BaseURLSetting is the name of the environment variable with a provider's base URL.
func BaseURLSetting(name schema.Provider) string { return settingPrefix(name) + "_BASE_URL" }

func settingPrefix(name schema.Provider) string {
	return strings.ToUpper(strings.ReplaceAll(string(name), "-", "_"))
}
