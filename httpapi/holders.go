package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

const (
	// HeaderSimulated is "true" on answers that rest on made-up prices.
	HeaderSimulated = "Pricemill-Simulated"
	// headerOtherProviders names, on an empty list, the other providers that have
	// prices of the symbol.
	headerOtherProviders = "Pricemill-Other-Providers"
)

// markSimulated says in a header that an answer rests on prices of provider, if
// that provider makes them up.
func (a *API) markSimulated(w http.ResponseWriter, provider schema.Provider) {
	if a.isSimulated(provider) {
		w.Header().Set(HeaderSimulated, "true")
	}
}

func (a *API) isSimulated(provider schema.Provider) bool {
	return slices.Contains(a.config.Simulated, provider)
}

// markList describes a list of what provider has of symbol: that it rests on made-up
// prices or, where it is empty, which other providers have some.
func (a *API) markList(ctx context.Context, w http.ResponseWriter, provider schema.Provider, symbol schema.Symbol, length int) error {
	if length > 0 {
		a.markSimulated(w, provider)
		return nil
	}
	others, err := a.otherProviders(ctx, provider, symbol)
	if err == nil && others != "" {
		w.Header().Set(headerOtherProviders, others)
	}
	return err
}

// otherProviders lists the providers, other than one, that have prices of a symbol,
// separated by commas; empty if none has.
func (a *API) otherProviders(ctx context.Context, than schema.Provider, symbol schema.Symbol) (string, error) {
	holders, err := a.otherHolders(ctx, than, symbol)
	return providerList(holders), err
}

func (a *API) otherHolders(ctx context.Context, than schema.Provider, symbol schema.Symbol) ([]schema.Provider, error) {
	return a.holders(ctx, symbol, slices.DeleteFunc(slices.Clone(a.config.Providers), func(p schema.Provider) bool { return p == than }))
}

func (a *API) holders(ctx context.Context, symbol schema.Symbol, among []schema.Provider) ([]schema.Provider, error) {
	holders, err := a.ports.LatestPrices.Holders(ctx, symbol, among)
	if err != nil {
		return nil, fmt.Errorf("looking for providers of %s: %w", symbol, err)
	}
	return holders, nil
}

// providerList is "csv, yahoo".
func providerList(providers []schema.Provider) string {
	var names []string
	for _, p := range providers {
		names = append(names, string(p))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// notFoundAt is a 404 with a detail, to which it adds which other providers have
// prices of the symbol.
func (a *API) notFoundAt(ctx context.Context, provider schema.Provider, symbol schema.Symbol, detail string) error {
	others, err := a.otherProviders(ctx, provider, symbol)
	if err != nil {
		return err
	}
	return newError(codeNotFound, "%s%s", detail, nameOthers(symbol, others))
}

func nameOthers(symbol schema.Symbol, others string) string {
	if others == "" {
		return ""
	}
	return fmt.Sprintf("; other providers with prices of %s: %s", symbol, others)
}

// checkInvention returns an error of the given code if the default provider would
// make up a price of a symbol of which it never had one and another provider has:
// who asks without a provider's name expects the real one. asked is that name.
func (a *API) checkInvention(ctx context.Context, c code, asked string, symbols ...schema.Symbol) error {
	provider := a.config.DefaultProvider
	if asked != "" || !a.isSimulated(provider) {
		return nil
	}
	for _, symbol := range symbols {
		// Also of a provider whose definition was removed: its prices were real.
		holders, err := a.holders(ctx, symbol, nil)
		if err != nil {
			return err
		}
		if len(holders) > 0 && !slices.Contains(holders, provider) {
			return newError(c, "The default provider, %s, would make up a price of %s%s; to simulate it all the same, say provider=%s",
				provider, symbol, nameOthers(symbol, providerList(holders)), provider)
		}
	}
	return nil
}

// withOthers adds to an error that says that a provider does not know a symbol which
// others do.
func (a *API) withOthers(r *http.Request, err error, provider schema.Provider, symbol schema.Symbol) error {
	var known *apiError
	if !errors.As(err, &known) || known.code != codeNotFound {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	return a.notFoundAt(ctx, provider, symbol, known.detail)
}
