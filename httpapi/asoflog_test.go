package httpapi_test

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// asOfPrices remember which rows were to count.
type asOfPrices struct {
	pastPrices
	asked []int64
}

func (p *asOfPrices) Prices(ctx context.Context, q processedprices.Query) ([]processedprices.Price, error) {
	p.asked = append(p.asked, q.AsOf)
	return p.pastPrices.Prices(ctx, q)
}

// timeless is an indicator that cannot be read as of a place.
type timeless struct{ bands }

func (timeless) Points(_ context.Context, q projections.IndicatorQuery) ([]projections.Point, error) {
	if q.AsOf != 0 {
		return nil, projections.ErrNoAsOf
	}
	return nil, nil
}

// TestReadsAsOfAPlace: a place is found once, told in the answer, and kept by all pages.
func TestReadsAsOfAPlace(t *testing.T) {
	t.Parallel()
	prices := &asOfPrices{pastPrices: past(3)}
	api := newAPI(t, func(s *setup) { s.Prices = prices })
	first := get(t, api, history+"?symbol=A&limit=2&as_of_log=now")
	require.Equal(t, http.StatusOK, first.Code, first.Body)
	assert.Equal(t, "price-events:1:8", first.Header().Get("X-Log-Position"))
	assert.Equal(t, []int64{1008}, prices.asked)
	link := regexp.MustCompile(`<(.*)>`).FindStringSubmatch(first.Header().Get("Link"))[1]
	assert.Contains(t, link, "as_of_log="+url.QueryEscape("price-events:1:8"), "the next page is as of the same place")
	next := get(t, api, link)
	require.Equal(t, http.StatusOK, next.Code, next.Body)
	assert.Equal(t, []int64{1008, 1008}, prices.asked)
	other := get(t, api, strings.Replace(link, "1%3A8", "1%3A7", 1))
	assert.Equal(t, http.StatusUnprocessableEntity, other.Code, "a cursor of another place")
	twice := get(t, api, history+"?symbol=A&limit=2&as_of_log=then&as_of_log=now")
	assert.Contains(t, twice.Header().Get("Link"), "as_of_log="+url.QueryEscape("price-events:1:8"), "the last of several values counts")
	plain := get(t, api, history+"?symbol=A")
	assert.Empty(t, plain.Header().Get("X-Log-Position"))
	assert.Equal(t, int64(0), prices.asked[len(prices.asked)-1])

	before := get(t, api, "/api/v1/prices?symbols=A,B&as_of_log=price-events:0:5,price-events:1:0")
	require.Equal(t, http.StatusOK, before.Code, before.Body)
	assert.Equal(t, "price-events:1:0", before.Header().Get("X-Log-Position"), "of what was read")
	assert.Equal(t, int64(-1), prices.asked[len(prices.asked)-1], "before the first record")
}

// TestPlacesThatCannotBeReadAsOf: each is an error that says why, and not another answer.
func TestPlacesThatCannotBeReadAsOf(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Config.DefaultProvider = "finnhub"
		s.Indicators = map[string]httpapi.Indicator{"bands": timeless{}}
	})
	const average = "/api/v1/prices/moving-average?symbol=A&as_of_log="
	for path, want := range map[string]struct {
		status int
		detail string
	}{
		average + "price-events:1:10":                                       {422, "it is beyond the end of the log"},
		average + "price-events:0:3":                                        {422, "the prices of A at finnhub are on partition 1"},
		average + "price-events:1:9":                                        {504, ""},
		average + "polling-jobs:1:3":                                        {422, "should match pattern"},
		average + "price-events:1:3,price-events:1:4":                       {422, "partition 1 is named twice"},
		average + strings.Repeat("price-events:1:3,", 400):                  {422, "at most 4000 characters"},
		average + "price-events:1:3&provider=median":                        {422, "a view across providers cannot"},
		"/api/v1/prices/latest?symbol=A&as_of_log=price-events:1:3":         {422, "Extra inputs are not permitted"},
		"/api/v1/prices/chart.svg?symbol=A&as_of_log=price-events:1:3":      {422, "Extra inputs are not permitted"},
		"/api/v1/indicators/bands?symbol=A&as_of_log=price-events:1:3":      {422, "it keeps no prices"},
		"/api/v1/indicators/bands?symbol=A&as_of_log=price-events:1:1&to=x": {422, "valid datetime"},
	} {
		w := get(t, newAPIWithoutPatience(t, api, want.status), path)
		assert.Equal(t, want.status, w.Code, "%s: %s", path, w.Body)
		assert.Contains(t, w.Body.String(), want.detail, path)
		assert.Empty(t, w.Header().Get("X-Log-Position"), path)
	}
}

// newAPIWithoutPatience is an API whose read models never catch up, where that is wanted.
func newAPIWithoutPatience(t *testing.T, api *httpapi.API, status int) *httpapi.API {
	if status != http.StatusGatewayTimeout {
		return api
	}
	return newAPI(t, func(s *setup) {
		s.CaughtUp = func(ctx context.Context, _ string, _ schema.Topic) error {
			<-ctx.Done()
			return ctx.Err()
		}
	})
}
