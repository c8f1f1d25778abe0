package declared

import (
	"context"
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
}

func (d *Definition) defaults() Settings { return Settings{BaseURL: d.file.BaseURL} }

// New makes the provider.
func (d *Definition) New(env pipeline.Env) (pipeline.Provider, error) {
	settings := d.defaults()
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	key := strings.TrimSpace(settings.APIKey) // a file it was read from may end in a new line
	headers := map[string]string{}
	for name, t := range d.headers {
		headers[name] = t.fill(map[string]string{keyPlace: key})
	}
	client, err := rest.New(rest.Config{BaseURL: settings.BaseURL, Headers: headers, Key: key, Version: env.Version, Now: env.Now})
	if err != nil {
		return nil, err
	}
	return &provider{Definition: d, client: client, key: key}, nil
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
	query, path := p.request.fill(map[string]string{symbolPlace: spelled, keyPlace: p.key})
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

// BaseURLSetting is the name of the environment variable with a provider's base URL.
func BaseURLSetting(name schema.Provider) string { return settingPrefix(name) + "_BASE_URL" }

func settingPrefix(name schema.Provider) string {
	return strings.ToUpper(strings.ReplaceAll(string(name), "-", "_"))
}
