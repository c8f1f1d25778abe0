package httpapi

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/pricemill/pricemill/projections"
)

// code is the kind of an error, as far as a client can tell.
type code int

const (
	codeInternal code = iota // a fault of ours; the client learns no more
	codeInvalid
	codeBadRequest
	codeUnauthorized // a key is missing, or no valid one
	codeForbidden    // a page of another site asked, or the key does not suffice
	codeNotFound
	codeMethodNotAllowed
	codeConflict // what was asked for is in no state for it
	codeTooLarge
	codeMisdirected // another host was asked for
	codeRateLimited
	codeClientGone      // no one is left to answer
	codeProviderFailed  // the provider gave no price
	codeUnavailable     // we cannot answer now
	codeProviderTimeout // no outcome in time
	codeNotReached      // a stage has not applied in time what a client waits for
)

// statusClientGone is what access logs write, by a convention of nginx, for a
// request whose client hung up. It is never sent.
const statusClientGone = 499

// status is the one place where an error gets its status.
func (c code) status() int {
	switch c {
	case codeInvalid:
		return http.StatusUnprocessableEntity
	case codeBadRequest:
		return http.StatusBadRequest
	case codeUnauthorized:
		return http.StatusUnauthorized
	case codeForbidden:
		return http.StatusForbidden
	case codeNotFound:
		return http.StatusNotFound
	case codeMethodNotAllowed:
		return http.StatusMethodNotAllowed
	case codeConflict:
		return http.StatusConflict
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeMisdirected:
		return http.StatusMisdirectedRequest
	case codeRateLimited:
		return http.StatusTooManyRequests
	case codeClientGone:
		return statusClientGone
	case codeProviderFailed:
		return http.StatusBadGateway
	case codeUnavailable:
		return http.StatusServiceUnavailable
	case codeProviderTimeout, codeNotReached:
		return http.StatusGatewayTimeout
	case codeInternal:
	}
	return http.StatusInternalServerError
}

// apiError is an error that a client may read.
type apiError struct {
	code   code
	detail string
	cause  error // for the log; nil where the detail says it all
}

func newError(c code, format string, args ...any) *apiError {
	return &apiError{code: c, detail: fmt.Sprintf(format, args...)}
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return e.detail + ": " + e.cause.Error()
	}
	return e.detail
}

func (e *apiError) Unwrap() error { return e.cause }

// retryAfterUnavailable is what a client is told after a 503, in seconds: about
// as long as a database takes to come back from a restart.
const retryAfterUnavailable = 5

// classify finds what a client may know of err.
func (a *API) classify(ctx context.Context, err error) *apiError {
	var known *apiError
	if errors.As(err, &known) {
		return known
	}
	var tooLarge *http.MaxBytesError
	var behind *projections.BehindError
	if detail, refused := refusedRebuild(err); refused {
		return &apiError{codeConflict, detail, err}
	}
	switch {
	case errors.As(err, &tooLarge):
		return &apiError{codeTooLarge, fmt.Sprintf("Request body is larger than %d bytes", tooLarge.Limit), err}
	// Before everything that the hanging up may have caused.
	case errors.Is(ctx.Err(), context.Canceled):
		return &apiError{codeClientGone, "Client closed the request", err}
	case errors.Is(err, projections.ErrNotFound):
		return &apiError{codeNotFound, "Not Found", err}
	case errors.As(err, &behind):
		return &apiError{codeUnavailable, behind.Stage + " has not caught up with the log: the workers are behind, or none is running", err}
	case a.isUnavailable(err):
		return &apiError{codeUnavailable, "Service temporarily unavailable", err}
	}
	return &apiError{codeInternal, "Internal Server Error", err}
}

// isUnavailable recognizes the faults that pass without anybody's help.
func (a *API) isUnavailable(err error) bool {
	var network net.Error
	switch {
	case errors.Is(err, ErrUnavailable):
		return true
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone): // it went away in between
		return true
	case errors.Is(err, io.ErrUnexpectedEOF): // it went away in the middle of an answer
		return true
	case errors.As(err, &network): // connection refused or reset, no such host; queryTimeout is one as well
		return true
	}
	return a.ports.Unavailable != nil && a.ports.Unavailable(err)
}

// writeError is the one place where an error becomes a response of the API.
func (a *API) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if r.ProtoMajor == 2 {
		// What is not read of a body makes net/http reset the stream after the answer, which
		// some clients take for a failure without one (curl 7.88).
		_, _ = io.CopyN(io.Discard, r.Body, MaxBody)
	}
	status, body := a.answerTo(w, r, err)
	a.writeFault(w, r, status, body)
}

// writeFault writes what is wrong in the shape that the client takes: that of RFC 9457 if it
// names its type, and otherwise that of the original.
func (a *API) writeFault(w http.ResponseWriter, r *http.Request, status int, body any) {
	if !namesMedia(r, problemContent) {
		a.writeJSON(w, r, status, body)
		return
	}
	a.writeBody(w, r, problemContent, status, newProblem(status, body))
}

// problemContent is the media type of RFC 9457.
const problemContent = "application/problem+json"

// problem is an error as RFC 9457 has it.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Errors are all that is wrong with an invalid request.
	Errors faults `json:"errors,omitempty"`
}

// newProblem is the answer to an error in the shape of RFC 9457.
func newProblem(status int, body any) *problem {
	// "about:blank" says that the status is all there is to know of the kind of problem.
	p := problem{Type: "about:blank", Title: http.StatusText(status), Status: status}
	switch body := body.(type) {
	case errorBody:
		p.Detail = body.Detail
	case validationBody:
		p.Detail, p.Errors = body.Detail.Error(), body.Detail
	}
	return &p
}

// answerTo logs an error, sets the headers of the answer to it, and returns the rest.
func (a *API) answerTo(w http.ResponseWriter, r *http.Request, err error) (status int, body any) {
	w.Header().Del("X-Log-Position") // of an answer that is not given
	w.Header().Del(HeaderAdjusted)
	var invalid faults
	if errors.As(err, &invalid) {
		return codeInvalid.status(), validationBody{invalid}
	}
	failure := a.classify(r.Context(), err)
	switch failure.code {
	case codeInternal:
		a.config.Logger.ErrorContext(r.Context(), "request failed",
			"method", r.Method, "path", r.URL.Path, "error", err)
	case codeUnavailable:
		a.config.Logger.WarnContext(r.Context(), "request refused: temporarily unavailable",
			"method", r.Method, "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterUnavailable))
	case codeClientGone:
		// A client that closed only its own side would still read a status, and one
		// that no document has. It is told by the end of the connection.
		panic(http.ErrAbortHandler)
	default: // the client's fault or the provider's: the debug record of the request will do
	}
	return failure.code.status(), errorBody{failure.detail}
}

type errorBody struct {
	Detail string `json:"detail"`
}

type validationBody struct {
	Detail faults `json:"detail"`
}
