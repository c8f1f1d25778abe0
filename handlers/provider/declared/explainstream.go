package declared

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Sends explains what the stream sends for a symbol. The key is shown as {key}. A
// definition without a stream is an error.
func (d *Definition) Sends(symbol schema.Symbol) ([]Field, error) {
	s := d.stream
	if s == nil {
		return nil, fmt.Errorf("%w: it has no stream", ErrDefinition)
	}
	spelled, err := d.spellFor(symbol)
	if err != nil {
		return nil, err
	}
	from := s.Symbol
	if from == "" {
		from = d.file.Symbol
	}
	fields := []Field{{"symbol", from, spelled}, {"url", s.URL, unescapeKey(s.address(s.base, shownKey()))}}
	add := func(name string, m message) {
		for _, frame := range m.fill(shownKey(), []string{spelled}) {
			fields = append(fields, Field{Name: name, Value: string(frame)})
		}
	}
	add("login", s.login)
	if s.until.code != nil {
		fields = append(fields, Field{"await", s.until.text, ""})
	}
	add("subscribe", s.subscribe)
	if s.Ping != nil {
		text := "a ping of the protocol"
		for _, frame := range s.ping.fill(nil, nil) {
			text = string(frame)
		}
		fields = append(fields, Field{"ping", "every " + s.Ping.Every.String(), text})
	}
	return fields, nil
}

// ReadsFrame explains what Stream and Normalize make of a frame, entry by entry. The error
// is that of the first entry that is none of the symbol's trades for a reason that ends a
// stream, or that holds no price.
func (d *Definition) ReadsFrame(frame []byte, symbol schema.Symbol, receivedAt schema.Time) ([]Field, error) {
	spelled, err := d.spellFor(symbol)
	if err != nil {
		return nil, err
	}
	entries := [][]byte{frame}
	if d.stream.splits {
		if entries, err = feed.Split(frame, d.stream.split); err != nil {
			return nil, err
		}
	}
	var fields []Field
	for i, entry := range entries {
		name := "frame"
		if len(entries) > 1 {
			name = fmt.Sprintf("entry %d", i+1)
		}
		read, err := d.readsEntry(name, entry, symbol, spelled, receivedAt)
		fields = append(fields, read...)
		if err != nil {
			return fields, err
		}
	}
	return fields, nil
}

func (d *Definition) readsEntry(name string, frame []byte, symbol schema.Symbol, spelled string, receivedAt schema.Time) ([]Field, error) {
	value, isJSON := decodeFrame(frame)
	s := d.stream
	if s.until.code != nil && s.until.holds(value) {
		return []Field{{name, s.until.text, "answer to the login"}}, nil
	}
	rule := s.ruleOf(value)
	switch {
	case !isJSON && (rule == nil || rule.Means == meansTrade):
		return nil, pipeline.Quotef(schema.CodeBadResponse, "the frame is not JSON, and no rule of the stream explains it")
	case rule == nil:
		return []Field{{name, "", "no rule is for it: no trade, and no sign of life"}}, nil
	case rule.Means == meansAlive:
		return []Field{{name, rule.When, string(rule.Means)}}, nil
	case rule.Means != meansTrade:
		return nil, pipeline.Quotef(schema.Code(rule.Means), "the frame means %s by rule %d of the stream", rule.Means, rule.number)
	}
	t, err := s.tradeIn(value)
	if err != nil {
		return nil, err
	}
	said, err := t.spelled()
	if err != nil {
		return nil, err
	}
	if said != spelled {
		return []Field{{name, rule.When, "trade of another symbol, " + said}}, nil
	}
	return t.fields(name, rule, symbol, spelled, receivedAt)
}

// fields are what is read of a trade.
func (t trade) fields(name string, rule *compiledFrameRule, symbol schema.Symbol, spelled string, receivedAt schema.Time) ([]Field, error) {
	ids, err := t.ids()
	if err != nil {
		return nil, err
	}
	price, err := t.priceOf(symbol, spelled)
	if err == nil {
		err = price.CheckAhead(receivedAt)
	}
	if err != nil {
		return nil, err
	}
	size, sequence := "", ""
	if price.Size.Sign() != 0 {
		size = price.Size.String()
	}
	if price.Sequence != 0 {
		sequence = strconv.FormatInt(int64(price.Sequence), 10)
	}
	r := t.Read
	return []Field{{name, rule.When, "trade"}, {"price", r.Price, price.Price.String()}, {"time", r.Time, price.Time.Text()},
		{"size", r.Size, size}, {"id", strings.Join(r.ID, " "), strings.Join(ids, " ")}, {"sequence", r.Sequence, sequence}}, nil
}
