package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// Corrections finds prices that may be corrected, and what was said of them.
type Corrections interface {
	// Facts returns the prices of some moments, the retracted ones too.
	Facts(ctx context.Context, moments []processedprices.Moment) (map[processedprices.Moment][]processedprices.Fact, error)
	// Corrections returns at most q.Limit corrections, the last in the log first.
	Corrections(ctx context.Context, q processedprices.CorrectionQuery) ([]processedprices.Correction, error)
	// Correction returns an error that wraps projections.ErrNotFound where the correction is
	// not known, perhaps because it was made a moment ago.
	Correction(ctx context.Context, id string) (processedprices.Correction, error)
	// WaitCaughtUp returns once all prices and corrections before the call are known.
	WaitCaughtUp(ctx context.Context) error
}

const correctionsPath = "/api/v1/corrections"

// correctionBody is a correction, as GET shows it. Price is null where the price was
// retracted, observed_price where it has not come.
type correctionBody struct {
	CorrectionID  string                           `json:"correction_id"`
	Status        processedprices.CorrectionStatus `json:"status"`
	FactID        string                           `json:"fact_id"`
	Symbol        schema.Symbol                    `json:"symbol"`
	Provider      schema.Provider                  `json:"provider"`
	Timestamp     schema.Time                      `json:"timestamp"`
	Price         *schema.Decimal                  `json:"price"`
	Size          *schema.Decimal                  `json:"size"`
	ObservedPrice *schema.Decimal                  `json:"observed_price"`
	Reason        string                           `json:"reason"`
	CorrectedAt   schema.Time                      `json:"corrected_at"`
}

func newCorrectionBody(c processedprices.Correction) correctionBody {
	return correctionBody{c.CorrectionID, c.Status, c.FactID, c.Symbol, c.Provider, c.Timestamp, c.Price, c.Size, c.Observed, c.Reason, c.CorrectedAt}
}

// correctionAccepted answers a correction.
type correctionAccepted struct {
	// CorrectionID is nil where the price is as it should be, and came like that.
	CorrectionID *string `json:"correction_id"`
	Status       string  `json:"status"`
	FactID       string  `json:"fact_id"`
}

// correctionRequest is a valid body.
type correctionRequest struct {
	provider  string
	symbol    schema.Symbol
	timestamp schema.Time
	factID    string
	price     *schema.Decimal // nil to retract
	size      schema.Decimal
	reason    string
}

func (a *API) postCorrection(w http.ResponseWriter, r *http.Request) error {
	return a.correct(w, r, false)
}

func (a *API) postRetraction(w http.ResponseWriter, r *http.Request) error {
	return a.correct(w, r, true)
}

// correct writes a correction of a price to the log. What the read model says of the price
// may be some milliseconds old; the order of the log decides.
func (a *API) correct(w http.ResponseWriter, r *http.Request, retract bool) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	body, err := readCorrection(r, retract)
	if err != nil {
		return err
	}
	provider, err := a.config.provider(body.provider)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	moment := processedprices.Moment{Provider: provider, Symbol: a.config.symbol(provider, body.symbol), Timestamp: body.timestamp}
	fact, err := a.findFact(ctx, moment, body.factID)
	if err != nil {
		return err
	}
	id := schema.CorrectionID(fact.FactID, fact.CorrectionID, body.price, body.size)
	if key != "" {
		id = schema.DeriveID("api", "correction", key)
		known, err := a.ports.Corrections.Correction(ctx, id)
		if err == nil {
			return a.answerAgain(w, r, known, fact, body, key)
		}
		if !errors.Is(err, projections.ErrNotFound) {
			return fmt.Errorf("reading correction %s: %w", id, err)
		}
	}
	same := func() bool { return samePrice(fact.Price, body.price) && body.size.IsZero() }
	if same() { // unless another correction is on its way
		if err := a.ports.Corrections.WaitCaughtUp(ctx); err != nil {
			return fmt.Errorf("waiting for the prices of %s: %w", moment.Symbol, err)
		}
		if fact, err = a.findFact(ctx, moment, body.factID); err != nil {
			return err
		}
		if key == "" {
			id = schema.CorrectionID(fact.FactID, fact.CorrectionID, body.price, body.size)
		}
	}
	if same() {
		answer := correctionAccepted{Status: "unchanged", FactID: fact.FactID}
		if fact.CorrectionID != "" {
			answer.CorrectionID = &fact.CorrectionID
		}
		a.writeJSON(w, r, http.StatusOK, answer)
		return nil
	}
	payload := body.payload(fact, schema.NewTime(a.config.Now()))
	token, err := a.ports.Commands.PublishAs(ctx, id, payload)
	if err != nil {
		return fmt.Errorf("correcting a price of %s: %w", moment.Symbol, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted, correctionAccepted{&id, "accepted", fact.FactID})
	return nil
}

// answerAgain answers a key that was used before.
func (a *API) answerAgain(w http.ResponseWriter, r *http.Request, known processedprices.Correction, fact processedprices.Fact, body correctionRequest, key string) error {
	size := schema.Decimal{}
	if known.Size != nil {
		size = *known.Size
	}
	if known.FactID != fact.FactID || !samePrice(known.Price, body.price) || size.Cmp(body.size) != 0 {
		return faults{inHeader("idempotency-key", key).wrong("the key was used with another body")}
	}
	a.writeJSON(w, r, http.StatusAccepted, correctionAccepted{&known.CorrectionID, "accepted", known.FactID})
	return nil
}

func samePrice(a, b *schema.Decimal) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Cmp(*b) == 0
}

// payload is the event.
func (c correctionRequest) payload(fact processedprices.Fact, now schema.Time) schema.Payload {
	about := schema.Correction{FactID: fact.FactID, Symbol: fact.Symbol, Timestamp: fact.Timestamp, Source: fact.Provider, Reason: c.reason}
	if c.price == nil {
		return schema.PriceRetracted{Correction: about, RetractedAt: now}
	}
	return schema.PriceCorrected{Correction: about, Price: *c.price, Size: c.size, CorrectedAt: now}
}

// findFact finds the price that a client names. One that came a moment ago may be on its
// way through the log: that there is none is said only by a read model that has caught up.
func (a *API) findFact(ctx context.Context, m processedprices.Moment, id string) (processedprices.Fact, error) {
	for caughtUp := false; ; caughtUp = true {
		facts, err := a.ports.Corrections.Facts(ctx, []processedprices.Moment{m})
		if err != nil {
			return processedprices.Fact{}, fmt.Errorf("looking for a price of %s: %w", m.Symbol, err)
		}
		fact, err := processedprices.Sole(m, facts[m], id)
		switch {
		case err == nil:
			return fact, nil
		case errors.Is(err, processedprices.ErrAmbiguous):
			return fact, newError(codeConflict, "%s", sentence(err.Error()))
		case caughtUp:
			return fact, newError(codeNotFound, "%s", sentence(strings.TrimSuffix(err.Error(), ": "+projections.ErrNotFound.Error())))
		}
		if err := a.ports.Corrections.WaitCaughtUp(ctx); err != nil {
			return fact, fmt.Errorf("waiting for the prices of %s: %w", m.Symbol, err)
		}
	}
}

func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// readCorrection reads the body and reports all of its faults.
func readCorrection(r *http.Request, retract bool) (correctionRequest, error) {
	data, err := readBody(r)
	if err != nil {
		return correctionRequest{}, err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return correctionRequest{}, err
	}
	c := correctionRequest{provider: d.provider(), symbol: d.symbol(), timestamp: d.time("timestamp"), factID: d.optionalID("fact_id"), reason: d.reason()}
	if !retract {
		if price, given := d.decimal("price", true); given {
			c.price = &price
		}
		if size, given := d.decimal("size", false); given {
			if size.Sign() <= 0 {
				d.add(d.place(d.fields["size"], "size").wrong("a size is above 0"))
			}
			c.size = size
		}
	}
	return c, d.faults.orNil()
}

func (d *bodyDecoder) text(name string) (text string, at place, ok bool) {
	raw, at, given := d.field(name)
	if !given {
		return "", at, false
	}
	if text, ok = readString(raw); !ok {
		d.add(at.notString())
	}
	at.input = text
	return text, at, ok
}

func (d *bodyDecoder) symbol() schema.Symbol {
	text, at, ok := d.text("symbol")
	if !ok {
		return ""
	}
	symbol, f := readSymbol(text, at)
	if f != nil {
		d.add(*f)
	}
	return symbol
}

func (d *bodyDecoder) time(name string) schema.Time {
	text, at, ok := d.text(name)
	if !ok {
		return schema.Time{}
	}
	t, err := schema.ParseTime(text)
	switch {
	case err != nil:
		d.add(at.notTime("not RFC 3339, such as 2025-06-15T14:30:00Z"))
	case t.Year() < 1 || t.Year() > 9999: // an offset may lead out of it
		d.add(at.notTime("year is out of range"))
	}
	return t
}

// reason is text that the log and each database keep.
func (d *bodyDecoder) reason() string {
	text, at, ok := d.text("reason")
	switch {
	case !ok:
	case strings.TrimSpace(text) == "":
		d.add(at.shortString(1))
	case len(text) > schema.MaxReason:
		d.add(at.wrong("more than " + strconv.Itoa(schema.MaxReason) + " bytes"))
	case strings.Contains(text, "\x00"):
		d.add(at.wrong("a NUL is not allowed"))
	}
	return text
}

func (d *bodyDecoder) optionalID(name string) string {
	raw, given := d.fields[name]
	if !given || string(raw) == "null" {
		return ""
	}
	text, isString := readString(raw)
	switch at := d.place(raw, name); {
	case !isString:
		d.add(at.notString())
	case strings.TrimSpace(text) == "":
		d.add(at.shortString(1))
	case utf8.RuneCountInString(text) > schema.MaxID:
		d.add(at.longString(schema.MaxID))
	}
	return text
}

// decimal reads a number, or the text of one, exactly.
func (d *bodyDecoder) decimal(name string, required bool) (value schema.Decimal, given bool) {
	raw, given := d.fields[name]
	switch {
	case required && !given:
		d.field(name)
		return value, false
	case !required && (!given || string(raw) == "null"):
		return value, false
	}
	text, isString := readString(raw)
	if !isString {
		text = string(raw)
	}
	value, err := schema.ParseDecimal(text)
	if err != nil {
		d.add(d.place(raw, name).wrong("not a decimal of at most 18 digits before and 18 after the point"))
		return value, false
	}
	return value, true
}

func (a *API) getCorrections(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	symbol := q.symbol()
	limit := q.limit()
	name, _ := q.get("provider")
	provider, err := a.config.provider(name)
	asked := processedprices.CorrectionQuery{Provider: provider, Limit: limit + 1}
	var list listing
	if err == nil {
		asked.Symbol = a.config.symbol(provider, symbol)
		list = listing{r.URL.Path, string(provider), string(asked.Symbol)}
		if place := q.cursor(list, 1, 1); place != nil {
			id, idErr := strconv.ParseInt(place[0], 10, 64)
			if idErr != nil || id <= 0 {
				text, _ := q.get("cursor")
				q.faults = append(q.faults, inQuery("cursor", text).notCursor())
			}
			asked.Behind = id
		}
	}
	if faults := q.faults.orNil(); faults != nil {
		return faults
	}
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := a.ports.Corrections.Corrections(ctx, asked)
	if err != nil {
		return fmt.Errorf("listing the corrections of %s: %w", asked.Symbol, err)
	}
	page := newPage(found, limit, newCorrectionBody, func(c processedprices.Correction) string { return list.cursor(strconv.FormatInt(c.ID, 10)) })
	linkNext(w, r, page.NextCursor)
	a.writeState(w, r, page)
	return nil
}

func (a *API) getCorrection(w http.ResponseWriter, r *http.Request) error {
	id := mux.Vars(r)["correction_id"]
	none := newError(codeNotFound, "There is no correction %q", abbreviate(id))
	if !isText(id) {
		return none
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := a.ports.Corrections.Correction(ctx, id)
	if errors.Is(err, projections.ErrNotFound) {
		if err := a.ports.Corrections.WaitCaughtUp(ctx); err != nil {
			return fmt.Errorf("waiting for correction %s: %w", id, err)
		}
		found, err = a.ports.Corrections.Correction(ctx, id)
	}
	switch {
	case errors.Is(err, projections.ErrNotFound):
		return none
	case err != nil:
		return fmt.Errorf("reading correction %s: %w", id, err)
	}
	a.writeState(w, r, newCorrectionBody(found))
	return nil
}
