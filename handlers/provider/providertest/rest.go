package providertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// REST describes a provider that asks a service over HTTP, to RunREST, which
// plays the service on a local server.
type REST struct {
	// Name is the provider's name. Required.
	Name schema.Provider
	// New makes the provider, as its module does. It is given the settings
	// base_url and, where there is a key, api_key. Required.
	New func(pipeline.Env) (pipeline.Provider, error)
	// KeyHeader is the header that carries the key, after KeyPrefix; KeyQuery is the
	// parameter of the query that does. Both empty: there is no key.
	KeyHeader, KeyPrefix, KeyQuery string
	// IDHeader is the header that carries the id of the key, for a service that wants two
	// keys: the setting is then the id, a colon, and the key. Empty: there is no id.
	IDHeader string
	// Symbol is one that the service has a price of. Required.
	Symbol schema.Symbol
	// Request is what the provider asks for Symbol: path and query as they are
	// on the wire, after the base URL, with {key} where KeyQuery has the key. Required.
	Request string
	// Answer is a good answer to Request. Required.
	Answer string
	// UnknownStatus and UnknownAnswer are what the service says where it does
	// not know a symbol. Required.
	UnknownStatus int
	UnknownAnswer string
	// NotFound is the code of status 404 with a page that the service did not
	// write. Required.
	NotFound schema.Code
	// Statuses are the codes of statuses to which the service gives a meaning of its own,
	// such as 403 for too many calls.
	Statuses map[int]schema.Code
	// Limit is as in Suite.
	Limit time.Duration
	// Golden is the directory of the files that Normalize describes. Empty:
	// testdata/normalize.
	Golden string
}

// hasKey says that the service wants a key.
func (s REST) hasKey() bool { return s.KeyHeader != "" || s.KeyQuery != "" }

// sentKey is the key as a request has it.
func (s REST) sentKey(r *http.Request) string {
	if s.KeyQuery != "" {
		return r.URL.Query().Get(s.KeyQuery)
	}
	return r.Header.Get(s.KeyHeader)
}

// names reports whether a URL names a symbol, in whatever spelling.
func names(uri string, symbol schema.Symbol) bool {
	bare := func(text string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) {
				return unicode.ToUpper(r)
			}
			return -1
		}, text)
	}
	if plain, err := url.QueryUnescape(uri); err == nil {
		uri = plain
	}
	return strings.Contains(bare(uri), bare(string(symbol)))
}

// RunREST runs Run, Normalize and what else holds for a provider that asks a
// service over HTTP: how it asks, and what it does about each way not to be
// answered. Limits are checked where the provider is a pipeline.Limited.
//
// It needs files in the provider's package: testdata/normalize/*.json as Normalize
// describes them, of which one is refused.json. That has a case for each answer that
// no provider may take for a price, with these names and codes:
//
//	"price zero", "price negative", "price absent", "price null", "price NaN",
//	"price of 19 integer digits", "price of 19 fractional digits": bad_price
//	"time absent", "time out of range": bad_response
//
// The files of handlers/provider/finnhub are an example.
func RunREST(t *testing.T, s REST) {
	t.Helper()
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	Run(t, s.suite())
	for _, c := range restChecks(s) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := c.run(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	p, err := s.New(s.env("https://service.invalid", key, &logBook{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("Normalize", func(t *testing.T) { normalizeGolden(t, s.Name, p, s.Golden) })
	t.Run("NormalizeCoversBadPrices", func(t *testing.T) {
		if err := coversBadPrices(readGolden(t, s.Golden)); err != nil {
			t.Error(err)
		}
	})
}

func (s REST) validate() error {
	if s.New == nil || s.Request == "" || s.Answer == "" || s.UnknownStatus == 0 || s.UnknownAnswer == "" || s.NotFound == "" {
		return errors.New("providertest: REST lacks a required field")
	}
	return errors.Join(s.Name.Validate(), s.Symbol.Validate())
}

// restCheck is a check that plays a service of its own.
type restCheck struct {
	name string
	run  func(context.Context, REST) error
}

func restChecks(s REST) []restCheck {
	checks := []restCheck{
		{"AsksAsDocumented", asksAsDocumented},
		{"RedirectElsewhere", redirectElsewhere},
		{"RedirectWithinTheHost", redirectWithinTheHost},
		{"WrongSettings", wrongSettings},
		{"StatesItsLimits", statesItsLimits},
		{"BytesStayAsTheyCame", bytesStayAsTheyCame},
		{"EachStatusHasItsCode", eachStatusHasItsCode},
		{"RetryAfterIsReported", retryAfterIsReported},
		{"OversizedAnswer", oversizedAnswer},
		{"TruncatedAnswer", truncatedAnswer},
		{"NotHTTP", notHTTP},
		{"NotJSON", notJSON},
		{"ConnectionRefused", connectionRefused},
		{"DeadlinePasses", deadlinePasses},
		{"CancelWhileAnswerComes", cancelWhileAnswerComes},
		{"OneThatHangsDelaysNoOther", oneThatHangsDelaysNoOther},
	}
	if s.hasKey() {
		checks = append(checks, restCheck{"WithoutKey", withoutKey}, restCheck{"KeyInTheAnswer", keyInTheAnswer})
	}
	return checks
}

// Symbols of the suite that no service has.
const (
	unknownSymbol schema.Symbol = "UNKNOWN-SYMBOL"
	hangingSymbol schema.Symbol = "HANGING-SYMBOL"
)

// suite is the part that is the same for every provider.
func (s REST) suite() Suite {
	return Suite{
		Name: s.Name, Symbol: s.Symbol, Unknown: unknownSymbol, Hanging: hangingSymbol, Limit: s.Limit,
		New: func(t testing.TB) pipeline.Provider {
			p, err := s.open(s.answer)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.close)
			return p.provider
		},
	}
}

// answer is the service as it should be.
func (s REST) answer(w http.ResponseWriter, r *http.Request) {
	switch {
	case names(r.RequestURI, unknownSymbol):
		write(w, s.UnknownStatus, s.UnknownAnswer)
	case names(r.RequestURI, hangingSymbol):
		hang(w, r)
	case r.RequestURI == basePath+strings.ReplaceAll(s.Request, "{key}", key):
		write(w, http.StatusOK, s.Answer)
	default:
		write(w, http.StatusTeapot, "")
	}
}

func write(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // anyone who asked may be gone
}

// hang answers once no one waits for it.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

const (
	// key is what must not be found anywhere but in the header meant for it.
	key = "canary-5e1f0c2d"
	// keyID is its id, for a service that wants two keys.
	keyID = "id-of-the-key"
	// basePath is that of the base URL that providers are given.
	basePath = "/base"
	// version is what providers are told theirs is.
	version = "1.2.3-test"
)

// now is the clock of the providers.
func now() time.Time { return receivedAt().Time }

func (s REST) env(baseURL, key string, log *logBook) pipeline.Env {
	settings := map[string]any{"base_url": baseURL}
	if s.hasKey() && key != "" {
		if s.IDHeader != "" && strings.TrimSpace(key) != "" {
			key = keyID + ":" + key
		}
		settings["api_key"] = key
	}
	return pipeline.Env{Settings: settings, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now: now, Version: version}
}

// logBook is what a provider logs.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// play is a service with a provider that asks it.
type play struct {
	REST
	server   *httptest.Server
	provider pipeline.Provider
	log      *logBook
	end      context.CancelFunc

	mu       sync.Mutex
	requests []*http.Request
}

// open starts a service that answers as told.
func (s REST) open(answer http.HandlerFunc) (*play, error) {
	p := &play{REST: s, log: &logBook{}}
	life, end := context.WithCancel(context.Background())
	p.end = end
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, r.Clone(context.Background()))
		p.mu.Unlock()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		answer(w, r.WithContext(ctx))
	}))
	var err error
	if p.provider, err = s.New(s.env(p.server.URL+basePath, key, p.log)); err != nil {
		p.close()
		return nil, fmt.Errorf("making the provider: %w", err)
	}
	return p, nil
}

func (p *play) close() {
	p.end() // for a provider that does not hang up
	p.server.CloseClientConnections()
	p.server.Close()
}

// asked are the requests so far.
func (p *play) asked() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*http.Request(nil), p.requests...)
}

// quote asks for a symbol, and looks for the key in everything that results.
func (p *play) quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	raw, err := p.suite().quote(ctx, p.provider, symbol)
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err)), key) {
		return nil, errors.New("the error holds the key")
	}
	if strings.Contains(p.log.String(), key) {
		return nil, errors.New("the log holds the key")
	}
	return raw, err
}

// fails asks for the symbol and reports whatever is not the failure that it
// should be, which it returns otherwise.
func (p *play) fails(ctx context.Context, want schema.Code) (*pipeline.QuoteError, error) {
	raw, err := p.quote(ctx, p.Symbol)
	if err == nil {
		return nil, fmt.Errorf("%d bytes instead of %s", len(raw), want)
	}
	if err := checkCode(err, want); err != nil {
		return nil, err
	}
	var quoteErr *pipeline.QuoteError
	errors.As(err, &quoteErr)
	return quoteErr, nil
}

// failsOn is fails against a service that answers as told.
func (s REST) failsOn(ctx context.Context, want schema.Code, answer http.HandlerFunc) (*pipeline.QuoteError, error) {
	p, err := s.open(answer)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return p.fails(ctx, want)
}
