package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// Provider gets quotes from one market data service. It is safe for concurrent
// use.
type Provider interface {
	// Quote asks for the current quote of a symbol and returns the answer byte
	// for byte, of at most schema.MaxRawResponse bytes. It returns when ctx is
	// done. Its errors are *QuoteError; any other is a fault of ours.
	//
	// An answer that holds no price (an unknown symbol reported with status
	// 200) is not an error here: it is kept, and Normalize says what it is.
	Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error)
	// Normalize reads the prices out of an answer that this provider once
	// gave. It is pure: no I/O, no clock, and the same forever, since
	// projections may be built again from old answers. Its errors are
	// *QuoteError.
	Normalize(quote schema.QuoteFetched) ([]Price, error)
}

// Configurable is a Provider that cannot ask its service before it is given
// something, such as a key. Until then each Quote fails with CodeNotConfigured.
type Configurable interface {
	Provider
	Configured() bool
}

// Limited is a Provider whose service allows so many calls and no more.
type Limited interface {
	Provider
	// Limits are what the service allows to all calls with this provider's key
	// together, from whatever process. All of them hold at once.
	Limits() []Limit
}

// Describer is a Provider that knows of an instrument by its symbol what no answer says.
type Describer interface {
	Provider
	// DescribeSymbol says what is known of a symbol. It is pure.
	DescribeSymbol(symbol schema.Symbol) schema.Instrument
}

// AnswerDescriber is a Provider whose answers tell of the instrument, too: its currency, say,
// or when it is traded.
type AnswerDescriber interface {
	Provider
	// DescribeAnswer reads what an answer tells of its instrument, as Normalize reads its
	// prices; false where it tells nothing.
	DescribeAnswer(quote schema.QuoteFetched) (schema.Instrument, bool)
}

// Limit is a number of calls within any period of a length.
type Limit struct {
	Calls int
	Per   time.Duration
}

// Defined is a Provider whose answers are read by a definition: text that may be another
// one when the program starts next. Each answer keeps the version that it was stored under,
// and is always read by that one.
type Defined interface {
	Provider
	// DefinedBy returns the text, and the version that names it.
	DefinedBy() (version, text string)
}

// HistoryMark ends the version under which entries of a history are kept of a Defined: they are
// read by another part of the definition than answers to Quote.
const HistoryMark = "/history"

// Streamer is a Provider whose service sends quotes by itself.
type Streamer interface {
	Provider
	// Stream subscribes to symbols (1 to schema.MaxStreamSymbols, each once) and
	// calls f with each message, in the order they come, until ctx is done or
	// something is wrong; it always returns an error, as Quote does. It connects
	// once and does not retry: anyone who calls it decides when to try again.
	//
	// f may take long, while the log takes nothing. Stream reads no further
	// meanwhile, so that the connection fills up and the service has to wait,
	// and keeps nothing back. Once f returns an error it is not called again,
	// and Stream returns that error. A service that falls silent is noticed by
	// anyone who calls Stream, by its calls of f.
	Stream(ctx context.Context, symbols []schema.Symbol, f func(StreamMessage) error) error
}

// Resubscriber is a Streamer whose service lets the symbols of a connection change. Without
// it a change takes a new connection.
type Resubscriber interface {
	Streamer
	// StreamChanging is Stream with symbols that change: those that it receives from changes
	// (1 to schema.MaxStreamSymbols, each once) replace all before them. Messages of a
	// symbol that was replaced may still come. The channel is never closed.
	StreamChanging(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(StreamMessage) error) error
}

// StreamMessage is one message of a stream. One without an ID is a sign of life
// and no more; of it only ReceivedAt counts.
type StreamMessage struct {
	// ID is the id of the event that the message becomes. It is a function of
	// what the message tells, such as a trade, so that what the service sends
	// again after a reconnect is the same event.
	ID     string
	Symbol schema.Symbol
	// Sequence is one more than that of the last message of the symbol unless
	// something was lost in between, and not more if it is a repeat; 0 where
	// the service does not count.
	Sequence int64
	// RawResponse is the message byte for byte, of at most schema.MaxRawResponse
	// bytes, as Normalize takes it. It is the receiver's to keep.
	RawResponse schema.RawResponse
	ReceivedAt  schema.Time
}

// Historian is a Provider whose service has prices of the past.
type Historian interface {
	Provider
	// History asks for one page of the past: it makes one call of the service, which counts
	// against the Limits, and does not retry. The pages of one HistoryRequest, each with the
	// Next of the page before as its Cursor, together hold every price of the span, best in
	// the order of time; where a page is asked for again, it holds the same entries with the
	// same ids, or more. A page may hold none, as one that looks for where the span begins.
	//
	// It returns when ctx is done. Its errors are those of Quote: CodeUnknownSymbol,
	// CodeUnauthorized, CodeNotConfigured, CodeUnknownProvider and CodeTooLarge end the
	// backfill; after CodeUnavailable, CodeTimeout and CodeRateLimited it continues from the
	// same cursor, for as long as it takes; after any other a few times.
	History(ctx context.Context, request HistoryRequest) (HistoryPage, error)
}

// HistoryRequest asks for a page.
type HistoryRequest struct {
	Symbol schema.Symbol
	// From and To are the earliest and the latest time of a price, by the provider's clock.
	// Prices of other times in an answer are left out by the caller.
	From, To schema.Time
	// Cursor is the Next of the page before; empty for the first.
	Cursor string
}

// The bounds of a page.
const (
	MaxHistoryEntries = 10_000
	MaxHistoryCursor  = 1000 // bytes
)

// HistoryPage is one answer of a service, taken apart.
type HistoryPage struct {
	// Entries are the prices of the answer, at most MaxHistoryEntries.
	Entries []HistoryEntry
	// Next is the Cursor of the next page, of at most MaxHistoryCursor bytes; empty where
	// this one is the last. Without entries it must differ from the Cursor of the request.
	Next string
}

// HistoryEntry is one price of the past, before it is read.
type HistoryEntry struct {
	// ID is the id of the event that the entry becomes. It is a function of what the entry
	// tells, and the same as that of a StreamMessage about the same trade: what a stream or
	// another backfill has brought is known by it.
	ID string
	// RawResponse are the bytes of the entry as they are in the answer, at most
	// schema.MaxRawResponse. Normalize reads them as it reads any answer. They are the
	// receiver's to keep.
	RawResponse schema.RawResponse
	// Time is that of the price, as Normalize reads it.
	Time schema.Time
}

// maxAhead is how far a provider's clock may be ahead of our receipt. A price
// from beyond would stay the newest one for as long.
const maxAhead = 24 * time.Hour

// CheckAhead returns an error with CodeBadResponse for a price whose time is more than a
// day after the receipt of its answer.
func (p Price) CheckAhead(receivedAt schema.Time) error {
	if p.Time.After(receivedAt.Add(maxAhead)) {
		return Quotef(schema.CodeBadResponse, "the price is of %s, and was received at %s", p.Time, receivedAt)
	}
	return nil
}

// Price is one price read from an answer.
type Price struct {
	Symbol schema.Symbol
	Price  schema.Decimal
	// Size is how much was traded at the price; zero where the answer does not
	// say.
	Size schema.Decimal
	// Time is the provider's clock; of a bar, the end of its span.
	Time schema.Time
	// Bar is the bar that the price is the close of; nil for a price that is none.
	Bar *schema.Bar
	// Signed says that the instrument can have prices of zero and below; without
	// it such a price is refused.
	Signed bool
	// Sequence orders the prices of one symbol that have the same Time: the
	// provider's number of the trade. Zero where the answer has none.
	Sequence schema.Sequence
}

// QuoteError says why there is no answer, or no price in it.
type QuoteError struct {
	Code   schema.Code
	Reason string // for people; holds no secrets
	// RetryAfter is how long the service wants to be left alone; 0 where it
	// does not say.
	RetryAfter time.Duration
	Err        error // the cause, if any
}

func (e *QuoteError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Reason, e.Err)
	}
	return string(e.Code) + ": " + e.Reason
}

func (e *QuoteError) Unwrap() error { return e.Err }

// Quotef makes a QuoteError.
func Quotef(code schema.Code, format string, args ...any) *QuoteError {
	return &QuoteError{Code: code, Reason: fmt.Sprintf(format, args...)}
}
