package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// fetcher gets prices from providers by way of the log: it publishes a fetch
// request and waits for what became of it. Clients that want the same price at
// the same time share one request.
type fetcher struct {
	commands Commands
	prices   LatestPrices
	requests Requests
	now      func() time.Time
	timeout  time.Duration // the deadline of a fetch request
	grace    time.Duration // how long its outcome may take beyond that
	logger   *slog.Logger

	flights singleflight.Group
	life    context.Context // done when the fetcher is closed
	end     context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // is only waited for once closed is set
}

func newFetcher(config Config, ports Ports) *fetcher {
	life, end := context.WithCancel(context.Background())
	return &fetcher{
		commands: ports.Commands, prices: ports.LatestPrices, requests: ports.Requests,
		now: config.Now, timeout: config.FetchTimeout, grace: config.OutcomeGrace, logger: config.Logger,
		life: life, end: end,
	}
}

// fresh reports whether price was received less than maxAge ago.
func (f *fetcher) fresh(price latestprices.Price, maxAge time.Duration) bool {
	return f.now().Sub(price.ReceivedAt.Time) < maxAge
}

// landing is what a flight brings home.
type landing struct {
	price latestprices.Price
	// fetched tells a price that the provider was asked for from one that was
	// found to have come in meanwhile.
	fetched bool
	// requestID is that of the fetch request; empty where there was none.
	requestID string
}

// get asks the provider for the price, or joins a fetch of it that is under
// way. It returns early when ctx is done; the fetch continues for the others.
//
// A client that joins waits no longer than the fetch it joined, whose time may
// be nearly up.
//
// It returns the id of the fetch request too; an error of one is a requestedError.
func (f *fetcher) get(ctx context.Context, provider schema.Provider, symbol schema.Symbol, maxAge time.Duration) (
	price latestprices.Price, requestID string, err error) {
	for {
		flight := f.flights.DoChan(schema.MarketKey(provider, symbol), func() (any, error) {
			return f.fly(ctx, provider, symbol, maxAge)
		})
		select {
		case <-ctx.Done():
			return latestprices.Price{}, "", fmt.Errorf("waiting for the price of %s at %s: %w", symbol, provider, ctx.Err())
		case result := <-flight:
			if result.Err != nil {
				return latestprices.Price{}, "", result.Err
			}
			// A flight that found a price was content with the age that its
			// first client accepts. For another that may be too old; then
			// this one flies itself, or joins one that began later.
			if home := result.Val.(landing); home.fetched || f.fresh(home.price, maxAge) {
				return home.price, home.requestID, nil
			}
		}
	}
}

// fly is one flight. It runs in a goroutine of its own and outlives the client
// whose ctx it was begun with, but neither its time limit nor the fetcher.
func (f *fetcher) fly(ctx context.Context, provider schema.Provider, symbol schema.Symbol, maxAge time.Duration) (
	home landing, err error) {
	if !f.begin() {
		return landing{}, fmt.Errorf("fetching %s from %s: shutting down: %w", symbol, provider, ErrUnavailable)
	}
	defer f.running.Done()
	// singleflight would end the process; the clients each get a 500 instead.
	defer func() {
		if p := recover(); p != nil {
			f.logger.ErrorContext(ctx, "panic while fetching", "provider", provider, "symbol", symbol,
				"panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("fetching %s from %s: panic: %v", symbol, provider, p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout+f.grace)
	defer cancel()
	defer context.AfterFunc(f.life, cancel)()

	// The price may have come in since the client looked: a flight that landed
	// between its look and this one's start would be repeated otherwise.
	known, err := f.prices.Latest(ctx, provider, symbol)
	if err == nil && f.fresh(known, maxAge) {
		return landing{price: known}, nil
	}
	if err != nil && !errors.Is(err, projections.ErrNotFound) {
		return landing{}, fmt.Errorf("reading the latest price of %s at %s: %w", symbol, provider, err)
	}
	id := newUUID()
	price, err := f.fetch(ctx, provider, symbol, id)
	if err != nil {
		return landing{}, &requestedError{id, err}
	}
	return landing{price: price, fetched: true, requestID: id}, nil
}

// fetch publishes a fetch request and waits for its outcome.
func (f *fetcher) fetch(ctx context.Context, provider schema.Provider, symbol schema.Symbol, id string) (latestprices.Price, error) {
	requested := schema.NewTime(f.now())
	request := schema.FetchRequested{
		Quote:       schema.Quote{Provider: provider, Symbol: symbol, RequestID: id},
		RequestedAt: requested,
		Deadline:    requested.Add(f.timeout),
	}
	if err := f.publish(ctx, request); err != nil {
		return latestprices.Price{}, fmt.Errorf("requesting %s from %s: %w", symbol, provider, err)
	}
	outcome, err := f.requests.Wait(ctx, request.RequestID)
	switch {
	case err == nil:
		return readOutcome(outcome)
	case f.life.Err() != nil:
		return latestprices.Price{}, fmt.Errorf("fetching %s from %s: shutting down: %w", symbol, provider, ErrUnavailable)
	case ctx.Err() != nil:
		// By its deadline each request has an outcome, if only that the provider
		// did not answer. So it is not the provider that is late.
		return latestprices.Price{}, &apiError{codeProviderTimeout,
			fmt.Sprintf("No outcome for %s at %s within %v: the workers are behind, or none is running",
				symbol, provider, f.timeout+f.grace), err}
	}
	return latestprices.Price{}, fmt.Errorf("waiting for the outcome of fetch request %s (%s at %s): %w",
		request.RequestID, symbol, provider, err)
}

func (f *fetcher) publish(ctx context.Context, request schema.FetchRequested) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, err := f.commands.Publish(ctx, request)
	return err
}

// readOutcome turns the final state of a request into a price or an error.
func readOutcome(r requests.Request) (latestprices.Price, error) {
	switch r.State {
	case requests.Observed, requests.Unchanged:
		return latestprices.Price{
			Provider: r.Provider, Symbol: r.Symbol, Price: r.Price,
			Timestamp: r.Timestamp, ReceivedAt: r.ReceivedAt,
		}, nil
	case requests.Rejected, requests.Failed:
		return latestprices.Price{}, noPrice(r)
	case requests.Pending:
	}
	return latestprices.Price{}, fmt.Errorf("fetch request %s has state %q, which is not final", r.RequestID, r.State)
}

// noPrice goes by the code alone: some providers answer an unknown symbol with
// a body that says so, others with a status that makes the fetch fail.
func noPrice(r requests.Request) *apiError {
	switch r.Code {
	case schema.CodeUnknownSymbol:
		return newError(codeNotFound, "Symbol %s is not known to %s", r.Symbol, r.Provider)
	case schema.CodeTimeout:
		return newError(codeProviderTimeout, "No answer from %s for %s in time: %s", r.Provider, r.Symbol, r.Reason)
	default:
		return newError(codeProviderFailed, "No price from %s for %s: %s: %s", r.Provider, r.Symbol, r.Code, r.Reason)
	}
}

// begin counts a flight unless the fetcher is closed. The lock keeps a count
// from rising from zero while close is already waiting for it.
func (f *fetcher) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.running.Add(1)
	return true
}

func (f *fetcher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.end()
	f.running.Wait()
}

// newUUID returns a random UUID (version 4, RFC 9562).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process first
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
