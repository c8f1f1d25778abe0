package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// buffered is how many messages of a stream may wait for the log. Beyond, the
// connection is not read, and the provider has to wait.
const buffered = 256

// subscription is one stream while this process owns it.
type subscription struct {
	*handler
	row
	*claim.Task
	emit pipeline.Emitter
	// messages are those on their way from the connection to the log. They
	// outlive a connection.
	messages chan pipeline.StreamMessage

	mu      sync.Mutex
	state   progress
	symbols []schema.Symbol
	// asked are the symbols that the present connection was ever asked for, and changes
	// is where it takes others from.
	asked   map[schema.Symbol]bool
	changes chan []schema.Symbol
}

// subscribe starts to stream, until ctx is done or it is cancelled.
func (w *worker) subscribe(ctx context.Context, r row) (*subscription, error) {
	symbols, state, err := r.read()
	if err != nil {
		return nil, err
	}
	s := &subscription{handler: w.handler, row: r, symbols: symbols, emit: w.emit, state: state,
		messages: make(chan pipeline.StreamMessage, buffered)}
	s.Task = claim.Begin(ctx, s.run, s.wakeUp)
	return s, nil
}

func (s *subscription) run(ctx context.Context) {
	written := make(chan struct{})
	go func() { s.write(ctx); close(written) }()
	s.keepConnected(ctx)
	close(s.messages)
	<-written
}

// progress is how far the stream is.
func (s *subscription) progress() progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.clone()
}

func (s *subscription) note(f func(p *progress)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
}

// errSymbols ends a connection whose symbols cannot change.
var errSymbols = errors.New("the stream has other symbols")

// change gives the stream the symbols that the table has.
func (s *subscription) change(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == s.Symbols {
		return nil
	}
	symbols, err := decodeSymbols(s.ID, text)
	if err != nil {
		return err
	}
	s.log.Info("a stream has other symbols", "stream_id", s.ID, "provider", s.Provider, "symbols", symbols)
	s.Symbols, s.symbols = text, symbols
	s.state.keep(symbols)
	if s.changes == nil {
		return nil // the next connection begins with them
	}
	for _, symbol := range symbols {
		s.asked[symbol] = true
	}
	select {
	case <-s.changes: // a change that the connection has not seen yet
	default:
	}
	s.changes <- symbols
	return nil
}

// begin returns the symbols that a connection begins with, and where it finds others.
func (s *subscription) begin() ([]schema.Symbol, <-chan []schema.Symbol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.changes = make(map[schema.Symbol]bool, len(s.symbols)), make(chan []schema.Symbol, 1)
	for _, symbol := range s.symbols {
		s.asked[symbol] = true
	}
	return s.symbols, s.changes
}

// wasAsked says whether the present connection was ever asked for a symbol.
func (s *subscription) wasAsked(symbol schema.Symbol) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[symbol]
}

// keepConnected connects again after every fault, until ctx is done.
func (s *subscription) keepConnected(ctx context.Context) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = s.settings.BackoffMin, s.settings.BackoffMax
	for {
		began := time.Now()
		err := s.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > s.settings.Silence {
			pauses.Reset() // it had been running well
		}
		if errors.Is(err, errSymbols) {
			s.note(func(p *progress) { p.reconnects++ })
			continue
		}
		fault := s.explain(err)
		pause := max(pauses.NextBackOff(), fault.RetryAfter)
		s.log.Warn("a stream broke", "stream_id", s.ID, "provider", s.Provider, "code", fault.Code, "reason", fault.Reason,
			"again_in", pause)
		s.note(func(p *progress) {
			p.failing, p.lastError, p.lastErrorAt = true, schema.CutReason(fault.Reason), schema.NewTime(s.now())
		})
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		s.note(func(p *progress) { p.reconnects++ })
	}
}

// explain says what went wrong. As with quotes, an error that is no QuoteError is
// a fault of the provider's code, whose text may hold anything.
func (s *subscription) explain(err error) *pipeline.QuoteError {
	var q *pipeline.QuoteError
	if errors.As(err, &q) {
		return q
	}
	s.log.Error("a stream failed in a way that it does not explain", "stream_id", s.ID, "provider", s.Provider, "error", err)
	return pipeline.Quotef(schema.CodeInternal, "the provider failed in a way that it does not explain")
}

// connect streams over one connection until something is wrong with it.
func (s *subscription) connect(ctx context.Context) (err error) {
	provider, _ := s.provider(s.Provider)
	streamer, ok := provider.(pipeline.Streamer)
	if !ok {
		return pipeline.Quotef(schema.CodeUnknownProvider, "no provider %q that streams in this binary", s.Provider)
	}
	if err := s.keepDefinition(ctx); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// Runs while the provider reads, not while its message waits for the log.
	silence := time.AfterFunc(s.settings.Silence, func() {
		fail(pipeline.Quotef(schema.CodeTimeout, "nothing came for %v", s.settings.Silence))
	})
	defer silence.Stop()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	receive := func(m pipeline.StreamMessage) error {
		silence.Stop()
		defer silence.Reset(s.settings.Silence)
		return s.receive(ctx, m)
	}
	symbols, changes := s.begin()
	if changing, ok := streamer.(pipeline.Resubscriber); ok {
		err = changing.StreamChanging(ctx, symbols, changes, receive)
	} else {
		go func() {
			select {
			case <-changes:
				fail(errSymbols)
			case <-ctx.Done():
			}
		}()
		err = streamer.Stream(ctx, symbols, receive)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err == nil {
		err = errors.New("it returned without an error")
	}
	return err
}

// definition is that of the provider, if it has one.
func (s *subscription) definition() (version, text string) {
	provider, _ := s.provider(s.Provider)
	if defined, ok := provider.(pipeline.Defined); ok {
		return defined.DefinedBy()
	}
	return "", ""
}

// keepDefinition keeps what the messages are read by before there are any: anyone who reads
// one finds its definition.
func (s *subscription) keepDefinition(ctx context.Context) error {
	version, text := s.definition()
	if version == "" {
		return nil
	}
	_, err := s.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		return nil, declared.Keep(ctx, tx, map[string]string{version: text})
	})
	if err != nil {
		return &pipeline.QuoteError{Code: schema.CodeUnavailable, Reason: "the provider's definition could not be kept in the database", Err: err}
	}
	return nil
}

// receive takes a message, once there is room for it.
func (s *subscription) receive(ctx context.Context, m pipeline.StreamMessage) error {
	if m.ID != "" {
		if !s.wasAsked(m.Symbol) {
			return pipeline.Quotef(schema.CodeBadResponse, "a quote came for a symbol that no one asked for")
		}
		if size := len(m.RawResponse); size == 0 || size > schema.MaxRawResponse {
			return pipeline.Quotef(schema.CodeTooLarge, "a message of %d bytes, not within 1 and %d", size, schema.MaxRawResponse)
		}
		select {
		case s.messages <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.note(func(p *progress) { p.failing, p.lastMessage = false, m.ReceivedAt })
	return nil
}

// write appends messages to the log, as many at once as are waiting, until there
// will be no more. What is left when ctx is done has the grace time.
func (s *subscription) write(ctx context.Context) {
	writing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(claim.Grace, cancel) })()
	for first := range s.messages {
		batch := []pipeline.StreamMessage{first}
		for len(batch) < buffered && len(s.messages) > 0 {
			batch = append(batch, <-s.messages)
		}
		if err := s.append(writing, batch); err != nil {
			s.log.Warn("quotes of a stream did not come into the log before it ended", "stream_id", s.ID, "quotes", len(batch), "error", err)
		}
	}
}

func (s *subscription) append(ctx context.Context, batch []pipeline.StreamMessage) error {
	version, _ := s.definition()
	events := make([]schema.Event, len(batch))
	for i, m := range batch {
		events[i] = schema.Event{ID: m.ID, Source: "pricemill/" + Name, Payload: schema.QuoteFetched{
			Quote: schema.Quote{Provider: s.Provider, Symbol: m.Symbol}, RawResponse: m.RawResponse, ReceivedAt: m.ReceivedAt,
			Definition: version}}
	}
	spans := s.trace(ctx, events, batch)
	err := s.appendAll(ctx, events)
	for _, span := range spans {
		span.End(err)
	}
	if err != nil {
		return err
	}
	s.note(func(p *progress) {
		p.messages += int64(len(batch))
		for _, m := range batch {
			if slices.Contains(s.symbols, m.Symbol) {
				p.follow(m)
			}
		}
	})
	return nil
}

// trace begins a trace for each message that the sampler wants, as of its receipt.
func (s *subscription) trace(ctx context.Context, events []schema.Event, batch []pipeline.StreamMessage) []tracing.Span {
	if s.tracer == nil {
		return nil
	}
	var spans []tracing.Span
	for i, m := range batch {
		_, span := s.tracer.StartAt(ctx, m.ReceivedAt.Time, "receive "+string(s.Provider), tracing.Consumer, "",
			tracing.String("pricemill.provider", string(s.Provider)), tracing.String("pricemill.symbol", string(m.Symbol)),
			tracing.String("pricemill.stream_id", s.ID))
		if span.Sampled() {
			events[i].Traceparent = span.Traceparent()
			spans = append(spans, span)
		}
	}
	return spans
}

// appendAll appends events until they are in the log, or ctx is done.
func (s *subscription) appendAll(ctx context.Context, events []schema.Event) error {
	for {
		err := s.emit.Append(ctx, events)
		if err == nil || ctx.Err() != nil || pipeline.IsPermanent(err) {
			return err
		}
		s.log.Warn("appending quotes of a stream", "stream_id", s.ID, "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(s.settings.BackoffMin):
		}
	}
}

// follow tells by the sequence of a message whether others are missing.
func (p *progress) follow(m pipeline.StreamMessage) {
	last := p.sequences[m.Symbol]
	if m.Sequence <= last {
		return // a repeat, or no one counts
	}
	if missed := m.Sequence - last - 1; last > 0 && missed > 0 {
		p.gaps++
		p.missed += missed
		at, known := p.times[m.Symbol]
		if !known {
			at = p.before
		}
		p.open(m, at)
	}
	p.sequences[m.Symbol], p.times[m.Symbol] = m.Sequence, m.ReceivedAt
}
