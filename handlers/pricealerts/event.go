package pricealerts

import (
	_ "embed"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// Topic is where alerts are published.
const Topic schema.Topic = "price-alerts"

func init() { schema.Register[PriceAlerted]() }

// PriceAlerted says that a price crossed the threshold of an alert.
type PriceAlerted struct {
	// Alert is the alert as it is configured, in its canonical form.
	Alert     string          `json:"alert"`
	Symbol    schema.Symbol   `json:"symbol"`
	Source    schema.Provider `json:"source"`
	Direction Direction       `json:"direction"`
	Threshold schema.Decimal  `json:"threshold"`
	// Price is the one that crossed it.
	Price schema.Decimal `json:"price"`
	// Timestamp is the event time of the price: the provider's clock.
	Timestamp  schema.Time `json:"timestamp"`
	ReceivedAt schema.Time `json:"received_at"`
}

// EventType implements schema.Payload.
func (PriceAlerted) EventType() schema.EventType { return "market.price.alerted.v1" }

// Topic implements schema.Payload.
func (PriceAlerted) Topic() schema.Topic { return Topic }

// Key is provider/symbol.
func (p PriceAlerted) Key() string { return schema.MarketKey(p.Source, p.Symbol) }

// OccurredAt implements schema.Payload.
func (p PriceAlerted) OccurredAt() schema.Time { return p.Timestamp }

// Validate implements schema.Payload.
func (p PriceAlerted) Validate() error {
	var errs []error
	if p.Alert == "" {
		errs = append(errs, errors.New("alert: required"))
	}
	if p.Direction != Above && p.Direction != Below {
		errs = append(errs, fmt.Errorf("direction: %q is neither above nor below", p.Direction))
	}
	if p.Threshold.Sign() <= 0 {
		errs = append(errs, errors.New("threshold: not positive"))
	}
	return errors.Join(append(errs, p.Source.Validate(), p.Symbol.Validate(), p.Timestamp.Validate(), p.ReceivedAt.Validate())...)
}

//go:embed market.price.alerted.v1.json
var jsonSchema []byte

// JSONSchema implements schema.Described.
func (PriceAlerted) JSONSchema() []byte { return jsonSchema }
