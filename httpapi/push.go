package httpapi

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/schema"
)

// Live streams prices and read models to clients.
type Live interface {
	// Kinds are the events that there are.
	Kinds() live.Kinds
	// Open begins a stream. An error that wraps live.ErrPosition is about its id.
	Open(ctx context.Context, r live.Request) (LiveStream, error)
	// Drain ends all streams, and has Open refuse further ones.
	Drain()
}

// LiveStream is the events of one client, as live.Stream has them.
type LiveStream interface {
	ID() string
	Passed() int64
	Next(ctx context.Context, tick <-chan time.Time) ([]live.Event, error)
	Close()
}

const (
	// maxPushSymbols and maxPushEvents bound what one stream is about.
	maxPushSymbols = 250
	maxPushEvents  = 16
	// maxPushRate is the highest max_rate.
	maxPushRate = 100
	// pushWriteTimeout is how long a client may take nothing before its stream ends. It
	// comes back and continues.
	pushWriteTimeout = 20 * time.Second
	// pushHeartbeat is how long a stream is silent at the most.
	pushHeartbeat = 15 * time.Second
	// pushRetry is when clients should come back after a connection broke.
	pushRetry = 2 * time.Second
	// maxPassed is how many records of other symbols a stream may pass before its client
	// is told the position, so that it need not read them again.
	maxPassed = 10_000
)

// getPriceStream streams events, as server-sent events or over a WebSocket.
func (a *API) getPriceStream(w http.ResponseWriter, r *http.Request) error {
	asked, err := a.readPush(r)
	if err != nil {
		return err
	}
	overSocket, err := wantsSocket(r)
	if err != nil {
		return err
	}
	leave, err := a.push.admit(w, r)
	if err != nil {
		return err
	}
	defer leave()
	if r.Method == http.MethodHead {
		a.describePush(w, asked.Provider)
		return nil
	}
	opening, cancel := withQueryTimeout(r)
	defer cancel()
	stream, err := a.ports.Live.Open(opening, asked)
	switch {
	case errors.Is(err, live.ErrPosition):
		return faults{lastEventPlace(r).wrong(err.Error())}
	case errors.Is(err, live.ErrEnded):
		return &apiError{codeUnavailable, "The service is stopping", err}
	case err != nil:
		return err
	}
	defer stream.Close()
	if overSocket {
		a.pushOverSocket(w, r, stream)
		return nil
	}
	a.describePush(w, asked.Provider)
	ctx, stop := a.whileAllowed(r.Context(), r)
	defer stop()
	a.pushEvents(w, r.WithContext(ctx), stream)
	return nil
}

// describePush sets the headers of server-sent events.
func (a *API) describePush(w http.ResponseWriter, provider schema.Provider) {
	a.markSimulated(w, provider)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", cacheNever)
	w.Header().Set("X-Accel-Buffering", "no") // nginx and those that follow it
}

// readPush reads what a client asks for.
func (a *API) readPush(r *http.Request) (live.Request, error) {
	q := query{values: r.URL.Query()}
	asked := live.Request{Symbols: q.symbols(maxPushSymbols), Kinds: q.kinds(a.ports.Live.Kinds()), MaxRate: int(q.integer("max_rate", 0, 1, maxPushRate))}
	if asked.After = r.Header.Get(lastEventHeader); asked.After == "" {
		asked.After, _ = q.get("last_event_id")
	}
	if err := q.faults.orNil(); err != nil {
		return live.Request{}, err
	}
	name, _ := q.get("provider")
	var err error
	if asked.Provider, err = a.config.provider(name); err != nil {
		return live.Request{}, err
	}
	asked.Symbols = a.config.symbols(asked.Provider, asked.Symbols)
	return asked, nil
}

// streamPath is the path of GET stream, whose answers last as long as clients want.
const streamPath = "/api/v1/prices/stream"

const lastEventHeader = "Last-Event-ID"

// lastEventPlace is where the id stands that a client continues from.
func lastEventPlace(r *http.Request) place {
	if id := r.Header.Get(lastEventHeader); id != "" {
		return inHeader(lastEventHeader, abbreviate(id))
	}
	return inQuery("last_event_id", abbreviate(r.URL.Query().Get("last_event_id")))
}

// symbols reads the parameter of that name, most of them at the most; see Config.symbols.
func (q *query) symbols(most int) []schema.Symbol {
	text, given := q.get("symbols")
	if !given {
		q.faults = append(q.faults, place{[]any{"query", "symbols"}, nil}.missing())
		return nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > most {
		q.faults = append(q.faults, inQuery("symbols", abbreviate(text)).longList(most, len(parts)))
		return nil
	}
	symbols := make([]schema.Symbol, 0, len(parts))
	for i, part := range parts {
		symbol, err := schema.ParseExactSymbol(part)
		if err != nil {
			if _, fault := readSymbol(part, place{[]any{"query", "symbols", i}, abbreviate(part)}); fault != nil {
				q.faults = append(q.faults, *fault)
			}
		} else {
			symbols = append(symbols, symbol)
		}
	}
	return symbols
}

// kinds reads the parameter events, each kind once.
func (q *query) kinds(known live.Kinds) []live.Kind {
	text, given := q.get("events")
	if !given {
		text = live.PriceEvent + "," + live.AverageEvent
	}
	parts := strings.Split(text, ",")
	if len(parts) > maxPushEvents {
		q.faults = append(q.faults, inQuery("events", abbreviate(text)).longList(maxPushEvents, len(parts)))
		return nil
	}
	var kinds []live.Kind
	for i, part := range parts {
		kind, err := known.Parse(strings.TrimSpace(part))
		if err != nil {
			q.faults = append(q.faults, place{[]any{"query", "events", i}, abbreviate(part)}.wrong(abbreviateTo(err.Error(), 400)))
		} else if !slices.ContainsFunc(kinds, func(other live.Kind) bool { return other.Text == kind.Text }) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// pushEvents writes server-sent events until the client is gone or the stream ends.
func (a *API) pushEvents(w http.ResponseWriter, r *http.Request, stream LiveStream) {
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	_ = out.control.SetReadDeadline(time.Time{}) // the request was read; only its end is waited for
	if out.send(retryHint(nil, pushRetry)) != nil {
		return
	}
	heartbeat := time.NewTicker(a.config.pushHeartbeat())
	defer heartbeat.Stop()
	for {
		events, err := stream.Next(r.Context(), heartbeat.C)
		if err != nil {
			if r.Context().Err() == nil {
				a.logEnd(r, err)
				_ = out.send(retryHint(out.buffer[:0], comeBack())) // a client that is gone needs none
			}
			return
		}
		text := out.buffer[:0]
		for _, e := range events {
			text = appendEvent(text, e, a.renderPush)
		}
		if len(events) == 0 {
			text = append(text, ": heartbeat\n"...)
			if stream.Passed() > maxPassed { // an id without data moves the client's position, and is no event
				text = append(append(append(text, "id: "...), stream.ID()...), "\n\n"...)
			}
		}
		spans := a.tracePush(r, events)
		err = out.send(text)
		spans.end(err == nil)
		if err != nil {
			return
		}
	}
}

// appendEvent writes a server-sent event. Neither ids nor JSON hold a line break.
func appendEvent(text []byte, e live.Event, render func(any) []byte) []byte {
	text = append(append(text, "event: "...), e.Name...)
	text = append(append(text, "\nid: "...), e.ID...)
	text = append(append(text, "\ndata: "...), e.Data.Text(render)...)
	return append(text, "\n\n"...)
}

func retryHint(text []byte, d time.Duration) []byte {
	return append(append(append(text, "retry: "...), strconv.FormatInt(d.Milliseconds(), 10)...), "\n\n"...)
}

// comeBack is when clients come back whose streams all end now: not at one moment.
func comeBack() time.Duration {
	return time.Second + time.Duration(rand.Int64N(int64(4*time.Second)))
}

// logEnd says why a stream ended before its client, unless that is as it should be.
func (a *API) logEnd(r *http.Request, err error) {
	if !errors.Is(err, live.ErrEnded) {
		a.config.Logger.WarnContext(r.Context(), "a stream of prices was cut off", "client", r.RemoteAddr, "error", err)
	}
}

// eventWriter writes what a client takes in time.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buffer  []byte // to be used again
}

func (o *eventWriter) send(text []byte) error {
	o.buffer = text
	_ = o.control.SetWriteDeadline(time.Now().Add(pushWriteTimeout))
	if _, err := o.w.Write(text); err != nil {
		return err
	}
	return o.control.Flush()
}

// PushLimits bound the streams of clients that are open at one time.
type PushLimits struct {
	// Total is for all clients together. 0 means 2,000.
	Total int
	// PerClient is for one API key, wherever it is used, and without one for a client address,
	// as in ConnectionLimits: this machine has no such limit then. 0 means 20.
	PerClient int
}

// What a zero field of PushLimits means.
const (
	DefaultMaxPush          = 2000
	DefaultMaxPushPerClient = 20
)

// pushStreams counts the streams of clients.
type pushStreams struct {
	limits PushLimits
	mu     sync.Mutex
	open   int
	by     map[string]int // subjects
	work   sync.WaitGroup
}

func newPushStreams(limits PushLimits) *pushStreams {
	setDefault(&limits.Total, DefaultMaxPush)
	setDefault(&limits.PerClient, DefaultMaxPushPerClient)
	return &pushStreams{limits: limits, by: map[string]int{}}
}

// admit counts a stream, until leave is called.
func (p *pushStreams) admit(w http.ResponseWriter, r *http.Request) (leave func(), err error) {
	from := subjectOf(r)
	exempt := callerOf(r).key == nil && clientOf(r.RemoteAddr).isLoopback()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.open >= p.limits.Total:
		return nil, newError(codeUnavailable, "All %d streams are taken: see HTTP_MAX_PUSH_STREAMS", p.limits.Total)
	case p.by[from] >= p.limits.PerClient && !exempt:
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterUnavailable))
		return nil, newError(codeRateLimited, "Too many streams: %d for one client or API key; one stream takes up to %d symbols", p.limits.PerClient, maxPushSymbols)
	}
	p.open++
	p.by[from]++
	p.work.Add(1)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
		if p.by[from]--; p.by[from] == 0 {
			delete(p.by, from)
		}
		p.work.Done()
	}, nil
}
