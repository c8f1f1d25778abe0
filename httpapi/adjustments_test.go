package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/schema"
)

const adjustmentsPath = "/api/v1/adjustments"

// TestAdjustmentsByREST: the same adjustment is one, a retraction is one event too, and what
// cannot be recorded says why.
func TestAdjustmentsByREST(t *testing.T) {
	t.Parallel()
	log := &commands{}
	known := &adjusting{}
	api := newAPI(t, func(s *setup) { s.Commands, s.Adjustments = log, known })
	send := func(path, body string) *httptest.ResponseRecorder {
		return serve(t, api, request(http.MethodPost, path, body))
	}
	const split = `{"symbol":"aapl","effective_at":"2020-08-31T00:00:00Z","kind":"split","value":"4:1","reason":"4 for 1"}`
	w := send(adjustmentsPath, split)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	assert.Equal(t, "polling-jobs:3:42", w.Header().Get("X-Log-Position"))
	recorded := log.all()[0].(schema.AdjustmentRecorded)
	require.NoError(t, recorded.Validate())
	assert.Equal(t, schema.Symbol("AAPL"), recorded.Symbol)
	assert.Equal(t, schema.Provider("finnhub"), recorded.Source)
	assert.Equal(t, "4:1", recorded.ValueText())
	assert.Equal(t, schema.AdjustmentID("finnhub", "AAPL", recorded.AdjustmentTerms), recorded.AdjustmentID)

	one := adjustments.Adjustment{AdjustmentID: recorded.AdjustmentID, EventID: "e", Provider: "finnhub", Symbol: "AAPL", Terms: recorded.AdjustmentTerms, Reason: "4 for 1", SaidAt: eventTime}
	known.known = []adjustments.Adjustment{one}
	w = send(adjustmentsPath, split)
	expect(t, w, http.StatusOK, `{"adjustment_id":"`+recorded.AdjustmentID+`","status":"unchanged"}`)
	expect(t, get(t, api, adjustmentsPath+"?symbol=aapl"), http.StatusOK, `{"items":[{"adjustment_id":"`+recorded.AdjustmentID+
		`","status":"active","symbol":"AAPL","provider":"finnhub","effective_at":"2020-08-31T00:00:00.000000Z","kind":"split","value":"4:1","reason":"4 for 1","said_at":"2025-06-15T14:30:00.000000Z"}]}`)
	retraction := adjustmentsPath + "/" + recorded.AdjustmentID + "/retract"
	w = send(retraction, `{"reason":"a typo"}`)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.NoError(t, log.all()[1].Validate())
	one.Retracted = true
	known.known[0] = one
	assert.Equal(t, http.StatusOK, send(retraction, `{"reason":"a typo"}`).Code)
	require.Equal(t, http.StatusAccepted, send(adjustmentsPath, split).Code, "it is brought back")
	require.Len(t, log.all(), 3)

	assert.Equal(t, http.StatusNotFound, send(adjustmentsPath+"/none/retract", `{"reason":"r"}`).Code)
	assert.Equal(t, http.StatusNotFound, get(t, api, adjustmentsPath+"/none").Code)
	for body, want := range map[string]string{
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"spin","value":"4","reason":"r"}`:                        "'split', 'dividend' or 'factor'",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"split","value":"0:1","reason":"r"}`:                     "should match pattern",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"split","value":"4:0","reason":"r"}`:                     "should match pattern",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"dividend","value":"4:1","reason":"r"}`:                  "4:1",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"dividend","value":"-1","reason":"r"}`:                   "should match pattern",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"factor","value":"1e40","reason":"r"}`:                   "should match pattern",
		`{"symbol":"A","effective_at":"2020-08-31","kind":"factor","value":"1","reason":"r"}`:                                "RFC 3339",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"split","value":"2","currency":"","reason":"r"}`:         "at least 3 characters",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"split","value":"2","currency":"USD","reason":"r"}`:      "of a dividend",
		`{"symbol":"A","effective_at":"2020-08-31T00:00:00Z","kind":"dividend","value":"2","currency":"dollar","reason":""}`: "at least 1 character",
	} {
		w := send(adjustmentsPath, body)
		assert.Equal(t, http.StatusUnprocessableEntity, w.Code, body)
		assert.Contains(t, w.Body.String(), want, body)
	}
	require.Len(t, log.all(), 3)
}

// TestAdjustedReadsThatCannotBe are errors, and say that nothing was adjusted.
func TestAdjustedReadsThatCannotBe(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Prices = past(2)
		s.Adjustments = &adjusting{err: &adjustments.FactorError{Reason: "the dividend is not below the last price before it"}}
	})
	for path, want := range map[string]int{
		history + "?symbol=A&adjusted=true":                                    http.StatusConflict,
		averageHistory + "?symbol=A&adjusted=true":                             http.StatusConflict,
		"/api/v1/prices/moving-average?symbol=A&adjusted=true":                 http.StatusConflict,
		"/api/v1/prices/moving-average?symbol=A&adjusted=true&provider=median": http.StatusUnprocessableEntity,
		history + "?symbol=A&adjusted=true&as_of_log=now":                      http.StatusUnprocessableEntity,
		history + "?symbol=A&adjusted=yes":                                     http.StatusUnprocessableEntity,
		"/api/v1/prices/latest?symbol=A&adjusted=true":                         http.StatusUnprocessableEntity,
		"/api/v1/prices/chart.svg?symbol=A&adjusted=true":                      http.StatusUnprocessableEntity,
		"/api/v1/prices/moving-averages?symbols=A&adjusted=true":               http.StatusUnprocessableEntity,
		"/api/v1/prices/history?symbol=A&adjusted=false":                       http.StatusOK,
	} {
		w := get(t, api, path)
		assert.Equal(t, want, w.Code, "%s: %s", path, w.Body)
		assert.Empty(t, w.Header().Get("Pricemill-Adjusted"), path)
	}
	marked := newAPI(t, func(s *setup) { s.Prices = past(2) })
	w := get(t, marked, history+"?symbol=A&adjusted=true", "Accept", "text/csv")
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "true", w.Header().Get("Pricemill-Adjusted"))
}

// TestADividendInAnotherCurrency is recorded: what was said last counts.
func TestADividendInAnotherCurrency(t *testing.T) {
	t.Parallel()
	log := &commands{}
	known := &adjusting{}
	api := newAPI(t, func(s *setup) { s.Commands, s.Adjustments = log, known })
	const dividend = `{"symbol":"AAPL","effective_at":"2020-08-07T00:00:00Z","kind":"dividend","value":"0.82","currency":"EUR","reason":"quarterly"}`
	require.Equal(t, http.StatusAccepted, serve(t, api, request(http.MethodPost, adjustmentsPath, dividend)).Code)
	first := log.all()[0].(schema.AdjustmentRecorded)
	known.known = []adjustments.Adjustment{{AdjustmentID: first.AdjustmentID, EventID: "e", Provider: first.Source, Symbol: first.Symbol, Terms: first.AdjustmentTerms}}
	require.Equal(t, http.StatusOK, serve(t, api, request(http.MethodPost, adjustmentsPath, dividend)).Code)
	require.Equal(t, http.StatusAccepted, serve(t, api, request(http.MethodPost, adjustmentsPath, strings.ReplaceAll(dividend, "EUR", "USD"))).Code)
	second := log.all()[1].(schema.AdjustmentRecorded)
	assert.Equal(t, first.AdjustmentID, second.AdjustmentID)
	assert.Equal(t, "USD", second.Currency)
}
