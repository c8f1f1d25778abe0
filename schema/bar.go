package schema

import (
	"errors"
	"fmt"
)

// Bar is what a provider says about the prices of a span of time.
type Bar struct {
	// OpenTime is when the span begins. It ends with the event's Timestamp, which
	// belongs to it: the last microsecond before the next bar, or as the provider
	// says.
	OpenTime Time    `json:"open_time"`
	Open     Decimal `json:"open" schema:"needed"`
	High     Decimal `json:"high" schema:"needed"`
	Low      Decimal `json:"low" schema:"needed"`
	Close    Decimal `json:"close" schema:"needed"`
	// Volume is how much was traded in the span, in the unit in which the provider
	// counts the instrument; nil where it does not say.
	Volume *Decimal `json:"volume,omitempty"`
	// AdjustedClose is the close after later dividends and splits; nil where the
	// provider gives none.
	AdjustedClose *Decimal `json:"adjusted_close,omitempty"`
}

func (b Bar) validate() error {
	errs := []error{requiredTime("open_time", b.OpenTime)}
	for _, field := range []struct {
		name  string
		value *Decimal
	}{{"open", &b.Open}, {"high", &b.High}, {"low", &b.Low}, {"close", &b.Close}, {"adjusted_close", b.AdjustedClose}} {
		if field.value == nil {
			continue
		}
		if err := validPrice(*field.value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field.name, err))
		}
	}
	if b.High.Cmp(b.Low) < 0 {
		errs = append(errs, fmt.Errorf("high: %s is below the low %s", b.High, b.Low))
	}
	if b.Volume != nil {
		if err := validSize(*b.Volume); err != nil {
			errs = append(errs, fmt.Errorf("volume: %w", err))
		}
	}
	return errors.Join(errs...)
}

// BarObserved is a bar that was read from a provider's answer. It is no trade. What
// runs on prices runs on its close; see PriceOf.
type BarObserved struct {
	Symbol Symbol `json:"symbol"`
	// Price is the close.
	Price Decimal `json:"price" schema:"needed"`
	Bar
	// Timestamp is the end of the span: when the close was the price, by the
	// provider's clock.
	Timestamp Time `json:"timestamp"`
	// Source is the provider.
	Source        Provider `json:"source"`
	RawResponseID string   `json:"raw_response_id,omitempty"`
	// ReceivedAt is our clock when the answer was complete.
	ReceivedAt Time   `json:"received_at"`
	RequestID  string `json:"request_id,omitempty"`
}

// EventType implements Payload.
func (BarObserved) EventType() EventType { return "market.bar.observed.v1" }

// Topic implements Payload.
func (BarObserved) Topic() Topic { return PriceEvents }

// Key is provider/symbol.
func (b BarObserved) Key() string { return MarketKey(b.Source, b.Symbol) }

// OccurredAt implements Payload.
func (b BarObserved) OccurredAt() Time { return b.Timestamp }

// Validate implements Payload.
func (b BarObserved) Validate() error {
	var price, span error
	if b.Price.Cmp(b.Close) != 0 {
		price = fmt.Errorf("price: %s is not the close %s", b.Price, b.Close)
	}
	if !b.OpenTime.Before(b.Timestamp.Time) {
		span = fmt.Errorf("open_time: %s is not before the timestamp %s", b.OpenTime, b.Timestamp)
	}
	return errors.Join(b.closePrice().Validate(), b.Bar.validate(), price, span)
}

// closePrice is the close as a price, without a size: a bar is no trade.
func (b BarObserved) closePrice() PriceObserved {
	return PriceObserved{Symbol: b.Symbol, Price: b.Price, Timestamp: b.Timestamp, Source: b.Source,
		RawResponseID: b.RawResponseID, ReceivedAt: b.ReceivedAt, RequestID: b.RequestID}
}

// PriceTypes are the types of the events that PriceOf takes.
func PriceTypes() []EventType {
	return []EventType{PriceObserved{}.EventType(), BarObserved{}.EventType()}
}

// PriceOf is the price that an event tells, which of a bar is its close; false for an
// event that tells none.
func PriceOf(p Payload) (price PriceObserved, ok bool) {
	switch p := p.(type) {
	case PriceObserved:
		return p, true
	case BarObserved:
		return p.closePrice(), true
	}
	return PriceObserved{}, false
}
