package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/schema"
)

// Adjustments finds the splits and dividends of symbols.
type Adjustments interface {
	// Of returns all adjustments of a symbol, the newest effective time first.
	Of(ctx context.Context, provider schema.Provider, symbol schema.Symbol) ([]adjustments.Adjustment, error)
	// Get returns an error that wraps projections.ErrNotFound where the adjustment is not
	// known, perhaps because it was recorded a moment ago.
	Get(ctx context.Context, id string) (adjustments.Adjustment, error)
	// Factors are what prices of a symbol are multiplied by. Its error may be a
	// *adjustments.FactorError.
	Factors(ctx context.Context, provider schema.Provider, symbol schema.Symbol) (adjustments.Factors, error)
	// WaitCaughtUp returns once all adjustments before the call are known.
	WaitCaughtUp(ctx context.Context) error
}

const adjustmentsPath = "/api/v1/adjustments"

// adjustmentValue is what the document has for the value of an adjustment.
var adjustmentValue = regexp.MustCompile(`^([1-9][0-9]{0,17}(\.[0-9]{1,18})?|0\.([0-9]{0,17}[1-9]|[0-9]{0,9}[1-9][0-9]{0,8}))(:[1-9][0-9]{0,17})?$`)

// HeaderAdjusted says that the prices of an answer are adjusted.
const HeaderAdjusted = "Pricemill-Adjusted"

// adjustmentBody is an adjustment, as GET shows it.
type adjustmentBody struct {
	AdjustmentID string                `json:"adjustment_id"`
	Status       string                `json:"status"` // active or retracted
	Symbol       schema.Symbol         `json:"symbol"`
	Provider     schema.Provider       `json:"provider"`
	EffectiveAt  schema.Time           `json:"effective_at"`
	Kind         schema.AdjustmentKind `json:"kind"`
	Value        string                `json:"value"`
	Currency     string                `json:"currency,omitempty"`
	Reason       string                `json:"reason"`
	SaidAt       schema.Time           `json:"said_at"`
}

func newAdjustmentBody(a adjustments.Adjustment) adjustmentBody {
	status := "active"
	if a.Retracted {
		status = "retracted"
	}
	return adjustmentBody{a.AdjustmentID, status, a.Symbol, a.Provider, a.Terms.EffectiveAt, a.Terms.Kind, a.Terms.ValueText(), a.Terms.Currency, a.Reason, a.SaidAt}
}

// adjustmentAccepted answers commands about an adjustment.
type adjustmentAccepted struct {
	AdjustmentID string `json:"adjustment_id"`
	Status       string `json:"status"` // accepted, or unchanged
}

func (a *API) postAdjustment(w http.ResponseWriter, r *http.Request) error {
	body, err := readAdjustment(r)
	if err != nil {
		return err
	}
	provider, err := a.config.provider(string(body.Source))
	if err != nil {
		return err
	}
	body.Source, body.Symbol = provider, a.config.symbol(provider, body.Symbol)
	body.AdjustmentID = schema.AdjustmentID(provider, body.Symbol, body.AdjustmentTerms)
	body.RecordedAt = schema.NewTime(a.config.Now())
	return a.sayOfAdjustment(w, r, body.AdjustmentID, body, func(known adjustments.Adjustment) bool {
		return !known.Retracted && known.Terms.Currency == body.Currency // which the id does not say
	})
}

// readAdjustment reads the body and reports all of its faults. Its provider is as it was sent.
func readAdjustment(r *http.Request) (schema.AdjustmentRecorded, error) {
	data, err := readBody(r)
	if err != nil {
		return schema.AdjustmentRecorded{}, err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return schema.AdjustmentRecorded{}, err
	}
	body := schema.AdjustmentRecorded{Source: schema.Provider(d.provider()), Symbol: d.symbol(), Reason: d.reason()}
	terms := &body.AdjustmentTerms
	terms.EffectiveAt = d.time("effective_at")
	kind, at, given := d.text("kind")
	terms.Kind = schema.AdjustmentKind(kind)
	known := slices.Contains(schema.AdjustmentKinds, terms.Kind)
	if given && !known {
		d.add(at.notOneOf("'split', 'dividend' or 'factor'"))
	}
	if text, at, given := d.text("value"); given && !adjustmentValue.MatchString(text) {
		d.add(at.mismatch(adjustmentValue.String()))
	} else if given && known {
		if terms.Value, terms.Per, err = schema.ParseAdjustment(terms.Kind, text); err != nil {
			d.add(at.wrong(err.Error()))
		}
	}
	if raw := d.fields["currency"]; string(raw) == `""` { // else it would count as none
		d.add(d.place(raw, "currency").shortString(3))
	}
	terms.Currency = d.optionalText("currency")
	if len(d.faults) == 0 {
		if err := terms.Validate(); err != nil { // the year, or the currency
			d.add(d.place(d.object).wrong(err.Error()))
		}
	}
	return body, d.faults.orNil()
}

func (a *API) postAdjustmentRetraction(w http.ResponseWriter, r *http.Request) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return err
	}
	reason := d.reason()
	if err := d.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.findAdjustment(ctx, mux.Vars(r)["adjustment_id"])
	if err != nil {
		return err
	}
	return a.sayOfAdjustment(w, r, known.AdjustmentID, schema.AdjustmentRetracted{AdjustmentID: known.AdjustmentID, Symbol: known.Symbol, Source: known.Provider,
		Reason: reason, RetractedAt: schema.NewTime(a.config.Now())}, func(known adjustments.Adjustment) bool { return known.Retracted })
}

// sayOfAdjustment writes an event about an adjustment to the log, unless it is so already.
func (a *API) sayOfAdjustment(w http.ResponseWriter, r *http.Request, id string, payload schema.Payload, isSo func(adjustments.Adjustment) bool) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	if err := a.ports.Adjustments.WaitCaughtUp(ctx); err != nil { // what is said depends on what was
		return fmt.Errorf("waiting for adjustment %s: %w", id, err)
	}
	known, err := a.ports.Adjustments.Get(ctx, id)
	if err != nil && !errors.Is(err, projections.ErrNotFound) {
		return fmt.Errorf("reading adjustment %s: %w", id, err)
	}
	if err == nil && isSo(known) {
		a.writeJSON(w, r, http.StatusOK, adjustmentAccepted{id, "unchanged"})
		return nil
	}
	token, err := a.ports.Commands.PublishAs(ctx, schema.AdjustmentEventID(id, known.EventID), payload)
	if err != nil {
		return fmt.Errorf("writing adjustment %s: %w", id, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted, adjustmentAccepted{id, "accepted"})
	return nil
}

func (a *API) getAdjustments(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	symbol := q.symbol()
	if err := q.faults.orNil(); err != nil {
		return err
	}
	name, _ := q.get("provider")
	provider, err := a.config.provider(name)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	symbol = a.config.symbol(provider, symbol)
	all, err := a.ports.Adjustments.Of(ctx, provider, symbol)
	if err != nil {
		return fmt.Errorf("listing the adjustments of %s: %w", symbol, err)
	}
	page := listBody[adjustmentBody]{Items: make([]adjustmentBody, len(all))}
	for i, one := range all {
		page.Items[i] = newAdjustmentBody(one)
	}
	a.writeState(w, r, page)
	return nil
}

func (a *API) getAdjustment(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.findAdjustment(ctx, mux.Vars(r)["adjustment_id"])
	if err != nil {
		return err
	}
	a.writeState(w, r, newAdjustmentBody(known))
	return nil
}

// findAdjustment finds one also where it was recorded a moment ago.
func (a *API) findAdjustment(ctx context.Context, id string) (adjustments.Adjustment, error) {
	none := newError(codeNotFound, "There is no adjustment %q", abbreviate(id))
	if !isText(id) {
		return adjustments.Adjustment{}, none
	}
	for caughtUp := false; ; caughtUp = true {
		known, err := a.ports.Adjustments.Get(ctx, id)
		switch {
		case err == nil:
			return known, nil
		case !errors.Is(err, projections.ErrNotFound):
			return known, fmt.Errorf("reading adjustment %s: %w", id, err)
		case caughtUp:
			return known, none
		}
		if err := a.ports.Adjustments.WaitCaughtUp(ctx); err != nil {
			return known, fmt.Errorf("waiting for adjustment %s: %w", id, err)
		}
	}
}

// adjusted reads the parameter of that name.
func (q *query) adjusted() bool {
	yes := q.choice("adjusted", "true", "false")
	if _, given := q.get("as_of_log"); given && yes {
		q.faults = append(q.faults, inQuery("adjusted", "true").wrong("what was known of adjustments at a place in price-events cannot be said: ask without as_of_log"))
	}
	return yes
}

// factors are those of a symbol. The answer is marked as adjusted.
func (a *API) factors(ctx context.Context, w http.ResponseWriter, provider schema.Provider, symbol schema.Symbol) (adjustments.Factors, error) {
	f, err := a.ports.Adjustments.Factors(ctx, provider, symbol)
	var refused *adjustments.FactorError
	switch {
	case errors.As(err, &refused):
		return f, newError(codeConflict, "%s", sentence(refused.Reason))
	case err != nil:
		return f, fmt.Errorf("reading the adjustments of %s at %s: %w", symbol, provider, err)
	}
	w.Header().Set(HeaderAdjusted, "true")
	return f, nil
}

// adjustCandles adjusts the values of candles. One that has old prices and new ones cannot be.
func adjustCandles(points []projections.Point, interval string, f adjustments.Factors) error {
	for _, p := range points {
		begin := p.Timestamp
		if at, found := f.Within(begin, candles.EndOf(begin, interval)); found {
			return newError(codeConflict, "The candle of %s of %s has prices from before and after the adjustment of %s: ask for a shorter interval",
				interval, begin.Text(), at.Text())
		}
		for i, value := range p.Values[:candles.VolumeColumn] {
			p.Values[i] = f.Price(value.(schema.Decimal), begin)
		}
		if volume, known := p.Values[candles.VolumeColumn].(schema.Decimal); known {
			p.Values[candles.VolumeColumn] = f.Size(volume, begin)
		}
	}
	return nil
}
