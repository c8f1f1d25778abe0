package yahoo

import (
	"encoding/json"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// described is the part of an answer that tells of the instrument. Nothing of it is needed
// for a price, so all is read leniently.
type described struct {
	Chart struct {
		Result []struct {
			Meta about `json:"meta"`
		} `json:"result"`
	} `json:"chart"`
}

type about struct {
	Symbol   string          `json:"symbol"`
	Currency lenient[string] `json:"currency"`
	Venue    lenient[string] `json:"exchangeName"`
	Type     lenient[string] `json:"instrumentType"`
	Zone     lenient[string] `json:"exchangeTimezoneName"`
	Period   lenient[struct {
		Regular struct {
			Start json.RawMessage `json:"start"` // seconds since 1970
			End   json.RawMessage `json:"end"`
		} `json:"regular"`
	}] `json:"currentTradingPeriod"`
}

// lenient is a value that is empty where the answer has something else.
type lenient[T any] struct{ value T }

// UnmarshalJSON implements json.Unmarshaler.
func (l *lenient[T]) UnmarshalJSON(text []byte) error {
	var value T
	if json.Unmarshal(text, &value) == nil {
		l.value = value
	}
	return nil
}

// classes are Yahoo's types of instruments, as symbol maps name them.
var classes = map[string]string{
	"EQUITY": "equity", "ETF": "etf", "MUTUALFUND": "fund", "INDEX": "index", "CURRENCY": "fx",
	"CRYPTOCURRENCY": "crypto", "FUTURE": "future", "OPTION": "option",
}

var _ pipeline.AnswerDescriber = (*provider)(nil)

// DescribeAnswer implements pipeline.AnswerDescriber. Yahoo tells no tick size: its priceHint
// is how many digits are shown.
func (*provider) DescribeAnswer(fetched schema.QuoteFetched) (schema.Instrument, bool) {
	var a described
	if payload.Decode(fetched.RawResponse, &a) != nil || len(a.Chart.Result) != 1 {
		return schema.Instrument{}, false
	}
	meta := a.Chart.Result[0].Meta
	if symbol, err := schema.ParseSymbol(meta.Symbol); err != nil || symbol != fetched.Symbol {
		return schema.Instrument{}, false
	}
	told := schema.Instrument{Currency: meta.Currency.value, Venue: meta.Venue.value, Class: classes[meta.Type.value], Timezone: meta.Zone.value}
	regular := meta.Period.value.Regular
	begin, beginErr := payload.Seconds(regular.Start)
	end, endErr := payload.Seconds(regular.End)
	if beginErr == nil && endErr == nil {
		told.Session = &schema.Session{Begin: begin, End: end}
	}
	told = told.Checked()
	return told, !told.IsZero()
}
