package declared

import (
	"errors"
	"unicode/utf8"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// decodeFrame reads a frame with at most one entry. One that is not JSON is its text, such
// as "pong", and isJSON is false.
func decodeFrame(frame []byte) (value any, isJSON bool) {
	value, err := decodeAnswer(frame)
	if err == nil {
		return value, true
	}
	if len(frame) <= maxText && utf8.Valid(frame) {
		return string(frame), false
	}
	return nil, false
}

// ruleOf is the first rule that a frame meets; nil for none.
func (s *streaming) ruleOf(value any) *compiledFrameRule {
	for i := range s.rules {
		if s.rules[i].when.holds(value) {
			return &s.rules[i]
		}
	}
	return nil
}

// trade is a frame that means a trade.
type trade struct {
	*streaming
	value any // its entry
}

// tradeIn looks for the entry of a frame that means a trade.
func (s *streaming) tradeIn(value any) (trade, error) {
	if s.entry.code == nil {
		return trade{s, value}, nil
	}
	entry, err := s.entry.run(value)
	if err == nil && entry == nil {
		err = errNoValue
	}
	if err != nil {
		return trade{}, badFrame("entry", s.entry, err)
	}
	return trade{s, entry}, nil
}

func badFrame(key string, p program, err error) error {
	return badResponse("stream: read: "+key, p, err)
}

func (t trade) text(key string, p program) (string, error) {
	value, err := p.run(t.value)
	text := ""
	if err == nil {
		text, err = textOf(value)
	}
	if err != nil {
		return "", badFrame(key, p, err)
	}
	return text, nil
}

// spelled is the symbol as the service writes it.
func (t trade) spelled() (string, error) { return t.text("symbol", t.symbolOf) }

// ids are the parts that name the trade.
func (t trade) ids() ([]string, error) {
	ids := make([]string, len(t.id))
	for i, p := range t.id {
		var err error
		if ids[i], err = t.text("id", p); err != nil {
			return nil, err
		}
		if ids[i] == "" {
			return nil, badFrame("id", p, errors.New("an empty text names no trade"))
		}
	}
	return ids, nil
}

// number is the trade's place among those of its symbol: what sequence says, or an id of
// one part; 0 for none.
func (t trade) number() schema.Sequence {
	p := t.sequence
	if p.code == nil && len(t.id) == 1 {
		p = t.id[0]
	}
	if p.code == nil {
		return 0
	}
	text, err := t.text("sequence", p)
	if err != nil {
		return 0
	}
	number, _ := schema.ParseSequence(text)
	return number
}

// message is the event that a frame with a trade of a symbol becomes. Its id is that of the
// trade, by whatever connection and in whatever frame it comes.
func (t trade) message(provider schema.Provider, symbol schema.Symbol, frame []byte) (pipeline.StreamMessage, error) {
	ids, err := t.ids()
	if err != nil {
		return pipeline.StreamMessage{}, err
	}
	m := pipeline.StreamMessage{ID: schema.DeriveID(append([]string{"stream", string(provider), string(symbol)}, ids...)...),
		Symbol: symbol, RawResponse: frame}
	if t.Read.Gapless {
		if m.Sequence = int64(t.number()); m.Sequence == 0 {
			return pipeline.StreamMessage{}, pipeline.Quotef(schema.CodeBadResponse, "stream: read: a trade without a number, in a stream that is said to be gapless")
		}
	}
	return m, nil
}

// priceOf reads what the trade says.
func (t trade) priceOf(symbol schema.Symbol, spelled string) (pipeline.Price, error) {
	said, err := t.spelled()
	if err == nil && said != spelled {
		err = badFrame("symbol", t.symbolOf, errors.New("the frame is about another symbol"))
	}
	if err != nil {
		return pipeline.Price{}, err
	}
	price := pipeline.Price{Symbol: symbol, Signed: t.Read.Signed, Sequence: t.number()}
	if price.Price, err = t.decimal(); err != nil {
		return pipeline.Price{}, err
	}
	if t.size.code != nil {
		// As with payload.Size, one that no event could carry is none.
		if text, err := t.text("size", t.size); err == nil {
			price.Size, _ = payload.ParsePrice(text)
		}
	}
	text, err := t.text("time", t.time)
	if err != nil {
		return pipeline.Price{}, err
	}
	price.Time, err = parseTime(text, t.Read.Unit)
	if err == nil {
		err = price.Time.Validate()
	}
	if err != nil {
		return pipeline.Price{}, badFrame("time", t.time, err)
	}
	return price, nil
}

func (t trade) decimal() (schema.Decimal, error) {
	text, err := t.text("price", t.price)
	var bad *pipeline.QuoteError
	if errors.As(err, &bad) {
		return schema.Decimal{}, &pipeline.QuoteError{Code: schema.CodeBadPrice, Reason: bad.Reason}
	}
	if t.Read.Signed {
		return payload.ParseSigned(text)
	}
	return payload.ParsePrice(text)
}

// normalizeFrame reads a frame of the stream. isFrame is false for what no stream has
// brought: the answer to a request, or one that the rules do not take for a trade.
func (d *Definition) normalizeFrame(fetched schema.QuoteFetched) (price pipeline.Price, isFrame bool, err error) {
	if d.stream == nil || fetched.RequestID != "" {
		return pipeline.Price{}, false, nil
	}
	value, isJSON := decodeFrame(fetched.RawResponse)
	if rule := d.stream.ruleOf(value); !isJSON || rule == nil || rule.Means != meansTrade {
		return pipeline.Price{}, false, nil
	}
	spelled, err := d.spellFor(fetched.Symbol)
	if err != nil {
		return pipeline.Price{}, true, err
	}
	t, err := d.stream.tradeIn(value)
	if err == nil {
		price, err = t.priceOf(fetched.Symbol, spelled)
	}
	return price, true, err
}
