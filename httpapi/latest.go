package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// latestPath is the path of GET latest, the one GET that may call a provider.
const latestPath = "/api/v1/prices/latest"

// priceBody answers GET latest.
type priceBody struct {
	Symbol    schema.Symbol   `json:"symbol"`
	Price     schema.Decimal  `json:"price"`
	Timestamp schema.Time     `json:"timestamp"`
	Provider  schema.Provider `json:"provider"`
}

// latestQuery is what GET latest asks for.
type latestQuery struct {
	provider schema.Provider
	named    string // the provider as the client names it; empty for the default
	symbol   schema.Symbol
	maxAge   time.Duration
	stale    bool // an older price will do if there is no fresh one
}

func (a *API) readLatestQuery(q query) (latestQuery, error) {
	asked := latestQuery{
		symbol: q.symbol(),
		maxAge: q.seconds("max_age", a.config.MaxAge, MaxMaxAge),
		stale:  q.choice("stale", "allow", "deny"),
	}
	if err := q.faults.orNil(); err != nil {
		return latestQuery{}, err
	}
	asked.named, _ = q.get("provider")
	var err error
	asked.provider, err = a.config.provider(asked.named)
	asked.symbol = a.config.symbol(asked.provider, asked.symbol)
	return asked, err
}

// getLatest answers with a price that is known to be fresh enough, or else with
// what the provider says when it is asked now.
func (a *API) getLatest(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	if view, is := q.view(); is {
		return a.getLatestOfView(w, r, q, view)
	}
	asked, err := a.readLatestQuery(q)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.ports.LatestPrices.Latest(ctx, asked.provider, asked.symbol)
	isKnown := err == nil
	if err != nil && !errors.Is(err, projections.ErrNotFound) {
		return fmt.Errorf("reading the latest price of %s at %s: %w", asked.symbol, asked.provider, err)
	}
	if isKnown && a.fetcher.fresh(known, asked.maxAge) {
		return a.writePrice(w, r, asked, known)
	}
	if !isKnown {
		if err := a.checkInvention(ctx, codeNotFound, asked.named, asked.symbol); err != nil {
			return err
		}
	}
	price, requestID, err := a.fetcher.get(r.Context(), asked.provider, asked.symbol, asked.maxAge)
	nameRequest(w, requestID)
	if err != nil {
		nameRequestOf(w, err)
		switch {
		case !isKnown || !a.staleWillDo(r, err):
			return a.withOthers(r, err, asked.provider, asked.symbol)
		case asked.stale:
			return a.writeStale(w, r, asked, known)
		}
		return offerStale(err, known)
	}
	return a.writePrice(w, r, asked, price)
}

// offerStale adds to the error of a provider how to get the price that is known.
func offerStale(err error, known latestprices.Price) error {
	var failure *apiError
	if !errors.As(err, &failure) {
		return err
	}
	return &apiError{failure.code, failure.detail + "; stale=allow gives the last one, of " + known.Timestamp.Format(time.RFC3339Nano), failure.cause}
}

// staleWillDo reports whether err says that there is no fresh price now, rather
// than that there is no such price or that something is wrong with us.
func (a *API) staleWillDo(r *http.Request, err error) bool {
	switch a.classify(r.Context(), err).code {
	case codeProviderFailed, codeProviderTimeout, codeUnavailable:
		return true
	default:
		return false
	}
}

// writeStale tells the age of a price along with it.
func (a *API) writeStale(w http.ResponseWriter, r *http.Request, asked latestQuery, price latestprices.Price) error {
	age := max(0, a.config.Now().Sub(price.ReceivedAt.Time))
	w.Header().Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
	return a.writePrice(w, r, asked, price)
}

func (a *API) writePrice(w http.ResponseWriter, r *http.Request, asked latestQuery, price latestprices.Price) error {
	a.markSimulated(w, price.Provider)
	a.markMarket(r.Context(), w, price.Provider, price.Symbol)
	writeText(w, r, priceBody{price.Symbol, price.Price, price.Timestamp, asNamed(price.Provider, asked.named)}.appendTo(make(jsonText, 0, 192)))
	return nil
}
