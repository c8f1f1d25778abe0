package httpapi_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
)

// TestSymbolPattern: the pattern that clients are shown is the rule, for every
// printable character in each place.
func TestSymbolPattern(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.LatestPrices, s.RateLimitPerMinute = knows("1", 0), -1 })
	pattern := regexp.MustCompile(httpapi.SymbolPattern)
	for c := rune(' '); c < 0x100; c++ {
		for _, symbol := range []string{string(c), string(c) + "A", "A" + string(c), "A" + string(c) + "A"} {
			if strings.TrimSpace(symbol) == "" {
				continue
			}
			w := get(t, api, "/api/v1/prices/latest?symbol="+url.QueryEscape(symbol))
			if accepted := w.Code == http.StatusOK; accepted != pattern.MatchString(strings.TrimSpace(symbol)) {
				t.Errorf("%q: %d, the pattern says otherwise", symbol, w.Code)
			}
		}
	}
}
