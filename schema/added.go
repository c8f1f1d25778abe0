package schema

import "errors"

// PriceAdded says that an answer, read again by a renormalization, holds a price or a bar
// that it was not read as holding before. It counts for those read models alone that take
// the renormalization; to all others it is nothing.
type PriceAdded struct {
	RenormalizationID string `json:"renormalization_id"`
	// Price or Bar is what the answer holds. The other is nil.
	Price *PriceObserved `json:"price,omitempty"`
	Bar   *BarObserved   `json:"bar,omitempty"`
}

// Fact is the price or the bar; nil for an event that has neither.
func (p PriceAdded) Fact() Payload {
	switch {
	case p.Price != nil:
		return *p.Price
	case p.Bar != nil:
		return *p.Bar
	}
	return nil
}

// EventType implements Payload.
func (PriceAdded) EventType() EventType { return "market.price.added.v1" }

// Topic implements Payload.
func (PriceAdded) Topic() Topic { return PriceEvents }

// Key is that of the price: provider/symbol.
func (p PriceAdded) Key() string {
	if fact := p.Fact(); fact != nil {
		return fact.Key()
	}
	return ""
}

// OccurredAt implements Payload.
func (p PriceAdded) OccurredAt() Time {
	if fact := p.Fact(); fact != nil {
		return fact.OccurredAt()
	}
	return Time{}
}

// Validate implements Payload.
func (p PriceAdded) Validate() error {
	fact := p.Fact()
	if fact == nil || p.Price != nil && p.Bar != nil {
		return errors.Join(requiredID("renormalization_id", p.RenormalizationID), errors.New("price, bar: one of them is needed"))
	}
	return errors.Join(requiredID("renormalization_id", p.RenormalizationID), fact.Validate())
}
