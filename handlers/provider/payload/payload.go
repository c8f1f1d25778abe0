// Package payload reads prices and times out of the JSON that providers answer
// with: exactly, and with a code for everything that is none.
package payload

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Decode reads an answer into the struct that into points to. A price or a time
// in seconds is best kept as it is in a field of type json.RawMessage, for Price
// or Seconds. The error has CodeBadResponse.
func Decode(raw schema.RawResponse, into any) error {
	if len(raw) > schema.MaxRawResponse {
		return pipeline.Quotef(schema.CodeBadResponse, "%d bytes, more than %d", len(raw), schema.MaxRawResponse)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "not the JSON of a quote", Err: err}
	}
	return nil
}

// Price reads a JSON number, or a string that holds one. The error has
// CodeBadPrice: there is no price, or ParsePrice refuses it.
func Price(field json.RawMessage) (schema.Decimal, error) {
	text := string(field)
	if text == "" || text == "null" {
		return schema.Decimal{}, pipeline.Quotef(schema.CodeBadPrice, "no price")
	}
	if len(text) >= 2 && text[0] == '"' {
		text = text[1 : len(text)-1] // digits need no escapes
	}
	return ParsePrice(text)
}

// ParsePrice reads decimal text. The error has CodeBadPrice: not a number, not
// positive, or more digits than a price may have.
func ParsePrice(text string) (schema.Decimal, error) {
	price, err := ParseSigned(text)
	if err != nil {
		return schema.Decimal{}, err
	}
	if price.Sign() <= 0 {
		return schema.Decimal{}, pipeline.Quotef(schema.CodeBadPrice, "price %s is not positive", price)
	}
	return price, nil
}

// ParseSigned is ParsePrice for an instrument that can have prices of zero and
// below.
func ParseSigned(text string) (schema.Decimal, error) {
	price, err := schema.ParseDecimal(text)
	if err != nil {
		return schema.Decimal{}, &pipeline.QuoteError{Code: schema.CodeBadPrice,
			Reason: "the price is not a number, or has too many digits", Err: err}
	}
	return price, nil
}

// Size reads how much was traded, as Price reads a price. One that no event
// could carry is none: it is no reason to refuse the price that it came with.
func Size(field json.RawMessage) schema.Decimal {
	size, err := Price(field)
	if err != nil {
		return schema.Decimal{}
	}
	return size
}

// Sequence reads a trade's number, in a JSON number or a string. One that is not a
// whole number orders nothing: it is 0.
func Sequence(field json.RawMessage) schema.Sequence {
	text := string(field)
	if len(text) >= 2 && text[0] == '"' {
		text = text[1 : len(text)-1]
	}
	sequence, _ := schema.ParseSequence(text)
	return sequence
}

// lastSecond is that of the year 9999. The time package counts in a circle, so
// that a number far beyond it could be a time in any year.
const lastSecond = 253_402_300_799

// Seconds reads a JSON number of whole seconds since 1970, of which 0 is no
// time. The error has CodeBadResponse.
func Seconds(field json.RawMessage) (schema.Time, error) {
	seconds, err := strconv.ParseInt(string(field), 10, 64)
	if err != nil || seconds <= 0 || seconds > lastSecond {
		return schema.Time{}, pipeline.Quotef(schema.CodeBadResponse, "no time in seconds, or one outside the years 1970 to 9999")
	}
	return schema.NewTime(time.Unix(seconds, 0)), nil
}

// CheckTime reports a time that no event may carry. The error has
// CodeBadResponse.
func CheckTime(t schema.Time) error {
	if err := t.Validate(); err != nil {
		return &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "no time, or one outside the years 1000 to 9999", Err: err}
	}
	return nil
}
