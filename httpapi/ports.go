package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
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
}

// LatestPrices finds the newest known price of a symbol.
type LatestPrices interface {
	// Latest returns an error that wraps projections.ErrNotFound where no
	// price was ever observed.
	Latest(ctx context.Context, provider schema.Provider, symbol schema.Symbol) (latestprices.Price, error)
}

// Averages finds moving averages.
type Averages interface {
	// Average returns the mean of the last window prices, or of those there
	// are; an error that wraps projections.ErrNotFound where there is none.
	// The API asks for windows from 1 to MaxWindow.
	Average(ctx context.Context, provider schema.Provider, symbol schema.Symbol, window int) (
		movingaverages.Average, error)
}

// Requests follows fetch requests.
type Requests interface {
	// Wait blocks until the request has a final state or ctx is done, in which
	// case it returns the error of ctx. It may be called before the request is
	// known to the read model: that is not an error.
	Wait(ctx context.Context, requestID string) (requests.Request, error)
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
	Averages     Averages
	Requests     Requests
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
		required("Averages", p.Averages == nil),
		required("Requests", p.Requests == nil),
		p.validateOperations(),
	)
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
