package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/instruments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// ErrUnavailable marks an error of a port as one that passes, such as a
// database that is down: the client gets 503 with Retry-After and is spared the
// details. Ports wrap it; see also Ports.Unavailable.
var ErrUnavailable = errors.New("temporarily unavailable")

// Commands writes events that clients ask for.
type Commands interface {
	// Publish makes p durable and returns the token of its place in the log.
	// After an error the event may have been written or not. It returns when
	// ctx is done.
	Publish(ctx context.Context, p schema.Payload) (token string, err error)
	// PublishAs is Publish of an event with this id, which is one event however often
	// it is published.
	PublishAs(ctx context.Context, id string, p schema.Payload) (token string, err error)
}

// LatestPrices finds the newest known price of a symbol.
type LatestPrices interface {
	// Latest returns an error that wraps projections.ErrNotFound where no
	// price was ever observed.
	Latest(ctx context.Context, provider schema.Provider, symbol schema.Symbol) (latestprices.Price, error)
	// LatestOf returns the newest prices of symbols, in their order; nil where a symbol has
	// none. They are not changed.
	LatestOf(ctx context.Context, provider schema.Provider, symbols []schema.Symbol) ([]*latestprices.Price, error)
	// Holders returns those of some providers that have a price of a symbol; with nil those
	// of all providers, also of such as no longer exist.
	Holders(ctx context.Context, symbol schema.Symbol, among []schema.Provider) ([]schema.Provider, error)
}

// Symbols lists what is known.
type Symbols interface {
	// Symbols returns at most q.Limit symbols, by provider and symbol.
	Symbols(ctx context.Context, q latestprices.SymbolQuery) ([]latestprices.Symbol, error)
}

// Prices lists the prices of a symbol.
type Prices interface {
	// Prices returns at most q.Limit prices, newest first.
	Prices(ctx context.Context, q processedprices.Query) ([]processedprices.Price, error)
	// PricesOf returns what Prices does, of each query.
	PricesOf(ctx context.Context, queries []processedprices.Query) ([][]processedprices.Price, error)
}

// Averages finds moving averages. The API asks for windows from 1 to MaxWindow.
type Averages interface {
	// Average returns the mean of the last window prices, or of those there
	// are; an error that wraps projections.ErrNotFound where there is none.
	Average(ctx context.Context, provider schema.Provider, symbol schema.Symbol, window int) (
		movingaverages.Average, error)
	// AveragesOf returns what Average does, of symbols in their order; nil where a symbol has
	// no price. They are not changed.
	AveragesOf(ctx context.Context, provider schema.Provider, symbols []schema.Symbol, window int) (
		[]*movingaverages.Average, error)
	// AsOf is Average of the prices up to and including an event time.
	AsOf(ctx context.Context, provider schema.Provider, symbol schema.Symbol, window int, t schema.Time) (
		movingaverages.Average, error)
	// History returns the average at each of at most q.Limit prices, newest
	// first.
	History(ctx context.Context, window int, q processedprices.Query) ([]movingaverages.Point, error)
}

// Jobs finds polling jobs.
type Jobs interface {
	// Get returns an error that wraps projections.ErrNotFound where the job is
	// not known, perhaps because it was created a moment ago.
	Get(ctx context.Context, jobID string) (jobs.Job, error)
	// WaitCaughtUp returns once every job that was created before the call is known,
	// or the error of ctx.
	WaitCaughtUp(ctx context.Context) error
	// List returns at most limit jobs after a place, newest first.
	List(ctx context.Context, behind jobs.Place, limit int) ([]jobs.Job, error)
	// Open counts the jobs that are not stopped, and returns those of ids that are
	// known. One that becomes known meanwhile may be counted and left out.
	Open(ctx context.Context, ids []string) (open int, known []string, err error)
}

// Requests follows fetch requests.
type Requests interface {
	// Wait blocks until the request has a final state or ctx is done, in which
	// case it returns the error of ctx. It may be called before the request is
	// known to the read model: that is not an error.
	Wait(ctx context.Context, requestID string) (requests.Request, error)
}

// Stream is a streaming subscription, as GET streams shows it.
type Stream struct {
	StreamID  string          `json:"stream_id"`
	Status    string          `json:"status"` // active, failing or stopped
	Provider  schema.Provider `json:"provider"`
	Symbols   []schema.Symbol `json:"symbols"`
	StartedAt schema.Time     `json:"started_at"`
	StoppedAt *schema.Time    `json:"stopped_at"`
	// OwnerAlive says that a worker streams it and renewed its claim of late.
	OwnerAlive    bool         `json:"owner_alive"`
	LastMessageAt *schema.Time `json:"last_message_at"`
	Messages      int64        `json:"messages"`
	Gaps          int64        `json:"gaps"`
	Missed        int64        `json:"missed"`
	Reconnects    int64        `json:"reconnects"`
	LastError     *StreamError `json:"last_error"`
}

// StreamError says why a connection of a stream broke.
type StreamError struct {
	Reason    string      `json:"reason"`
	Timestamp schema.Time `json:"timestamp"`
}

// Streams finds streaming subscriptions.
type Streams interface {
	// Get returns an error that wraps projections.ErrNotFound where the stream
	// is not known, perhaps because it was started a moment ago.
	Get(ctx context.Context, streamID string) (Stream, error)
	// WaitCaughtUp returns once every stream that was started before the call is
	// known, or the error of ctx.
	WaitCaughtUp(ctx context.Context) error
	// List returns at most limit streams, the last started first.
	List(ctx context.Context, limit int) ([]Stream, error)
	// Open is as that of Jobs.
	Open(ctx context.Context, ids []string) (open int, known []string, err error)
}

// CheckState is the result of a readiness check.
type CheckState string

// The states of a check. Only a failed one makes the process not ready.
const (
	CheckOK      CheckState = "ok"
	CheckWarning CheckState = "warning"
	CheckFailed  CheckState = "failed"
)

// Check is the result of one readiness check, as GET /readyz shows it.
type Check struct {
	// Name says what was checked: "database", "stage normalize".
	Name  string     `json:"name"`
	State CheckState `json:"state"`
	// Reason is for people and holds no secrets: "partition 3 halted: …".
	// Empty where there is nothing to say.
	Reason string `json:"reason,omitempty"`
}

// Ports are what the API needs of the rest of the program. All are required
// unless they say otherwise, and all are used concurrently.
type Ports struct {
	Commands     Commands
	LatestPrices LatestPrices
	Symbols      Symbols
	Prices       Prices
	Corrections  Corrections
	// Places finds what reads with as_of_log count.
	Places      Places
	Adjustments Adjustments
	Averages    Averages
	Jobs        Jobs
	Requests    Requests
	// RequestDetails finds what Requests waits for.
	RequestDetails RequestDetails
	// ProviderInfo describes every provider of Config.Providers.
	ProviderInfo func() []ProviderInfo
	// ProviderStatus tells how providers are doing. One that is missing, and all
	// where it is nil, are shown without.
	ProviderStatus func(ctx context.Context) (map[schema.Provider]ProviderStatus, error)
	// Instruments tells what is known of markets, in their order. Nil: nothing is.
	Instruments func(ctx context.Context, of []instruments.Market) ([]schema.Instrument, error)
	Streams     Streams
	Backfills   Backfills
	Rebuilds    Rebuilds
	DeadLetters DeadLetters
	Pipeline    Pipeline
	// Stale reports whether no process updates the live tables of a projection, and since
	// when. Nil: all are updated.
	Stale func(projection string) (age time.Duration, stale bool)
	// Indicators are those that clients may ask, by name. There may be none.
	Indicators map[string]Indicator
	// SwitchedOff are those of this binary that are disabled. They are listed, and a request
	// for one is answered with how to enable it.
	SwitchedOff map[string]projections.IndicatorDoc
	// Live streams events to clients.
	Live Live
	// WaitWritten returns once the chain of a partition has a number, or the error of ctx.
	WaitWritten func(ctx context.Context, topic schema.Topic, partition int32, number int64) error
	// CaughtUp returns once a projection has folded what was written to a topic before the
	// call, or the error of ctx.
	CaughtUp func(ctx context.Context, projection string, topic schema.Topic) error
	// Keys are those of clients. Nil: there are none.
	Keys Keys
	// Limits counts requests for the rate limit. Nil: this API counts by itself.
	Limits Limits
	// AsyncAPI is the AsyncAPI document of the log, as JSON.
	AsyncAPI []byte
	// Readiness runs all checks. It returns when ctx is done, with the checks
	// it could not finish as failed.
	Readiness func(ctx context.Context) []Check
	// Metrics answers GET /metrics.
	Metrics http.Handler
	// Unavailable recognizes errors that pass and that only the engine can
	// tell, such as "the database system is shutting down". Nil recognizes
	// none beyond ErrUnavailable, broken connections and spent deadlines.
	Unavailable func(error) bool
}

// Validate reports all ports that are missing at once.
func (p Ports) Validate() error {
	return errors.Join(
		required("Commands", p.Commands == nil),
		required("LatestPrices", p.LatestPrices == nil),
		required("Symbols", p.Symbols == nil),
		required("Prices", p.Prices == nil),
		required("Corrections", p.Corrections == nil),
		required("Places", p.Places == nil),
		required("Adjustments", p.Adjustments == nil),
		required("Averages", p.Averages == nil),
		required("Jobs", p.Jobs == nil),
		required("ProviderInfo", p.ProviderInfo == nil),
		required("Requests", p.Requests == nil),
		required("RequestDetails", p.RequestDetails == nil),
		required("Streams", p.Streams == nil),
		required("Backfills", p.Backfills == nil),
		required("Rebuilds", p.Rebuilds == nil),
		required("DeadLetters", p.DeadLetters == nil),
		required("Pipeline", p.Pipeline == nil),
		required("WaitWritten", p.WaitWritten == nil),
		required("CaughtUp", p.CaughtUp == nil),
		required("AsyncAPI", p.AsyncAPI == nil),
		required("Live", p.Live == nil),
		p.validateIndicators(),
		p.validateOperations(),
	)
}

func (p Ports) validateIndicators() error {
	var errs []error
	for name, indicator := range p.Indicators {
		if err := indicator.Indicator().Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%w: indicator %s: %w", ErrConfig, name, err))
		}
	}
	return errors.Join(errs...)
}

// validateOperations is Validate for NewOperations.
func (p Ports) validateOperations() error {
	return errors.Join(required("Readiness", p.Readiness == nil), required("Metrics", p.Metrics == nil))
}

func required(port string, missing bool) error {
	if missing {
		return fmt.Errorf("%w: port %s is required", ErrConfig, port)
	}
	return nil
}
