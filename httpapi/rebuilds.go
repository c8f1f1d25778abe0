package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema/names"
)

// Rebuilds builds projections again from the log. Its errors wrap those of package
// projections: ErrNotFound, ErrRebuilding, ErrRebuildState, ErrBehind, ErrServes.
type Rebuilds interface {
	// Projections are the names of those that there are.
	Projections() []string
	// Start orders a rebuild.
	Start(ctx context.Context, projection string, order projections.Order) (projections.Rebuild, error)
	// Get finds a rebuild.
	Get(ctx context.Context, id string) (projections.Rebuild, error)
	// List returns at most limit rebuilds, the last ordered first.
	List(ctx context.Context, limit int) ([]projections.Rebuild, error)
	// Cancel ends a rebuild, and drops its tables.
	Cancel(ctx context.Context, id string) (projections.Rebuild, error)
	// Promote has what it built serve; stale allows it to be after what serves.
	Promote(ctx context.Context, id string, stale bool) (projections.Rebuild, error)
	// RollBack has that serve again which it took the place of.
	RollBack(ctx context.Context, id string, stale bool) (projections.Rebuild, error)
}

// MaxRateLimit bounds the rate of a rebuild, in records a second.
const MaxRateLimit = 10_000_000

// maxProjection bounds the name of a projection in a body.
const maxProjection = 100

// postRebuild orders a rebuild.
func (a *API) postRebuild(w http.ResponseWriter, r *http.Request) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return err
	}
	projection := d.projection()
	order := projections.Order{Promote: d.promotion(), SkipPoison: d.boolean("skip_poison"), RateLimit: d.rateLimit()}
	if err := d.faults.orNil(); err != nil {
		return err
	}
	if known := a.ports.Rebuilds.Projections(); !slices.Contains(known, projection) {
		return newError(codeNotFound, "Unknown projection %q; %s", abbreviate(projection), names.Hint(projection, known))
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	rebuild, err := a.ports.Rebuilds.Start(ctx, projection, order)
	if err != nil {
		return fmt.Errorf("starting a rebuild of %s: %w", projection, err)
	}
	a.writeJSON(w, r, http.StatusAccepted, rebuild)
	return nil
}

func (d *bodyDecoder) projection() string {
	raw, at, given := d.field("projection")
	if !given {
		return ""
	}
	text, isString := readString(raw)
	switch {
	case !isString:
		d.add(at.notString())
	case len([]rune(text)) > maxProjection:
		d.add(at.longString(maxProjection))
	}
	return text
}

func (d *bodyDecoder) promotion() projections.Promotion {
	raw, given := d.fields["promote"]
	if !given {
		return projections.PromoteManual
	}
	text, _ := readString(raw)
	if !slices.Contains(projections.Promotions, projections.Promotion(text)) {
		d.add(d.place(raw, "promote").notOneOf("'manual', 'if-equal' or 'auto'"))
	}
	return projections.Promotion(text)
}

func (d *bodyDecoder) boolean(name string) bool {
	raw, given := d.fields[name]
	if given && string(raw) != "true" && string(raw) != "false" {
		d.add(d.place(raw, name).notBool())
	}
	return string(raw) == "true"
}

func (d *bodyDecoder) rateLimit() int {
	raw, given := d.fields["rate_limit"]
	if !given {
		return 0
	}
	at := d.place(raw, "rate_limit")
	if raw[0] == 't' || raw[0] == 'f' { // numbers only in bodies that the original took
		d.add(at.notInt())
		return 0
	}
	value, f := readInt(raw, at)
	if f == nil {
		f = checkBounds(value, 0, MaxRateLimit, at)
	}
	if f != nil {
		d.add(*f)
	}
	return int(value)
}

// Bounds of the parameter limit of GET rebuilds.
const (
	defaultRebuilds = 20
	maxRebuilds     = 100
)

func (a *API) getRebuilds(w http.ResponseWriter, r *http.Request) error {
	return answerLast(a, w, r, "rebuilds", defaultRebuilds, maxRebuilds, a.ports.Rebuilds.List)
}

func (a *API) getRebuild(w http.ResponseWriter, r *http.Request) error {
	return a.answerRebuild(w, r, "reading", a.ports.Rebuilds.Get)
}

func (a *API) deleteRebuild(w http.ResponseWriter, r *http.Request) error {
	return a.answerRebuild(w, r, "cancelling", a.ports.Rebuilds.Cancel)
}

func (a *API) promoteRebuild(w http.ResponseWriter, r *http.Request) error {
	return a.swapRebuild(w, r, "promoting", a.ports.Rebuilds.Promote)
}

func (a *API) rollBackRebuild(w http.ResponseWriter, r *http.Request) error {
	return a.swapRebuild(w, r, "rolling back", a.ports.Rebuilds.RollBack)
}

func (a *API) swapRebuild(w http.ResponseWriter, r *http.Request, doing string,
	swap func(ctx context.Context, id string, stale bool) (projections.Rebuild, error)) error {
	q := query{values: r.URL.Query()}
	stale := q.choice("stale", "allow", "deny")
	if err := q.faults.orNil(); err != nil {
		return err
	}
	return a.answerRebuild(w, r, doing, func(ctx context.Context, id string) (projections.Rebuild, error) { return swap(ctx, id, stale) })
}

// answerRebuild answers with what became of the rebuild of the path.
func (a *API) answerRebuild(w http.ResponseWriter, r *http.Request, doing string,
	do func(ctx context.Context, id string) (projections.Rebuild, error)) error {
	id := mux.Vars(r)["id"]
	if !isText(id) {
		return noSuchRebuild(id)
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	rebuild, err := do(ctx, id)
	switch {
	case errors.Is(err, projections.ErrNotFound):
		return noSuchRebuild(id)
	case err != nil:
		return fmt.Errorf("%s rebuild %s: %w", doing, id, err)
	}
	a.writeState(w, r, rebuild)
	return nil
}

func noSuchRebuild(id string) error {
	return &apiError{codeNotFound, fmt.Sprintf("There is no rebuild %q", abbreviate(id)), projections.ErrNotFound}
}

// refusedRebuild recognizes the commands to a rebuild that its state refuses, and
// says why.
func refusedRebuild(err error) (detail string, refused bool) {
	for _, refusal := range []error{projections.ErrRebuilding, projections.ErrRebuildState, projections.ErrBehind, projections.ErrServes} {
		if errors.Is(err, refusal) {
			return strings.ToUpper(err.Error()[:1]) + err.Error()[1:], true
		}
	}
	return "", false
}
