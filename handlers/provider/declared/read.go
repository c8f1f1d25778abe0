package declared

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// reading is the compiled form of read.
type reading struct {
	entry, symbol, price, time, size, id program
	open, high, low, close, volume       program // of a bar
}

// Units of times.
const (
	seconds      = "seconds"
	milliseconds = "milliseconds"
	microseconds = "microseconds"
	nanoseconds  = "nanoseconds"
	rfc3339      = "rfc3339"
	date         = "date" // 2006-01-02, its beginning in UTC
)

var units = []string{seconds, milliseconds, microseconds, nanoseconds, rfc3339, date}

// parseRead compiles a section read. Faults are named within it.
func parseRead(r read, fault func(string, error)) reading {
	var compiled reading
	b := bar{}
	if r.Bar != nil {
		b = *r.Bar
	}
	for _, p := range []struct {
		key, text string
		into      *program
		required  bool
	}{
		{"entry", r.Entry, &compiled.entry, false}, {"symbol", r.Symbol, &compiled.symbol, false},
		{"price", r.Price, &compiled.price, r.Bar == nil}, {"time", r.Time, &compiled.time, true},
		{"size", r.Size, &compiled.size, false}, {"id", r.ID, &compiled.id, false},
		{"bar: open", b.Open, &compiled.open, r.Bar != nil}, {"bar: high", b.High, &compiled.high, r.Bar != nil},
		{"bar: low", b.Low, &compiled.low, r.Bar != nil}, {"bar: close", b.Close, &compiled.close, r.Bar != nil},
		{"bar: volume", b.Volume, &compiled.volume, false},
	} {
		var err error
		if *p.into, err = compile(p.text, symbolVariable, spelledVariable); err == nil && p.text == "" && p.required {
			err = errors.New("required: a jq program, such as .last")
		}
		fault(p.key, err)
	}
	if !slices.Contains(units, r.Unit) {
		fault("unit", fmt.Errorf("there is no unit %q of a time; %s", r.Unit, names.Hint(r.Unit, units)))
	}
	if r.Bar == nil {
		return compiled
	}
	if r.Price != "" || r.Size != "" {
		fault("bar", errors.New("a bar has no price and no size of its own: leave them out"))
	}
	if b.Span < minSpan || b.Span > maxSpan {
		fault("bar: span", fmt.Errorf("%v is not within %v and %v", b.Span, minSpan, maxSpan))
	}
	return compiled
}

// spell is a symbol as the service writes it.
func (d *Definition) spell(symbol schema.Symbol) (string, error) {
	if d.symbol.code == nil {
		return string(symbol), nil
	}
	return spellBy(d.symbol, symbol)
}

func spellBy(p program, symbol schema.Symbol) (string, error) {
	value, err := p.run(string(symbol), string(symbol))
	text := ""
	if err == nil {
		text, err = textOf(value)
	}
	if err != nil || text == "" {
		return "", &pipeline.QuoteError{Code: schema.CodeUnknownSymbol, Reason: "the definition has no spelling of this symbol", Err: err}
	}
	return text, nil
}

// judge finds the first rule that an answer meets; nil for none. body is its JSON, and
// isJSON says that it is any.
func (d *Definition) judge(status int, body any, isJSON bool, symbol schema.Symbol, spelled string) *rule {
	for i, r := range d.rules {
		if r.Status != 0 && r.Status != status {
			continue
		}
		if r.when.code != nil && (!isJSON || !r.when.holds(body, string(symbol), spelled)) {
			continue
		}
		return &d.rules[i]
	}
	return nil
}

// Normalize reads the price out of an answer or a frame that was stored by this version of
// the definition. It is pure. Its errors are *pipeline.QuoteError.
func (d *Definition) Normalize(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	if strings.HasSuffix(fetched.Definition, pipeline.HistoryMark) {
		return d.normalizeHistory(fetched)
	}
	if price, isFrame, err := d.normalizeFrame(fetched); isFrame {
		if err != nil {
			return nil, err
		}
		return []pipeline.Price{price}, nil
	}
	value, err := decodeAnswer(fetched.RawResponse)
	if err != nil {
		return nil, err
	}
	spelled, err := d.spell(fetched.Symbol)
	if err != nil {
		return nil, err
	}
	if r := d.judge(http.StatusOK, value, true, fetched.Symbol, spelled); r != nil {
		if r.Means == schema.CodeUnknownSymbol {
			return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "the service does not know %s, by rule %d of the definition", fetched.Symbol, r.number)
		}
		// Quote refuses these: the answer was kept by a version without the rule.
		return nil, pipeline.Quotef(schema.CodeBadResponse, "the answer means %s, by rule %d of the definition", r.Means, r.number)
	}
	e := entry{said: d.file.Read, reading: d.read, symbol: fetched.Symbol, spelled: spelled, value: value}
	price, err := e.read(fetched.ReceivedAt)
	if err != nil {
		return nil, err
	}
	return []pipeline.Price{price}, nil
}

// entry is the part of an answer that has the price.
type entry struct {
	said    read
	reading reading
	symbol  schema.Symbol
	spelled string
	value   any
}

func (e *entry) read(receivedAt schema.Time) (pipeline.Price, error) {
	r := e.reading
	if r.entry.code != nil {
		value, err := r.entry.run(e.value, string(e.symbol), e.spelled)
		if err == nil && value == nil {
			err = errNoValue
		}
		if err != nil {
			return pipeline.Price{}, badResponse("entry", r.entry, err)
		}
		e.value = value
	}
	if r.symbol.code != nil {
		text, err := e.text(r.symbol)
		if err == nil && text != e.spelled {
			err = errors.New("the answer is about another symbol")
		}
		if err != nil {
			return pipeline.Price{}, badResponse("symbol", r.symbol, err)
		}
	}
	price := pipeline.Price{Symbol: e.symbol, Signed: e.said.Signed}
	var err error
	if e.said.Bar != nil {
		price.Bar, err = e.bar()
	} else {
		price.Price, err = e.price("price", r.price)
	}
	if err != nil {
		return pipeline.Price{}, err
	}
	if price.Time, err = e.time(); err != nil {
		return pipeline.Price{}, err
	}
	if price.Bar != nil {
		price.Price = price.Bar.Close
		price.Bar.OpenTime = price.Time
		price.Time = price.Time.Add(e.said.Bar.Span - time.Microsecond)
		if price.Time.After(receivedAt) {
			return pipeline.Price{}, pipeline.Quotef(schema.CodeBadResponse, "the bar ends at %s, after the answer was received: choose the last complete one", price.Time)
		}
	}
	price.Size = e.size(r.size)
	if r.id.code != nil {
		if text, err := e.text(r.id); err == nil {
			price.Sequence, _ = schema.ParseSequence(text)
		}
	}
	return price, nil
}

func badResponse(key string, p program, err error) error {
	return &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: schema.CutReason(fmt.Sprintf("%s, %s: %v", key, p.text, err))}
}

func (e *entry) text(p program) (string, error) {
	value, err := p.run(e.value, string(e.symbol), e.spelled)
	if err != nil {
		return "", err
	}
	return textOf(value)
}

// price reads a decimal that is a price.
func (e *entry) price(key string, p program) (schema.Decimal, error) {
	text, err := e.text(p)
	if err != nil {
		return schema.Decimal{}, &pipeline.QuoteError{Code: schema.CodeBadPrice, Reason: schema.CutReason(fmt.Sprintf("%s, %s: %v", key, p.text, err))}
	}
	if e.said.Signed {
		return payload.ParseSigned(text)
	}
	return payload.ParsePrice(text)
}

// size reads how much was traded. As with payload.Size, one that no event could carry is
// none.
func (e *entry) size(p program) schema.Decimal {
	if p.code == nil {
		return schema.Decimal{}
	}
	text, err := e.text(p)
	if err != nil {
		return schema.Decimal{}
	}
	size, err := payload.ParsePrice(text)
	if err != nil {
		return schema.Decimal{}
	}
	return size
}

func (e *entry) bar() (*schema.Bar, error) {
	r := e.reading
	var b schema.Bar
	for _, field := range []struct {
		key  string
		p    program
		into *schema.Decimal
	}{{"open", r.open, &b.Open}, {"high", r.high, &b.High}, {"low", r.low, &b.Low}, {"close", r.close, &b.Close}} {
		var err error
		if *field.into, err = e.price(field.key, field.p); err != nil {
			return nil, err
		}
	}
	if r.volume.code != nil {
		text, err := e.text(r.volume)
		if volume, wrong := schema.ParseDecimal(text); err == nil && wrong == nil && volume.Sign() >= 0 {
			b.Volume = &volume
		}
	}
	return &b, nil
}

// time reads when the price was one. The error has CodeBadResponse.
func (e *entry) time() (schema.Time, error) {
	p := e.reading.time
	text, err := e.text(p)
	if err != nil {
		return schema.Time{}, badResponse("time", p, err)
	}
	t, err := parseTime(text, e.said.Unit)
	if err == nil {
		err = t.Validate()
	}
	if err != nil {
		return schema.Time{}, badResponse("time", p, err)
	}
	return t, nil
}

// scale is how many digits of the fraction of a second each unit has.
var scale = map[string]int{seconds: 0, milliseconds: 3, microseconds: 6}

func parseTime(text, unit string) (schema.Time, error) {
	switch unit {
	case rfc3339:
		return schema.ParseTime(text)
	case date:
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			return schema.Time{}, errors.New("not a date such as 2026-01-31")
		}
		return schema.NewTime(t), nil
	}
	digits := text
	if unit != nanoseconds { // they have more digits than a Decimal
		number, err := schema.ParseDecimal(text)
		if err != nil {
			return schema.Time{}, fmt.Errorf("not a number of %s since 1970", unit)
		}
		// Digit by digit; what is finer than a nanosecond is cut.
		whole, fraction, _ := strings.Cut(number.String(), ".")
		missing := 9 - scale[unit]
		digits = whole + (fraction + strings.Repeat("0", missing))[:missing]
	}
	nanos, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || nanos <= 0 {
		return schema.Time{}, fmt.Errorf("not a number of %s since 1970, or one after the year 2262", unit)
	}
	return schema.NewTime(time.Unix(0, nanos)), nil
}
