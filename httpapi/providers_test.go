package httpapi_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

func TestGetProviders(t *testing.T) {
	t.Parallel()
	const head, tail = `{"items":[`, `]}`
	simulated := `{"name":"simulated","aliases":[],"description":"","default":false,"configured":true,"capabilities":[],"limits":[],"status":null}`
	left := 7
	for name, test := range map[string]struct {
		status func(context.Context) (map[schema.Provider]httpapi.ProviderStatus, error)
		want   string
	}{
		"no one watches": {nil, `null`},
		"well": {func(context.Context) (map[schema.Provider]httpapi.ProviderStatus, error) {
			return map[schema.Provider]httpapi.ProviderStatus{"finnhub": {CallsLeft: &left, Breaker: httpapi.BreakerClosed}}, nil
		}, `{"calls_left":7,"breaker":"closed","retry_at":null}`},
		"not asked": {func(context.Context) (map[schema.Provider]httpapi.ProviderStatus, error) {
			return map[schema.Provider]httpapi.ProviderStatus{"finnhub": {Breaker: httpapi.BreakerOpen, RetryAt: eventTime}}, nil
		}, `{"calls_left":null,"breaker":"open","retry_at":"2025-06-15T14:30:00.000000Z"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, func(s *setup) {
				s.ProviderStatus = test.status
				s.ProviderInfo = func() []httpapi.ProviderInfo {
					return []httpapi.ProviderInfo{{Name: "simulated", Configured: true}, {Name: "finnhub", Aliases: []schema.Provider{"fh"}, Doc: "Quotes.",
						Capabilities: []httpapi.Capability{httpapi.CapabilityQuote, httpapi.CapabilityStream},
						Limits:       []httpapi.ProviderLimit{{Calls: 60, Per: time.Minute}, {Calls: 3, Per: 100 * time.Millisecond}}}}
				}
			})
			w := get(t, api, "/api/v1/providers")
			expect(t, w, http.StatusOK, head+`{"name":"finnhub","aliases":["fh"],"description":"Quotes.","default":true,"configured":false,`+
				`"capabilities":["quote","stream"],"limits":[{"calls":60,"seconds":60},{"calls":3,"seconds":0.1}],"status":`+test.want+`},`+simulated+tail)
			if got := w.Header().Get("Cache-Control"); got != "no-cache" {
				t.Errorf("Cache-Control %q", got)
			}
		})
	}
}

func TestProvidersUnavailable(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.ProviderStatus = func(context.Context) (map[schema.Provider]httpapi.ProviderStatus, error) {
			return nil, httpapi.ErrUnavailable
		}
	})
	expect(t, get(t, api, "/api/v1/providers"), http.StatusServiceUnavailable, `{"detail":"Service temporarily unavailable"}`)
}
