package httpapi

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline/tracing"
)

// secure sets what keeps a browser from making more of an answer than it is.
// The documentation page replaces the policy with its own.
func secure(header http.Header) {
	for i := range secured {
		// Without room, so that a value that is added is added to a copy.
		header[secured[i].name] = secured[i].values[:1:1]
	}
}

// secured are headers that all answers share, by their canonical names.
var secured = []struct {
	name   string
	values []string
}{
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"X-Frame-Options", []string{"DENY"}},
	{"Referrer-Policy", []string{"no-referrer"}},
	{"Cross-Origin-Resource-Policy", []string{"same-origin"}},
	{"Content-Security-Policy", []string{"default-src 'none'; frame-ancestors 'none'"}},
}

// Answered is a request that was answered.
type Answered struct {
	// Route is the path of the route, as in the OpenAPI document; other where there is
	// none, or where the request was refused before.
	Route string
	// Method is the request's; other for one that HTTP does not define.
	Method string
	Status int
	Took   time.Duration
	// TraceID is that of the request's trace; empty for none.
	TraceID string
	// Stream says that the answer lasted as long as the client wanted.
	Stream bool
}

// AccessLog says which requests are in the log at level info. A record has the method,
// the path without its query, status, bytes, duration, the client's address, the id of its
// API key if it has one, and that of its trace. The zero
// value has none.
type AccessLog struct {
	// Errors takes the requests that were answered 5xx.
	Errors bool
	// Share is the part of the other requests that is taken, at random: from 0, none,
	// to 1, all.
	Share float64
}

// level is that of the record of a request.
func (l AccessLog) level(status int) slog.Level {
	failed := status >= http.StatusInternalServerError
	if failed && l.Errors || !failed && l.Share > 0 && rand.Float64() < l.Share {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// otherLabel stands for all that has no name of its own, so that clients cannot make
// up new values.
const otherLabel = "other"

var methodLabels = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodConnect, http.MethodOptions, http.MethodTrace}

// observed remembers what was answered.
type observed struct {
	http.ResponseWriter
	route  string
	status int // 0 until the header is written
	bytes  int64
	key    string // the id of the client's API key; empty for none
}

// reached notes the route that a request comes to.
func reached(route string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o, is := w.(*observed); is { // what recovered passes on, unwrapped
			o.route = route
		}
		next.ServeHTTP(w, r)
	})
}

// answered tells Config.Answered of a request.
func (a *API) answered(out *observed, r *http.Request, took time.Duration) {
	if a.config.Answered == nil {
		return
	}
	method := r.Method
	if !slices.Contains(methodLabels, method) {
		method = otherLabel
	}
	traceID := ""
	if a.config.Tracer != nil {
		traceID, _ = tracing.IDs(r.Context())
	}
	// A handler that returns without a status has answered 200, as net/http does.
	a.config.Answered(Answered{cmp.Or(out.route, otherLabel), method, cmp.Or(out.status, http.StatusOK), took, traceID, out.route == streamPath})
}

func (o *observed) WriteHeader(status int) {
	// An informational answer is followed by the real one, but for that of a WebSocket.
	if o.status == 0 && (status >= http.StatusOK || status == http.StatusSwitchingProtocols) {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observed) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	n, err := o.ResponseWriter.Write(b)
	o.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// recovered is the outermost layer: it limits the body, sets the headers of
// every answer, logs each request, and turns a panic into a 500.
func (a *API) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		out := &observed{ResponseWriter: w}
		secure(w.Header())
		if len(r.TransferEncoding) > 0 {
			// net/http lets chunks win over a Content-Length next to them, and forgets
			// that there was one. Anyone who stands between us and the client may have seen
			// it the other way: what follows is not read as a request (RFC 9112, 6.3).
			w.Header().Set("Connection", "close")
		}
		if r.Body != nil && r.Body != http.NoBody {
			limited := *r // a handler must not change the request it was given
			// With the writer of net/http itself, which then closes the
			// connection instead of reading what is left of the body.
			limited.Body = http.MaxBytesReader(w, r.Body, MaxBody)
			r = &limited
		}
		r, span := a.trace(w, r)
		defer func() {
			took := time.Since(start)
			endTrace(span, out, r)
			a.answered(out, r, took)
			level := a.config.AccessLog.level(out.status)
			if !a.config.Logger.Enabled(r.Context(), level) {
				return
			}
			record := []any{"method", r.Method, "path", r.URL.Path,
				"status", out.status, "bytes", out.bytes, "duration", took, "client", r.RemoteAddr}
			if out.key != "" {
				record = append(record, "key", out.key)
			}
			a.config.Logger.Log(r.Context(), level, "request", record...)
		}()
		defer a.rescue(out, r)
		next.ServeHTTP(out, r)
	})
}

// rescue must be deferred itself, or recover would find nothing.
func (a *API) rescue(out *observed, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	// The agreed way to drop a connection without a word.
	if p == http.ErrAbortHandler {
		out.status = cmp.Or(out.status, statusClientGone)
		panic(p)
	}
	a.config.Logger.ErrorContext(r.Context(), "panic while answering", "method", r.Method, "path", r.URL.Path,
		"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if out.status != 0 {
		// Half an answer is out: only a broken connection says that it is one.
		panic(http.ErrAbortHandler)
	}
	out.Header().Del("X-Log-Position") // of an answer that is not given
	out.Header().Del(HeaderAdjusted)
	a.writeFault(out, r, http.StatusInternalServerError, errorBody{"Internal Server Error"})
}
