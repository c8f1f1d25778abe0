package httpapi

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// Capability is a way to get prices from a provider.
type Capability string

// The ways there are.
const (
	CapabilityQuote   Capability = "quote"   // it answers when it is asked
	CapabilityStream  Capability = "stream"  // it sends prices as they come
	CapabilityHistory Capability = "history" // it has prices of the past
)

// ProviderInfo describes a provider to GET providers.
type ProviderInfo struct {
	Name         schema.Provider
	Aliases      []schema.Provider
	Doc          string
	Capabilities []Capability
	// Configured is false where something is missing without which the provider
	// cannot be asked, such as a key.
	Configured bool
	// Limits are what the provider's service allows; all of them hold at once.
	Limits []ProviderLimit
}

// ProviderLimit is a number of calls within any period of a length.
type ProviderLimit struct {
	Calls int
	Per   time.Duration
}

// BreakerState says whether a provider is being asked.
type BreakerState string

// The states of a circuit breaker.
const (
	BreakerClosed   BreakerState = "closed"    // it is
	BreakerOpen     BreakerState = "open"      // it failed too often: not until RetryAt
	BreakerHalfOpen BreakerState = "half_open" // a call tries whether it is well again
)

// ProviderStatus is how a provider is doing at this moment.
type ProviderStatus struct {
	// CallsLeft is how many calls are allowed now; nil where nothing limits them.
	CallsLeft *int
	Breaker   BreakerState
	// RetryAt is when an open breaker lets a call through; the zero value in the
	// other states.
	RetryAt schema.Time
}

// providerItem is a line of GET providers.
type providerItem struct {
	Name         schema.Provider   `json:"name"`
	Aliases      []schema.Provider `json:"aliases"`
	Description  string            `json:"description"`
	Default      bool              `json:"default"`
	Configured   bool              `json:"configured"`
	Capabilities []Capability      `json:"capabilities"`
	Limits       []limitItem       `json:"limits"`
	// Status is null where no one keeps it.
	Status *statusItem `json:"status"`
}

type limitItem struct {
	Calls   int     `json:"calls"`
	Seconds float64 `json:"seconds"`
}

type statusItem struct {
	CallsLeft *int         `json:"calls_left"`
	Breaker   BreakerState `json:"breaker"`
	RetryAt   *schema.Time `json:"retry_at"`
}

// getProviders lists all providers in one page: there are as many as the binary
// was built with.
func (a *API) getProviders(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	var status map[schema.Provider]ProviderStatus
	if a.ports.ProviderStatus != nil {
		var err error
		if status, err = a.ports.ProviderStatus(ctx); err != nil {
			return err
		}
	}
	page := listBody[providerItem]{Items: []providerItem{}}
	for _, info := range a.ports.ProviderInfo() {
		item := providerItem{Name: info.Name, Aliases: orEmpty(info.Aliases), Description: info.Doc,
			Default: info.Name == a.config.DefaultProvider, Configured: info.Configured,
			Capabilities: orEmpty(info.Capabilities), Limits: []limitItem{}}
		for _, l := range info.Limits {
			item.Limits = append(item.Limits, limitItem{l.Calls, l.Per.Seconds()})
		}
		if s, known := status[info.Name]; known {
			item.Status = &statusItem{CallsLeft: s.CallsLeft, Breaker: s.Breaker}
			if !s.RetryAt.IsZero() {
				item.Status.RetryAt = &s.RetryAt
			}
		}
		page.Items = append(page.Items, item)
	}
	slices.SortFunc(page.Items, func(a, b providerItem) int { return cmp.Compare(a.Name, b.Name) })
	a.writeState(w, r, page)
	return nil
}

// orEmpty keeps an empty list from becoming null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
