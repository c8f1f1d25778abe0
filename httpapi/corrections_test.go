package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// correctable is a read model of prices that may be corrected, and of corrections.
type correctable struct {
	facts []processedprices.Fact
	said  []processedprices.Correction
	err   error
	waits int
	// arrives is what is on its way, until someone waits for it.
	arrives func()
}

func (c *correctable) Facts(_ context.Context, moments []processedprices.Moment) (map[processedprices.Moment][]processedprices.Fact, error) {
	found := map[processedprices.Moment][]processedprices.Fact{}
	for _, f := range c.facts {
		if f.Moment == moments[0] {
			found[f.Moment] = append(found[f.Moment], f)
		}
	}
	return found, c.err
}

func (c *correctable) Corrections(_ context.Context, q processedprices.CorrectionQuery) ([]processedprices.Correction, error) {
	var found []processedprices.Correction
	for _, one := range c.said {
		if one.Symbol == q.Symbol && one.Provider == q.Provider && (q.Behind == 0 || one.ID < q.Behind) && len(found) < q.Limit {
			found = append(found, one)
		}
	}
	return found, c.err
}

func (c *correctable) Correction(_ context.Context, id string) (processedprices.Correction, error) {
	for _, one := range c.said {
		if one.CorrectionID == id {
			return one, c.err
		}
	}
	return processedprices.Correction{}, projections.ErrNotFound
}

func (c *correctable) WaitCaughtUp(context.Context) error {
	if c.waits++; c.arrives != nil {
		c.arrives()
	}
	return c.err
}

// exampleCorrection is one that is applied.
func exampleCorrection(id string, row int64) processedprices.Correction {
	price, observed := schema.MustDecimal("185.57"), schema.MustDecimal("185.75")
	return processedprices.Correction{CorrectionRow: projections.CorrectionRow{ID: row, CorrectionID: id, FactID: "fact", Symbol: "AAPL", Provider: "finnhub",
		Timestamp: eventTime, Price: &price, Reason: "a typo", CorrectedAt: eventTime}, Status: processedprices.CorrectionApplied, Observed: &observed}
}

// corrected is a model with a price, one that was retracted, and two of one time.
func corrected() *correctable {
	price := schema.MustDecimal("185.75")
	at := func(seconds int) processedprices.Moment {
		return processedprices.Moment{Provider: "finnhub", Symbol: "AAPL", Timestamp: eventTime.Add(time.Duration(seconds) * time.Second)}
	}
	return &correctable{facts: []processedprices.Fact{{Moment: at(0), FactID: "fact", Price: &price}, {Moment: at(1), FactID: "retracted", CorrectionID: "r1"},
		{Moment: at(2), FactID: "a", Price: &price}, {Moment: at(2), FactID: "b", Price: &price}},
		said: []processedprices.Correction{exampleCorrection("c2", 20), exampleCorrection("c1", 10)}}
}

func TestCorrections(t *testing.T) {
	t.Parallel()
	body := func(seconds int, more string) string {
		return `{"symbol":"aapl","timestamp":"` + eventTime.Add(time.Duration(seconds)*time.Second).Text() + `","reason":"a typo"` + more + `}`
	}
	retraction := schema.CorrectionID("fact", "", nil, schema.Decimal{})
	price := schema.MustDecimal("185.57")
	correction := schema.CorrectionID("fact", "", &price, schema.Decimal{})
	about := schema.Correction{FactID: "fact", Symbol: "AAPL", Timestamp: eventTime, Source: "finnhub", Reason: "a typo"}
	for name, test := range map[string]struct {
		path, body string
		status     int
		want       string
		published  schema.Payload
	}{
		"a correction": {"corrections", body(0, `,"price":185.57`), http.StatusAccepted, `{"correction_id":"` + correction + `","status":"accepted","fact_id":"fact"}`,
			schema.PriceCorrected{Correction: about, Price: price, CorrectedAt: eventTime}},
		"as a text, with a size": {"corrections", body(0, `,"price":"185.75","size":"2"`), http.StatusAccepted, `"status":"accepted"`,
			schema.PriceCorrected{Correction: about, Price: schema.MustDecimal("185.75"), Size: schema.MustDecimal("2"), CorrectedAt: eventTime}},
		"a retraction": {"retractions", body(0, ""), http.StatusAccepted, `{"correction_id":"` + retraction + `","status":"accepted","fact_id":"fact"}`,
			schema.PriceRetracted{Correction: about, RetractedAt: eventTime}},
		"the same price":            {"corrections", body(0, `,"price":185.750`), http.StatusOK, `{"correction_id":null,"status":"unchanged","fact_id":"fact"}`, nil},
		"retracted already":         {"retractions", body(1, ""), http.StatusOK, `{"correction_id":"r1","status":"unchanged","fact_id":"retracted"}`, nil},
		"no such price":             {"corrections", body(3, `,"price":1`), http.StatusNotFound, `There is no price of AAPL at finnhub of `, nil},
		"no such id":                {"corrections", body(0, `,"price":1,"fact_id":"other"`), http.StatusNotFound, ` with the id other"`, nil},
		"several":                   {"retractions", body(2, ""), http.StatusConflict, `name one by its id: a, b`, nil},
		"no price":                  {"corrections", body(0, ""), http.StatusUnprocessableEntity, `"price"`, nil},
		"no decimal":                {"corrections", body(0, `,"price":"1,5"`), http.StatusUnprocessableEntity, `not a decimal`, nil},
		"no size":                   {"corrections", body(0, `,"price":1,"size":0`), http.StatusUnprocessableEntity, `a size is above 0`, nil},
		"an empty id":               {"retractions", body(0, `,"fact_id":""`), http.StatusUnprocessableEntity, `at least 1 character`, nil},
		"no such provider":          {"retractions", body(0, `,"provider":"none"`), http.StatusBadRequest, `none`, nil},
		"no reason":                 {"retractions", strings.Replace(body(0, ""), "a typo", "", 1), http.StatusUnprocessableEntity, `at least 1 character`, nil},
		"a reason that is too long": {"retractions", strings.Replace(body(0, ""), "a typo", strings.Repeat("x", 513), 1), http.StatusUnprocessableEntity, `more than 512 bytes`, nil},
		"no time":                   {"retractions", `{"symbol":"AAPL","timestamp":"yesterday","reason":"r"}`, http.StatusUnprocessableEntity, `not RFC 3339`, nil},
		"nothing":                   {"retractions", `{}`, http.StatusUnprocessableEntity, `"reason"`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &commands{}
			api := newAPI(t, func(s *setup) {
				s.Corrections, s.Commands, s.Now = corrected(), log, func() time.Time { return eventTime.Time }
			})
			w := serve(t, api, request(http.MethodPost, "/api/v1/"+test.path, test.body))
			require.Equal(t, test.status, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), test.want)
			if test.published == nil {
				assert.Empty(t, log.all())
				return
			}
			assert.Equal(t, []schema.Payload{test.published}, log.all())
			assert.NotEmpty(t, w.Header().Get("X-Log-Position"))
		})
	}
}

func TestUnchangedIsAsOfTheCorrectionsOnTheirWay(t *testing.T) {
	t.Parallel()
	model, log := corrected(), &commands{}
	price := schema.MustDecimal("1")
	model.arrives = func() { model.facts[0].Price, model.facts[0].CorrectionID = &price, "c" }
	api := newAPI(t, func(s *setup) { s.Corrections, s.Commands = model, log })
	w := serve(t, api, request(http.MethodPost, "/api/v1/corrections", `{"symbol":"AAPL","timestamp":"`+eventTime.Text()+`","reason":"r","price":185.75}`))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	back := schema.MustDecimal("185.75")
	assert.Contains(t, w.Body.String(), schema.CorrectionID("fact", "c", &back, schema.Decimal{}))
	assert.Len(t, log.all(), 1)
}

func TestACorrectionWithAKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	model, log := corrected(), &commands{}
	id := schema.DeriveID("api", "correction", "k")
	api := newAPI(t, func(s *setup) { s.Corrections, s.Commands = model, log })
	post := func(price string) (int, string) {
		r := request(http.MethodPost, "/api/v1/corrections", `{"symbol":"AAPL","timestamp":"`+eventTime.Text()+`","reason":"r","price":`+price+`}`)
		r.Header.Set("Idempotency-Key", "k")
		w := serve(t, api, r)
		return w.Code, w.Body.String()
	}
	status, first := post("185.57")
	require.Equal(t, http.StatusAccepted, status)
	assert.Contains(t, first, id)
	model.said = append(model.said, exampleCorrection(id, 30))
	status, again := post("185.57")
	require.Equal(t, http.StatusAccepted, status)
	assert.JSONEq(t, first, again)
	status, _ = post("1")
	assert.Equal(t, http.StatusUnprocessableEntity, status, "the key with another price")
	assert.Len(t, log.all(), 1)
}

func TestCorrectionsAreListed(t *testing.T) {
	t.Parallel()
	model := corrected()
	api := newAPI(t, func(s *setup) { s.Corrections = model })
	one := func(id string) string {
		return `{"correction_id":"` + id + `","status":"applied","fact_id":"fact","symbol":"AAPL","provider":"finnhub","timestamp":"` + eventTime.Text() +
			`","price":185.57,"size":null,"observed_price":185.75,"reason":"a typo","corrected_at":"` + eventTime.Text() + `"}`
	}
	expect(t, get(t, api, "/api/v1/corrections?symbol=aapl"), http.StatusOK, `{"items":[`+one("c2")+`,`+one("c1")+`]}`)
	first := get(t, api, "/api/v1/corrections?symbol=AAPL&limit=1")
	expect(t, get(t, api, "/api/v1/corrections?symbol=AAPL&limit=1&cursor="+nextCursor(t, first.Body.Bytes())), http.StatusOK, `{"items":[`+one("c1")+`]}`)
	expect(t, get(t, api, "/api/v1/corrections?symbol=MSFT"), http.StatusOK, `{"items":[]}`)
	expect(t, get(t, api, "/api/v1/corrections/c1"), http.StatusOK, one("c1"))
	expect(t, get(t, api, "/api/v1/corrections/c3"), http.StatusNotFound, `{"detail":"There is no correction \"c3\""}`)
	assert.Equal(t, 1, model.waits, "a correction may be on its way")
	assert.Equal(t, http.StatusNotFound, get(t, api, "/api/v1/corrections/%00").Code)
	assert.Equal(t, http.StatusUnprocessableEntity, get(t, api, "/api/v1/corrections?symbol=AAPL&cursor=x").Code)
	assert.Equal(t, http.StatusUnprocessableEntity, get(t, api, "/api/v1/corrections").Code)
	assert.Equal(t, http.StatusBadRequest, get(t, api, "/api/v1/corrections?symbol=A&provider=none").Code)
}
