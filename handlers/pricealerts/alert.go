package pricealerts

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Direction is the side of a threshold on which an alert fires.
type Direction string

// The directions.
const (
	Above Direction = "above" // at the threshold or above it
	Below Direction = "below" // at the threshold or below it
)

// alert is a threshold to be watched.
type alert struct {
	provider  schema.Provider // empty: each
	symbol    schema.Symbol
	direction Direction
	threshold schema.Decimal
	// again is where a price must get back to, or beyond, before it may fire again.
	// Where it is the threshold itself, beyond it.
	again schema.Decimal
}

var errAlert = errors.New("want [provider/]SYMBOL above|below PRICE [again PRICE]")

// parseAlert reads "AAPL above 200", "finnhub/AAPL below 150 again 155".
func parseAlert(text string) (alert, error) {
	words := strings.Fields(text)
	if len(words) != 3 && (len(words) != 5 || words[3] != "again") {
		return alert{}, fmt.Errorf("%q: %w", text, errAlert)
	}
	var a alert
	name := words[0]
	if provider, symbol, found := strings.Cut(name, "/"); found && schema.Provider(provider).Validate() == nil {
		a.provider, name = schema.Provider(provider), symbol
	}
	var err error
	if a.symbol, err = schema.ParseExactSymbol(name); err != nil {
		return alert{}, fmt.Errorf("%q: %w: %w", text, errAlert, err)
	}
	if !pipeline.CaseSensitive(a.provider) {
		a.symbol = a.symbol.Fold()
	}
	if a.direction = Direction(words[1]); a.direction != Above && a.direction != Below {
		return alert{}, fmt.Errorf("%q: %w", text, errAlert)
	}
	if a.threshold, err = positive(words[2]); err != nil {
		return alert{}, fmt.Errorf("%q: %w", text, err)
	}
	a.again = a.threshold
	if len(words) == 5 {
		if a.again, err = positive(words[4]); err != nil {
			return alert{}, fmt.Errorf("%q: %w", text, err)
		}
		if order := a.again.Cmp(a.threshold); order > 0 && a.direction == Above || order < 0 && a.direction == Below {
			return alert{}, fmt.Errorf("%q: again must be on the other side of the threshold", text)
		}
	}
	return a, nil
}

func positive(text string) (schema.Decimal, error) {
	d, err := schema.ParseDecimal(text)
	if err == nil && d.Sign() <= 0 {
		err = fmt.Errorf("%s is not positive", text)
	}
	return d, err
}

// String is the canonical form, by which the alert is known in its table.
func (a alert) String() string {
	text := string(a.symbol)
	if a.provider != "" {
		text = string(a.provider) + "/" + text
	}
	text += " " + string(a.direction) + " " + a.threshold.String()
	if a.again.Cmp(a.threshold) != 0 {
		text += " again " + a.again.String()
	}
	return text
}

func (a alert) watches(p schema.PriceObserved) bool {
	return a.symbol == p.Symbol && (a.provider == "" || a.provider == p.Source)
}

// state is what an alert knows of one symbol at one provider. The zero value has
// seen no price.
type state struct {
	Key    string      `db:"alert_key"`
	Armed  bool        `db:"armed"`
	Newest schema.Time `db:"newest"`
}

// see is the state after a price, and whether the alert fires by it.
func (a alert) see(s state, p schema.PriceObserved) (state, bool) {
	if p.Timestamp.Before(s.Newest.Time) {
		return s, false
	}
	s.Newest = p.Timestamp
	reached, back := p.Price.Cmp(a.threshold), p.Price.Cmp(a.again)
	if a.direction == Below {
		reached, back = -reached, -back
	}
	switch {
	case reached >= 0 && s.Armed:
		s.Armed = false
		return s, true
	case back < 0, back == 0 && reached < 0:
		s.Armed = true
	}
	return s, false
}
