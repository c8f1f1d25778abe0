package schema

import (
	"errors"
	"fmt"
	"strings"
)

// AdjustmentKind is why the prices before a time are not comparable with those after it.
type AdjustmentKind string

// The kinds of adjustments.
const (
	// SplitAdjustment has Value new shares for Per old ones.
	SplitAdjustment AdjustmentKind = "split"
	// DividendAdjustment pays Value per share.
	DividendAdjustment AdjustmentKind = "dividend"
	// FactorAdjustment multiplies the prices before it by Value.
	FactorAdjustment AdjustmentKind = "factor"
)

// AdjustmentKinds are all kinds.
var AdjustmentKinds = []AdjustmentKind{SplitAdjustment, DividendAdjustment, FactorAdjustment}

// AdjustmentTerms say how the prices of a symbol before a time are made comparable with those
// from it on.
type AdjustmentTerms struct {
	// EffectiveAt is the first instant of the new prices, such as the beginning of the ex-date.
	EffectiveAt Time           `json:"effective_at"`
	Kind        AdjustmentKind `json:"kind"`
	Value       Decimal        `json:"value" schema:"needed"`
	// Per is of a split; zero is one.
	Per Decimal `json:"per,omitzero"`
	// Currency is of a dividend, for people: it has to be that of the prices.
	Currency string `json:"currency,omitempty"`
}

// Validate reports what is wrong with the terms.
func (a AdjustmentTerms) Validate() error {
	errs := []error{requiredTime("effective_at", a.EffectiveAt)}
	if a.Value.Sign() <= 0 || a.Value.Cmp(priceLimit) >= 0 {
		errs = append(errs, fmt.Errorf("value: %s is not above 0, or has more than %d digits before the point", a.Value, MaxIntegerDigits))
	}
	if a.Per.Sign() < 0 || a.Per.Cmp(priceLimit) >= 0 {
		errs = append(errs, fmt.Errorf("per: %s is not above 0, or has more than %d digits before the point", a.Per, MaxIntegerDigits))
	}
	switch a.Kind {
	case SplitAdjustment, DividendAdjustment, FactorAdjustment:
	default:
		errs = append(errs, fmt.Errorf("kind: %q is not split, dividend or factor", a.Kind))
	}
	if !a.Per.IsZero() && a.Kind != SplitAdjustment {
		errs = append(errs, errors.New("per: is of a split"))
	}
	if a.Currency != "" && (a.Kind != DividendAdjustment || !currencyPattern.MatchString(a.Currency)) {
		errs = append(errs, fmt.Errorf("currency: %q is not 3 to 10 letters and digits, such as USD, of a dividend", a.Currency))
	}
	return errors.Join(errs...)
}

// ParseAdjustment reads the value of an adjustment as people write it: NEW:OLD of a split, such
// as 4:1, and else a decimal.
func ParseAdjustment(kind AdjustmentKind, text string) (value, per Decimal, err error) {
	of, rest, ratio := strings.Cut(text, ":")
	if ratio && kind == SplitAdjustment {
		if per, err = ParseDecimal(rest); err == nil && per.Sign() <= 0 {
			err = fmt.Errorf("%s is not above 0", per)
		}
	}
	if err == nil {
		if kind != SplitAdjustment {
			of = text
		}
		if value, err = ParseDecimal(of); err == nil && value.Sign() <= 0 {
			err = fmt.Errorf("%s is not above 0", value)
		}
	}
	if err != nil {
		return Decimal{}, Decimal{}, fmt.Errorf("reading the value of a %s: %w", kind, err)
	}
	return value, per, nil
}

// ValueText is what ParseAdjustment reads.
func (a AdjustmentTerms) ValueText() string {
	if a.Kind != SplitAdjustment {
		return a.Value.String()
	}
	per := "1"
	if !a.Per.IsZero() {
		per = a.Per.String()
	}
	return a.Value.String() + ":" + per
}

// AdjustmentID is the id of the adjustment of a symbol by these terms.
func AdjustmentID(provider Provider, symbol Symbol, a AdjustmentTerms) string {
	return DeriveID("adjustment", string(provider), string(symbol), a.EffectiveAt.Text(), string(a.Kind), a.ValueText())
}

// AdjustmentEventID is the id of the event that records an adjustment, or retracts it, after the
// event that was the last about it, which is empty for none: so the same command sent twice is
// one event.
func AdjustmentEventID(adjustmentID, before string) string {
	return DeriveID("adjustment event", adjustmentID, before)
}

// AdjustmentRecorded says that prices before a time are to be adjusted where a query asks for
// that. No price is changed.
type AdjustmentRecorded struct {
	AdjustmentID string   `json:"adjustment_id"`
	Symbol       Symbol   `json:"symbol"`
	Source       Provider `json:"source"`
	AdjustmentTerms
	// Reason says why, for people.
	Reason string `json:"reason"`
	// RecordedAt is our clock when it was recorded.
	RecordedAt Time `json:"recorded_at"`
}

// EventType implements Payload.
func (AdjustmentRecorded) EventType() EventType { return "market.adjustment.recorded.v1" }

// Topic implements Payload.
func (AdjustmentRecorded) Topic() Topic { return PollingJobs }

// Key is provider/symbol: all adjustments of a symbol are on one partition.
func (a AdjustmentRecorded) Key() string { return MarketKey(a.Source, a.Symbol) }

// OccurredAt implements Payload.
func (a AdjustmentRecorded) OccurredAt() Time { return a.RecordedAt }

// Validate implements Payload.
func (a AdjustmentRecorded) Validate() error {
	return errors.Join(requiredID("adjustment_id", a.AdjustmentID), a.Symbol.Validate(), a.Source.Validate(), a.AdjustmentTerms.Validate(),
		required("reason", a.Reason), validReason(a.Reason), requiredTime("recorded_at", a.RecordedAt))
}

// AdjustmentRetracted says that an adjustment does not count any more.
type AdjustmentRetracted struct {
	AdjustmentID string   `json:"adjustment_id"`
	Symbol       Symbol   `json:"symbol"`
	Source       Provider `json:"source"`
	Reason       string   `json:"reason"`
	RetractedAt  Time     `json:"retracted_at"`
}

// EventType implements Payload.
func (AdjustmentRetracted) EventType() EventType { return "market.adjustment.retracted.v1" }

// Topic implements Payload.
func (AdjustmentRetracted) Topic() Topic { return PollingJobs }

// Key is that of AdjustmentRecorded.
func (a AdjustmentRetracted) Key() string { return MarketKey(a.Source, a.Symbol) }

// OccurredAt implements Payload.
func (a AdjustmentRetracted) OccurredAt() Time { return a.RetractedAt }

// Validate implements Payload.
func (a AdjustmentRetracted) Validate() error {
	return errors.Join(requiredID("adjustment_id", a.AdjustmentID), a.Symbol.Validate(), a.Source.Validate(),
		required("reason", a.Reason), validReason(a.Reason), requiredTime("retracted_at", a.RetractedAt))
}

func init() {
	Register[AdjustmentRecorded]()
	Register[AdjustmentRetracted]()
}
