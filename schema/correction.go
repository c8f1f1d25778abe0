package schema

import (
	"errors"
	"slices"
)

// Correction is what all events say that correct or retract a fact: the event of a
// price or of a bar. The fact is the one with this id, symbol, provider and event time;
// where one of the four is another, the correction changes nothing.
//
// A correction may come before its fact. Of several corrections of one fact the
// last in the log counts, so one after a retraction brings the price back.
type Correction struct {
	// FactID is the id of the event of the fact.
	FactID string `json:"fact_id"`
	Symbol Symbol `json:"symbol"`
	// Timestamp is the event time of the fact.
	Timestamp Time `json:"timestamp"`
	// Source is the provider of the fact.
	Source Provider `json:"source"`
	// Reason says why, for people.
	Reason string `json:"reason"`
}

// Key is provider/symbol, as that of the fact: both are on one partition.
func (c Correction) Key() string { return MarketKey(c.Source, c.Symbol) }

func (c Correction) validate() error {
	return errors.Join(requiredID("fact_id", c.FactID), c.Source.Validate(), c.Symbol.Validate(),
		requiredTime("timestamp", c.Timestamp), required("reason", c.Reason), validReason(c.Reason))
}

// PriceCorrected says that a price is another one than was observed.
type PriceCorrected struct {
	Correction
	// Price is the right one. Of a bar it is the close; its high and low are widened where
	// they exclude it.
	Price Decimal `json:"price" schema:"needed"`
	// Size is the right size of a trade; zero where that stays as it is. A price that
	// says no size is no trade, and stays without.
	Size Decimal `json:"size,omitzero"`
	// CorrectedAt is our clock when the correction was made.
	CorrectedAt Time `json:"corrected_at"`
}

// EventType implements Payload.
func (PriceCorrected) EventType() EventType { return "market.price.corrected.v1" }

// Topic implements Payload.
func (PriceCorrected) Topic() Topic { return PriceEvents }

// OccurredAt implements Payload.
func (p PriceCorrected) OccurredAt() Time { return p.CorrectedAt }

// Validate implements Payload.
func (p PriceCorrected) Validate() error {
	return errors.Join(p.validate(), validPrice(p.Price), validSize(p.Size), requiredTime("corrected_at", p.CorrectedAt))
}

// PriceRetracted says that a price was never one.
type PriceRetracted struct {
	Correction
	// RetractedAt is our clock when the price was retracted.
	RetractedAt Time `json:"retracted_at"`
}

// EventType implements Payload.
func (PriceRetracted) EventType() EventType { return "market.price.retracted.v1" }

// Topic implements Payload.
func (PriceRetracted) Topic() Topic { return PriceEvents }

// OccurredAt implements Payload.
func (p PriceRetracted) OccurredAt() Time { return p.RetractedAt }

// Validate implements Payload.
func (p PriceRetracted) Validate() error {
	return errors.Join(p.validate(), requiredTime("retracted_at", p.RetractedAt))
}

// CorrectionID is the id of the event of a correction that follows from what it says and
// from the correction of its fact before, which is empty for none: so the same correction
// sent twice is one event, and one that comes back to an earlier price is another. price
// is nil to retract.
func CorrectionID(factID, before string, price *Decimal, size Decimal) string {
	if price == nil {
		return DeriveID("retraction", factID, before)
	}
	return DeriveID("correction", factID, before, price.String(), size.String())
}

// FactTypes are the types of the events that prices follow from: PriceTypes, and those
// that CorrectionOf takes.
func FactTypes() []EventType {
	return slices.Concat(PriceTypes(), []EventType{PriceCorrected{}.EventType(), PriceRetracted{}.EventType()})
}

// CorrectionOf is what an event says about a fact; false for an event that corrects none.
func CorrectionOf(p Payload) (c Correction, ok bool) {
	switch p := p.(type) {
	case PriceCorrected:
		return p.Correction, true
	case PriceRetracted:
		return p.Correction, true
	}
	return Correction{}, false
}
