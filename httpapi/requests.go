package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// RequestDetails finds fetch requests.
type RequestDetails interface {
	// Get returns an error that wraps projections.ErrNotFound where the request is not
	// known, perhaps because it was made a moment ago, or because retention deleted it.
	Get(ctx context.Context, requestID string) (requests.Detail, error)
	// WaitCaughtUp returns once every request that was made before the call is known, or
	// the error of ctx.
	WaitCaughtUp(ctx context.Context) error
}

const requestPath = "/api/v1/requests/{request_id}"

// headerRequest names, on an answer of GET latest for which a provider was asked, the fetch
// request.
const headerRequest = "Pricemill-Request"

// The statuses of a fetch request.
const (
	requestWaiting = "waiting" // no outcome yet, and its deadline has not passed
	requestDone    = "done"    // there is a price
	requestFailed  = "failed"  // there is none, and code and reason say why
	requestExpired = "expired" // its deadline has passed, and no outcome is known
)

// requestBody answers GET request. What is not known or does not apply is null.
type requestBody struct {
	RequestID   string          `json:"request_id"`
	Status      string          `json:"status"`
	Symbol      schema.Symbol   `json:"symbol"`
	Provider    schema.Provider `json:"provider"`
	JobID       *string         `json:"job_id"`
	RequestedAt schema.Time     `json:"requested_at"`
	Deadline    *schema.Time    `json:"deadline"`
	FinishedAt  *schema.Time    `json:"finished_at"`
	// Outcome is the kind of the event that ended it.
	Outcome       *requests.State `json:"outcome"`
	Price         *schema.Decimal `json:"price"`
	Timestamp     *schema.Time    `json:"timestamp"`
	ReceivedAt    *schema.Time    `json:"received_at"`
	FactID        *string         `json:"fact_id"`
	RawResponseID *string         `json:"raw_response_id"`
	Code          *schema.Code    `json:"code"`
	Reason        *string         `json:"reason"`
	Record        *recordPlace    `json:"record"`
}

// recordPlace is where the event of an outcome is in the log.
type recordPlace struct {
	Topic     schema.Topic `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
}

func (a *API) newRequestBody(d requests.Detail) requestBody {
	body := requestBody{RequestID: d.RequestID, Symbol: d.Symbol, Provider: d.Provider, JobID: unlessZero(schema.JobOfRequest(d.RequestID)),
		RequestedAt: d.AskedAt, Deadline: unlessZero(d.Deadline), FinishedAt: unlessZero(d.SettledAt),
		FactID: unlessZero(d.FactID), RawResponseID: unlessZero(d.RawResponseID)}
	switch d.State {
	case requests.Pending:
		body.Status = requestWaiting
		// The outcome may take a moment beyond the deadline to come through the log.
		if !d.Deadline.IsZero() && a.config.Now().After(d.Deadline.Time.Add(a.config.OutcomeGrace)) {
			body.Status = requestExpired
		}
		return body
	case requests.Observed, requests.Unchanged:
		body.Status = requestDone
		body.Price, body.Timestamp, body.ReceivedAt = &d.Price, &d.Timestamp, &d.ReceivedAt
	case requests.Rejected, requests.Failed:
		body.Status = requestFailed
		body.Code, body.Reason = &d.Code, &d.Reason
	}
	body.Outcome = &d.State
	if d.Outcome != nil {
		body.Record = &recordPlace{d.Outcome.Topic, d.Outcome.Partition, d.Outcome.Offset}
	}
	return body
}

func unlessZero[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}

// getRequest tells what became of a fetch request.
func (a *API) getRequest(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := find(ctx, a.ports.RequestDetails, "request", mux.Vars(r)["request_id"], noSuchRequest)
	if err != nil {
		return err
	}
	a.writeState(w, r, a.newRequestBody(found))
	return nil
}

// noSuchRequest says where else a client may look that has the id of something else.
func noSuchRequest(id string, _ error) error {
	elsewhere := ""
	if strings.HasPrefix(id, "poll_") && schema.JobOfRequest(id) == "" {
		elsewhere = "; polling jobs are at /api/v1/prices/poll/{job_id}"
	}
	return &apiError{codeNotFound, fmt.Sprintf("There is no fetch request %q, or it is older than REQUESTS_RETENTION%s", abbreviate(id), elsewhere),
		projections.ErrNotFound}
}

// requestedError is an error of a fetch, with the id of its request.
type requestedError struct {
	id  string
	err error
}

func (e *requestedError) Error() string { return e.err.Error() }
func (e *requestedError) Unwrap() error { return e.err }

// nameRequest tells a client by which id it can ask for the outcome of its request; empty
// where no provider was asked for it.
func nameRequest(w http.ResponseWriter, id string) {
	if id != "" {
		w.Header().Set(headerRequest, id)
	}
}

// nameRequestOf is nameRequest for a fetch that failed.
func nameRequestOf(w http.ResponseWriter, err error) {
	var of *requestedError
	if errors.As(err, &of) {
		nameRequest(w, of.id)
	}
}
