package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// Bounds of settings and of request parameters.
const (
	// MaxWindow is the longest moving average, in prices.
	MaxWindow = 1000
	// MaxMaxAge is the greatest age that a client may accept, by max_age or by
	// Config.MaxAge.
	MaxMaxAge = time.Hour
	// MinFetchTimeout and MaxFetchTimeout bound Config.FetchTimeout. Together
	// with MaxOutcomeGrace the upper one stays below the time that NewServer
	// gives a response.
	MinFetchTimeout = 100 * time.Millisecond
	MaxFetchTimeout = 30 * time.Second
	// MaxOutcomeGrace bounds Config.OutcomeGrace.
	MaxOutcomeGrace = 10 * time.Second
	// MaxBody is the largest request body, in bytes.
	MaxBody = 64 << 10
)

// What a zero field of Config means.
const (
	DefaultMaxAge          = 5 * time.Second
	DefaultFetchTimeout    = 10 * time.Second
	DefaultOutcomeGrace    = 2 * time.Second
	DefaultWindow          = 5
	DefaultRateLimit       = 60
	DefaultActiveJobs      = 500
	DefaultActiveStreams   = 100
	DefaultActiveBackfills = 100
)

// ErrConfig is wrapped by every error about a Config or about Ports.
var ErrConfig = errors.New("invalid configuration of the HTTP API")

// Build says which binary answers; all of it is shown by GET /version.
type Build struct {
	// Version is the release, such as "1.4.0". Empty means "dev".
	Version string
	// Revision is the commit it was built from; empty if unknown.
	Revision string
}

// Config are the settings of the API. The zero value of every field but
// Providers and DefaultProvider is usable.
type Config struct {
	Build Build
	// Answered is told of each request when its answer has ended; nil is told nothing.
	// It must be safe for concurrent use, and return at once.
	Answered func(Answered)
	// Tracer records a span for each request, and for prices that are pushed. Nil: none.
	Tracer *tracing.Tracer

	// Providers are the names a request may give as its provider, whether a
	// key is configured for them or not; any other is answered 400. Required.
	Providers []schema.Provider
	// ProviderAliases are further names of Providers, such as yahoo_finance
	// for yahoo. Answers give the real name.
	ProviderAliases map[string]schema.Provider
	// Streamers are those of Providers that can stream; a stream of any other is
	// answered 400.
	Streamers []schema.Provider
	// Historians are those of Providers that have a history; a backfill from any other is
	// answered 400.
	Historians []schema.Provider
	// Simulated are those of Providers that make their prices up. Answers that rest
	// on such prices say so, and the default provider, if it is one of these, gives
	// none of a symbol that only another provider has ever had.
	Simulated []schema.Provider
	// CaseSensitive are those of Providers whose symbols are taken as they are
	// written. Symbols of all others are upper-cased.
	CaseSensitive []schema.Provider
	// SymbolMap says which symbols of several providers are one instrument. Nil: none are.
	SymbolMap *symbolmap.Map
	// DefaultProvider is asked when a request names none. Required, and one of
	// Providers.
	DefaultProvider schema.Provider

	// MaxAge is how long after its receipt a price answers GET latest without
	// the provider being asked again; a request's max_age overrides it. Larger
	// saves calls and serves older prices. 0 means 5 s; at most one hour.
	MaxAge time.Duration
	// FetchTimeout is the deadline of the fetch that GET latest starts. Too
	// small and slow providers only ever give 504. 0 means 10 s; from 100 ms to
	// 30 s.
	FetchTimeout time.Duration
	// OutcomeGrace is how long after that deadline GET latest still waits for
	// the outcome to come through the log, so that a timeout is reported with
	// the reason of the stage that saw it. 0 means 2 s; at most 10 s.
	OutcomeGrace time.Duration

	// DefaultWindow is the window of a moving average when a request names
	// none, in prices. 0 means 5; from 1 to MaxWindow.
	DefaultWindow int
	// MinInterval is the shortest interval of a polling job. Lower spends the
	// provider's quota faster. 0 means 60 s; whole seconds from 1 s to 3,600 s.
	MinInterval time.Duration

	// MaxActiveJobs is how many polling jobs there may be that are not stopped; POST
	// poll answers 409 then. Without a limit, a client can keep every provider busy.
	// 0 means 500, a negative number means no limit. With several API processes,
	// those that they accept at one moment may pass it.
	MaxActiveJobs int
	// MaxActiveStreams is the same for streams. 0 means 100.
	MaxActiveStreams int
	// MaxActiveBackfills bounds the backfills that have not ended. 0 means 100.
	MaxActiveBackfills int

	// RateLimitPerMinute is how many requests one client address may make each
	// minute; they may come all at once. 0 means 60, a negative number means no
	// limit. The health endpoints are exempt.
	RateLimitPerMinute int
	// LimitLoopback also limits clients on this machine, which are exempt
	// otherwise. Set it where the operator set the limit explicitly.
	LimitLoopback bool

	// OpenCommands accepts commands of all clients while Ports.Keys needs no key; false
	// accepts those of this machine only.
	OpenCommands bool

	// Push bounds the streams of clients, and PushHeartbeat is how long one is silent at the
	// most; 0 means 15 s.
	Push          PushLimits
	PushHeartbeat time.Duration

	// Hosts are the names by which the service may be called, in lower case,
	// besides addresses and localhost; requests for others get 421. Nil allows any
	// name: do not leave it so where only this machine can connect, or the pages
	// that its users open can.
	Hosts []string

	// AllowOrigins are the origins whose pages may use the API through their user's
	// browser, commands included, each as ParseOrigin gives it; "*" allows all. Nil
	// allows none but the API's own pages.
	AllowOrigins []string

	// AccessLog says which requests are in the log at level info.
	AccessLog AccessLog
	// Logger gets a record for each request, at level debug where AccessLog does not say
	// otherwise, and an error record for each fault of ours. Nil discards them.
	Logger *slog.Logger
	// Now is the clock by which prices age and rates are limited. Nil means
	// time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	setDefault(&c.Build.Version, "dev")
	setDefault(&c.MaxAge, DefaultMaxAge)
	setDefault(&c.FetchTimeout, DefaultFetchTimeout)
	setDefault(&c.OutcomeGrace, DefaultOutcomeGrace)
	setDefault(&c.DefaultWindow, DefaultWindow)
	setDefault(&c.MinInterval, schema.MinPollingInterval*time.Second)
	setDefault(&c.MaxActiveJobs, DefaultActiveJobs)
	setDefault(&c.MaxActiveStreams, DefaultActiveStreams)
	setDefault(&c.MaxActiveBackfills, DefaultActiveBackfills)
	setDefault(&c.RateLimitPerMinute, DefaultRateLimit)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c Config) pushHeartbeat() time.Duration { return cmp.Or(c.PushHeartbeat, pushHeartbeat) }

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports all faults at once; each wraps ErrConfig and names its field.
func (c Config) Validate() error {
	c = c.withDefaults()
	errs := c.validateProviders()
	errs = append(errs,
		within("MaxAge", c.MaxAge, time.Nanosecond, MaxMaxAge),
		within("FetchTimeout", c.FetchTimeout, MinFetchTimeout, MaxFetchTimeout),
		within("OutcomeGrace", c.OutcomeGrace, time.Nanosecond, MaxOutcomeGrace),
		within("DefaultWindow", c.DefaultWindow, 1, MaxWindow),
		within("MinInterval", c.MinInterval, time.Second, schema.MaxPollingInterval*time.Second),
	)
	if c.MinInterval%time.Second != 0 {
		errs = append(errs, fmt.Errorf("%w: MinInterval: %v is not in whole seconds", ErrConfig, c.MinInterval))
	}
	for _, origin := range c.AllowOrigins {
		if parsed, err := ParseOrigin(origin); err != nil || parsed != origin {
			errs = append(errs, fmt.Errorf("%w: AllowOrigins: %q is not an origin as browsers send it", ErrConfig, origin))
		}
	}
	return errors.Join(errs...)
}

func (c Config) validateProviders() []error {
	var errs []error
	if len(c.Providers) == 0 {
		errs = append(errs, fmt.Errorf("%w: Providers: at least one is required", ErrConfig))
	}
	for _, name := range c.Providers {
		if err := name.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%w: Providers: %w", ErrConfig, err))
		}
		if name.IsView() {
			errs = append(errs, fmt.Errorf("%w: Providers: %q stands for prices of several providers", ErrConfig, name))
		}
	}
	if !slices.Contains(c.Providers, c.DefaultProvider) {
		errs = append(errs, fmt.Errorf("%w: DefaultProvider: %q is not one of Providers %q",
			ErrConfig, c.DefaultProvider, c.Providers))
	}
	for _, alias := range slices.Sorted(maps.Keys(c.ProviderAliases)) {
		if target := c.ProviderAliases[alias]; !slices.Contains(c.Providers, target) {
			errs = append(errs, fmt.Errorf("%w: ProviderAliases: %q stands for %q, which is not one of Providers %q",
				ErrConfig, alias, target, c.Providers))
		}
		if schema.Provider(alias).IsView() {
			errs = append(errs, fmt.Errorf("%w: ProviderAliases: %q stands for prices of several providers", ErrConfig, alias))
		}
		if slices.Contains(c.Providers, schema.Provider(alias)) {
			errs = append(errs, fmt.Errorf("%w: ProviderAliases: %q is the name of a provider", ErrConfig, alias))
		}
	}
	return errs
}

func within[T time.Duration | int](field string, value, low, high T) error {
	if value < low || value > high {
		return fmt.Errorf("%w: %s: %v is not within %v and %v", ErrConfig, field, value, low, high)
	}
	return nil
}
