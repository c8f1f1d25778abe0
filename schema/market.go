package schema

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxRawResponse bounds a provider's answer, in bytes. An event that carries it
// stays well below Kafka's default limit of 1 MiB a message, whatever its
// bytes: the JSON form of an answer is at most a third longer than the answer.
const MaxRawResponse = 256 << 10

// RawResponse is a provider's answer, byte for byte. Its JSON form is a string
// where it is valid UTF-8, else {"base64": "…"}; likewise where escaping makes
// the string longer than that, as control characters (six bytes each) do.
// Reading accepts either form of any answer.
type RawResponse []byte

// MarshalJSON implements json.Marshaler.
func (r RawResponse) MarshalJSON() ([]byte, error) { return r.appendJSON(nil), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (r *RawResponse) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var object base64Object
		if err := json.Unmarshal(data, &object); err != nil {
			return fmt.Errorf("reading raw_response: %w", err)
		}
		*r = object.Base64
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("reading raw_response: %w", err)
	}
	*r = RawResponse(text)
	return nil
}

type base64Object struct {
	Base64 []byte `json:"base64"`
}

// base64ObjectLen is the length of the JSON form of a base64Object of n bytes.
func base64ObjectLen(n int) int {
	return len(`{"base64":""}`) + base64.StdEncoding.EncodedLen(n)
}

// Quote is what every event about one request to one provider carries.
type Quote struct {
	Provider Provider `json:"provider"`
	Symbol   Symbol   `json:"symbol"`
	// RequestID is the fetch request this answers; empty for streams and files.
	// See JobOfRequest.
	RequestID string `json:"request_id,omitempty"`
}

// Key is provider/symbol.
func (q Quote) Key() string { return MarketKey(q.Provider, q.Symbol) }

func (q Quote) validate() error {
	return errors.Join(q.Provider.Validate(), q.Symbol.Validate(), validID("request_id", q.RequestID))
}

// FetchRequested asks for one quote from one provider.
type FetchRequested struct {
	Quote
	// JobID is the polling job that asked; empty for a request by REST.
	JobID       string `json:"job_id,omitempty"`
	RequestedAt Time   `json:"requested_at"`
	// Deadline is when an answer is of no more use: by then the request has
	// become QuoteFetched or QuoteFailed.
	Deadline Time `json:"deadline"`
}

// EventType implements Payload.
func (FetchRequested) EventType() EventType { return "market.fetch.requested.v1" }

// Topic implements Payload.
func (FetchRequested) Topic() Topic { return FetchRequests }

// OccurredAt implements Payload.
func (f FetchRequested) OccurredAt() Time { return f.RequestedAt }

// Validate implements Payload.
func (f FetchRequested) Validate() error {
	return errors.Join(f.validate(), required("request_id", f.RequestID), validIDOf("job_id", f.JobID, MaxJobID),
		requiredTime("requested_at", f.RequestedAt), requiredTime("deadline", f.Deadline))
}

// QuoteFetched is a provider's answer, not yet read.
type QuoteFetched struct {
	Quote
	RawResponse RawResponse `json:"raw_response"`
	// ReceivedAt is our clock when the answer was complete.
	ReceivedAt Time `json:"received_at"`
	// Definition is the version of the definition by which the answer is read; empty for
	// an answer of a provider that is compiled in.
	Definition string `json:"definition,omitempty"`
}

// EventType implements Payload.
func (QuoteFetched) EventType() EventType { return "market.quote.fetched.v1" }

// Topic implements Payload.
func (QuoteFetched) Topic() Topic { return RawQuotes }

// OccurredAt implements Payload.
func (q QuoteFetched) OccurredAt() Time { return q.ReceivedAt }

// Validate implements Payload.
func (q QuoteFetched) Validate() error {
	var size error
	if len(q.RawResponse) == 0 || len(q.RawResponse) > MaxRawResponse {
		size = fmt.Errorf("raw_response: %d bytes, not within 1 and %d", len(q.RawResponse), MaxRawResponse)
	}
	var definition error
	if q.Definition != "" {
		definition = requiredID("definition", q.Definition)
	}
	return errors.Join(q.validate(), size, requiredTime("received_at", q.ReceivedAt), definition)
}

// QuoteStored is a QuoteFetched whose answer is safe in raw_market_data.
type QuoteStored struct {
	QuoteFetched
	// RawResponseID is the event_id of the row in raw_market_data, the id of the
	// QuoteFetched: a UUID, the same whenever the answer is stored again. Older events
	// have the row's own id, as decimal text.
	RawResponseID string `json:"raw_response_id"`
}

// EventType implements Payload.
func (QuoteStored) EventType() EventType { return "market.quote.stored.v1" }

// Topic implements Payload.
func (QuoteStored) Topic() Topic { return StoredQuotes }

// Validate implements Payload.
func (q QuoteStored) Validate() error {
	return errors.Join(q.QuoteFetched.Validate(), requiredID("raw_response_id", q.RawResponseID))
}

// PriceObserved is a price that was read from a provider's answer. Projections
// fold this event. Its fields symbol, price, timestamp, source and
// raw_response_id are those of the original service's price-events.
type PriceObserved struct {
	Symbol Symbol  `json:"symbol"`
	Price  Decimal `json:"price" schema:"needed"`
	// Size is how much was traded at the price, in the unit in which the provider
	// counts the instrument; zero where it does not say, as for a quote that is
	// no trade.
	Size Decimal `json:"size,omitzero"`
	// Timestamp is the event time: the provider's clock.
	Timestamp Time `json:"timestamp"`
	// Sequence orders the prices of one Timestamp; zero where the provider gives none.
	Sequence Sequence `json:"sequence,omitzero"`
	// Source is the provider.
	Source        Provider `json:"source"`
	RawResponseID string   `json:"raw_response_id,omitempty"`
	// ReceivedAt is our clock when the answer was complete.
	ReceivedAt Time   `json:"received_at"`
	RequestID  string `json:"request_id,omitempty"`
}

// EventType implements Payload.
func (PriceObserved) EventType() EventType { return "market.price.observed.v1" }

// Topic implements Payload.
func (PriceObserved) Topic() Topic { return PriceEvents }

// Key is provider/symbol.
func (p PriceObserved) Key() string { return MarketKey(p.Source, p.Symbol) }

// OccurredAt implements Payload.
func (p PriceObserved) OccurredAt() Time { return p.Timestamp }

// Validate implements Payload.
func (p PriceObserved) Validate() error {
	return errors.Join(p.Source.Validate(), p.Symbol.Validate(), validPrice(p.Price), validSize(p.Size),
		validID("raw_response_id", p.RawResponseID), validID("request_id", p.RequestID),
		requiredTime("timestamp", p.Timestamp), requiredTime("received_at", p.ReceivedAt))
}

// Code says why there is no price, for programs.
type Code string

// Codes of QuoteFailed (the provider gave no answer) and QuoteRejected (the
// answer holds no price).
const (
	CodeTimeout         Code = "timeout"          // no answer by the deadline
	CodeUnavailable     Code = "unavailable"      // connection failed, 5xx
	CodeRateLimited     Code = "rate_limited"     // 429, or our own budget is spent
	CodeUnauthorized    Code = "unauthorized"     // the key was refused
	CodeNotConfigured   Code = "not_configured"   // no key is configured
	CodeUnknownProvider Code = "unknown_provider" // no such provider in this binary
	CodeTooLarge        Code = "too_large"        // the answer passed MaxRawResponse
	CodeUnknownSymbol   Code = "unknown_symbol"   // the provider does not know the symbol
	CodeBadResponse     Code = "bad_response"     // not what the provider documents
	CodeBadPrice        Code = "bad_price"        // absent, too many digits, or not positive where it has to be
	CodeInternal        Code = "internal"         // a fault of ours
)

// MaxReason bounds the reason of an outcome, in bytes; see CutReason.
const MaxReason = 512

// CutReason makes a text fit for a reason: valid UTF-8 of at most MaxReason
// bytes, cut between characters.
func CutReason(text string) string {
	// NUL is text to JSON, but not to every database.
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= MaxReason {
		return text
	}
	end := MaxReason - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

func validReason(reason string) error {
	if len(reason) > MaxReason {
		return fmt.Errorf("reason: %d bytes, more than %d", len(reason), MaxReason)
	}
	if strings.IndexByte(reason, 0) >= 0 {
		return errors.New("reason: holds a NUL")
	}
	return nil
}

// QuoteFailed says that a fetch request got no answer.
type QuoteFailed struct {
	Quote
	Code     Code   `json:"code"`
	Reason   string `json:"reason"`
	FailedAt Time   `json:"failed_at"`
}

// EventType implements Payload.
func (QuoteFailed) EventType() EventType { return "market.quote.failed.v1" }

// Topic implements Payload.
func (QuoteFailed) Topic() Topic { return QuoteOutcomes }

// OccurredAt implements Payload.
func (q QuoteFailed) OccurredAt() Time { return q.FailedAt }

// Validate implements Payload.
func (q QuoteFailed) Validate() error {
	return errors.Join(q.validate(), required("request_id", q.RequestID), requiredID("code", string(q.Code)),
		validReason(q.Reason), requiredTime("failed_at", q.FailedAt))
}

// QuoteRejected says that an answer was kept but holds no price.
type QuoteRejected struct {
	Quote
	RawResponseID string `json:"raw_response_id"`
	Code          Code   `json:"code"`
	Reason        string `json:"reason"`
	ReceivedAt    Time   `json:"received_at"`
}

// EventType implements Payload.
func (QuoteRejected) EventType() EventType { return "market.quote.rejected.v1" }

// Topic implements Payload.
func (QuoteRejected) Topic() Topic { return QuoteOutcomes }

// OccurredAt implements Payload.
func (q QuoteRejected) OccurredAt() Time { return q.ReceivedAt }

// Validate implements Payload.
func (q QuoteRejected) Validate() error {
	return errors.Join(q.validate(), requiredID("raw_response_id", q.RawResponseID),
		requiredID("code", string(q.Code)), validReason(q.Reason), requiredTime("received_at", q.ReceivedAt))
}

// QuoteUnchanged says that an answer repeats the price and event time already
// known, as a closed market does: it makes no new price.
type QuoteUnchanged struct {
	Quote
	RawResponseID string  `json:"raw_response_id"`
	Price         Decimal `json:"price" schema:"needed"`
	Timestamp     Time    `json:"timestamp"`
	ReceivedAt    Time    `json:"received_at"`
}

// EventType implements Payload.
func (QuoteUnchanged) EventType() EventType { return "market.quote.unchanged.v1" }

// Topic implements Payload.
func (QuoteUnchanged) Topic() Topic { return QuoteOutcomes }

// OccurredAt implements Payload.
func (q QuoteUnchanged) OccurredAt() Time { return q.ReceivedAt }

// Validate implements Payload.
func (q QuoteUnchanged) Validate() error {
	return errors.Join(q.validate(), requiredID("raw_response_id", q.RawResponseID), validPrice(q.Price),
		requiredTime("timestamp", q.Timestamp), requiredTime("received_at", q.ReceivedAt))
}

// validPrice also keeps a computed value with more integer digits than
// ParseDecimal reads from becoming an event that cannot be decoded.
//
// Any sign is valid: oil was sold at -36.98 in April 2020, and spreads cross zero.
// Which instruments may have such prices is for their provider to say.
func validPrice(price Decimal) error {
	if price.Cmp(priceLimit) >= 0 || (Decimal{}).Sub(price).Cmp(priceLimit) >= 0 {
		return fmt.Errorf("price: more than %d digits before the point", MaxIntegerDigits)
	}
	return nil
}

// validSize is validPrice for a size, which may be absent.
func validSize(size Decimal) error {
	if size.Sign() < 0 {
		return fmt.Errorf("size: %s is negative", size)
	}
	if size.Cmp(priceLimit) >= 0 {
		return fmt.Errorf("size: more than %d digits before the point", MaxIntegerDigits)
	}
	return nil
}

func required(field, value string) error {
	if value == "" {
		return fmt.Errorf("%s: required", field)
	}
	return nil
}

func requiredTime(field string, t Time) error {
	if err := t.Validate(); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}
