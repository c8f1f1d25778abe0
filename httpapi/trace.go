package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/projections/live"
)

// traceparentHeader names the trace that a request is of, or by which others continue it.
const traceparentHeader = "Traceparent"

// untraced are the paths of those who watch the process, again and again.
var untraced = map[string]bool{"/livez": true, "/readyz": true, "/health": true, "/metrics": true}

// trace begins the span of a request, under that of the client if it names one. The
// answer says by which header others continue the trace.
func (a *API) trace(w http.ResponseWriter, r *http.Request) (*http.Request, tracing.Span) {
	if a.config.Tracer == nil || untraced[r.URL.Path] {
		return r, tracing.Span{}
	}
	ctx, span := a.config.Tracer.Start(r.Context(), r.Method, tracing.Server, r.Header.Get(traceparentHeader),
		tracing.String("http.request.method", r.Method), tracing.String("url.path", r.URL.Path), tracing.String("client.address", r.RemoteAddr))
	if traceparent := span.Traceparent(); traceparent != "" {
		w.Header().Set(traceparentHeader, traceparent)
	}
	return r.WithContext(ctx), span
}

// endTrace ends the span of a request.
func endTrace(span tracing.Span, out *observed, r *http.Request) {
	if !span.Sampled() {
		return
	}
	status := cmp.Or(out.status, http.StatusOK)
	if out.route != "" {
		span.Name(r.Method + " " + out.route)
		span.Set(tracing.String("http.route", out.route))
	}
	span.Set(tracing.Int("http.response.status_code", status))
	var err error
	if status >= http.StatusInternalServerError {
		err = fmt.Errorf("answered %d", status)
	}
	span.End(err)
}

// tracePush begins a span for each event of a trace, which ends when the client's
// connection has taken it, or not.
func (a *API) tracePush(r *http.Request, events []live.Event) pushed {
	if a.config.Tracer == nil {
		return nil
	}
	var spans pushed
	for _, e := range events {
		if traceparent := e.Data.Traceparent(); traceparent != "" {
			_, span := a.config.Tracer.Start(r.Context(), "push "+e.Name, tracing.Producer, traceparent, tracing.String("client.address", r.RemoteAddr))
			spans = append(spans, span)
		}
	}
	return spans
}

// pushed are the spans of events on their way to a client.
type pushed []tracing.Span

var errNotTaken = errors.New("the client did not take it")

func (p pushed) end(taken bool) {
	var err error
	if !taken {
		err = errNotTaken
	}
	for _, span := range p {
		span.End(err)
	}
}
