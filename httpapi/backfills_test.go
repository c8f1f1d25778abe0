package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

func exampleBackfill(id string) httpapi.Backfill {
	return httpapi.Backfill{BackfillID: id, Status: "active", Provider: "yahoo", Symbol: "AAPL", From: eventTime.Add(-time.Hour), To: eventTime,
		StartedAt: eventTime, OwnerAlive: true, Calls: 4, Prices: 3000, Repeated: 1000}
}

func withBackfills(known *backfills, log *commands) func(*setup) {
	return func(s *setup) { s.Backfills, s.Commands = known, log }
}

const backfillBody = `{"provider":"yahoo_finance","symbol":"aapl","from":"2025-06-15T12:00:00Z","to":"2025-06-15T14:00:00+02:00"}`

func TestPostBackfill(t *testing.T) {
	t.Parallel()
	log := &commands{}
	api := newAPI(t, func(s *setup) { s.Commands = log })
	w := serve(t, api, request(http.MethodPost, "/api/v1/backfills", backfillBody))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	var body struct {
		BackfillID string `json:"backfill_id"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
	assert.Regexp(t, `^backfill_[a-z2-7]{8}$`, body.BackfillID)
	assert.JSONEq(t, `{"backfill_id":"`+body.BackfillID+`","status":"accepted","config":{"provider":"yahoo","symbol":"AAPL",`+
		`"from":"2025-06-15T12:00:00.000000Z","to":"2025-06-15T12:00:00.000000Z"}}`, w.Body.String())
	assert.Equal(t, "polling-jobs:3:42", w.Header().Get("X-Log-Position"))
	require.Len(t, log.all(), 1)
	event := log.all()[0].(schema.BackfillStarted)
	require.NoError(t, event.Validate())
	assert.Equal(t, body.BackfillID, event.BackfillID)
}

func TestPostBackfillRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"no history": {`{"provider":"finnhub","symbol":"A","from":"2025-01-01T00:00:00Z","to":"2025-01-01T00:00:00Z"}`, 400,
			`Provider \"finnhub\" cannot give its history; those that can are simulated, yahoo`},
		"unknown":      {`{"provider":"nope","symbol":"A","from":"2025-01-01T00:00:00Z","to":"2025-01-01T00:00:00Z"}`, 400, `Unknown provider`},
		"no span":      {`{"provider":"yahoo","symbol":"A"}`, 422, `"loc":["body","from"]`},
		"no symbol":    {`{"provider":"yahoo","from":"2025-01-01T00:00:00Z","to":"2025-01-01T00:00:00Z"}`, 422, `"loc":["body","symbol"]`},
		"no time":      {`{"provider":"yahoo","symbol":"A","from":"yesterday","to":"2025-01-01T00:00:00Z"}`, 422, `not RFC 3339`},
		"backwards":    {`{"provider":"yahoo","symbol":"A","from":"2025-01-02T00:00:00Z","to":"2025-01-01T00:00:00Z"}`, 422, `to is before from`},
		"to come":      {`{"provider":"yahoo","symbol":"A","from":"2025-01-02T00:00:00Z","to":"9999-01-01T00:00:00Z"}`, 422, `to is in the future`},
		"too long ago": {`{"provider":"yahoo","symbol":"A","from":"0500-01-02T00:00:00Z","to":"2025-01-01T00:00:00Z"}`, 422, `"loc":["body","from"]`},
		"no body":      {``, 422, `Field required`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &commands{}
			api := newAPI(t, func(s *setup) { s.Commands = log })
			w := serve(t, api, request(http.MethodPost, "/api/v1/backfills", test.body))
			assert.Equal(t, test.status, w.Code)
			assert.Contains(t, w.Body.String(), test.want)
			assert.Empty(t, log.all())
		})
	}
	none := newAPI(t, func(s *setup) { s.Historians = nil })
	w := serve(t, none, request(http.MethodPost, "/api/v1/backfills", backfillBody))
	assert.Contains(t, w.Body.String(), "none can")
}

func TestTooManyBackfills(t *testing.T) {
	t.Parallel()
	known := &backfills{}
	for i := range 100 {
		one := exampleBackfill(fmt.Sprint("backfill_", i))
		one.Symbol = "MSFT"
		known.known = append(known.known, one)
	}
	api := newAPI(t, withBackfills(known, &commands{}))
	expect(t, serve(t, api, request(http.MethodPost, "/api/v1/backfills", backfillBody)), http.StatusConflict,
		`{"detail":"There are 100 backfills that are not stopped, and MAX_ACTIVE_BACKFILLS allows no more: stop one first"}`)
}

// What a backfill under way fetches is not asked for twice. One whose span is another, and one
// that has ended, are in no one's way.
func TestABackfillOfTheSamePrices(t *testing.T) {
	t.Parallel()
	const body = `{"provider":"yahoo","symbol":"AAPL","from":%q,"to":%q}`
	for name, test := range map[string]struct {
		from, to string
		ended    bool
		status   int
	}{
		"the same":  {"2025-06-15T13:30:00Z", "2025-06-15T14:30:00Z", false, http.StatusConflict},
		"within it": {"2025-06-15T13:31:00Z", "2025-06-15T14:29:00Z", false, http.StatusConflict},
		"earlier":   {"2025-06-15T13:29:00Z", "2025-06-15T14:30:00Z", false, http.StatusAccepted},
		"later":     {"2025-06-15T13:30:00Z", "2025-06-15T14:31:00Z", false, http.StatusAccepted},
		"it ended":  {"2025-06-15T13:30:00Z", "2025-06-15T14:30:00Z", true, http.StatusAccepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, log := exampleBackfill("backfill_a"), &commands{}
			if test.ended {
				one.EndedAt = &eventTime
			}
			api := newAPI(t, func(s *setup) {
				withBackfills(&backfills{known: []httpapi.Backfill{one}}, log)(s)
				s.Now = func() time.Time { return eventTime.Add(time.Hour).Time }
			})
			w := serve(t, api, request(http.MethodPost, "/api/v1/backfills", fmt.Sprintf(body, test.from, test.to)))
			assert.Equal(t, test.status, w.Code, w.Body)
			if test.status == http.StatusConflict {
				assert.Contains(t, w.Body.String(), `"Backfill backfill_a is under way, and fetches all of that span: follow it, or stop it first"`)
				assert.Empty(t, log.all())
			}
		})
	}
}

func TestGetBackfills(t *testing.T) {
	t.Parallel()
	failed := exampleBackfill("backfill_b")
	failed.Status, failed.EndedAt, failed.OwnerAlive, failed.ReachedAt = "failed", &eventTime, false, &eventTime
	failed.LastError = &httpapi.BackfillError{Reason: "unauthorized: status 401", Timestamp: eventTime}
	api := newAPI(t, withBackfills(&backfills{known: []httpapi.Backfill{exampleBackfill("backfill_a"), failed}}, &commands{}))
	const same = `"provider":"yahoo","symbol":"AAPL","from":"2025-06-15T13:30:00.000000Z","to":"2025-06-15T14:30:00.000000Z","started_at":"2025-06-15T14:30:00.000000Z",`
	const a = `{"backfill_id":"backfill_a","status":"active",` + same + `"ended_at":null,"owner_alive":true,"calls":4,"prices":3000,"repeated":1000,` +
		`"reached_at":null,"applied":false,"last_error":null}`
	const b = `{"backfill_id":"backfill_b","status":"failed",` + same + `"ended_at":"2025-06-15T14:30:00.000000Z","owner_alive":false,"calls":4,"prices":3000,` +
		`"repeated":1000,"reached_at":"2025-06-15T14:30:00.000000Z","applied":false,` +
		`"last_error":{"reason":"unauthorized: status 401","timestamp":"2025-06-15T14:30:00.000000Z"}}`
	expect(t, get(t, api, "/api/v1/backfills"), http.StatusOK, `{"items":[`+a+`,`+b+`]}`)
	expect(t, get(t, api, "/api/v1/backfills?limit=1"), http.StatusOK, `{"items":[`+a+`]}`)
	expect(t, get(t, api, "/api/v1/backfills/backfill_b"), http.StatusOK, b)
	none := newAPI(t, withBackfills(&backfills{}, &commands{}))
	expect(t, get(t, none, "/api/v1/backfills"), http.StatusOK, `{"items":[]}`)
}

// As a stream, a backfill that was posted a moment ago is found.
func TestABackfillOnItsWay(t *testing.T) {
	t.Parallel()
	known := &backfills{arrives: []httpapi.Backfill{exampleBackfill("backfill_a")}}
	api := newAPI(t, withBackfills(known, &commands{}))
	assert.Equal(t, http.StatusOK, get(t, api, "/api/v1/backfills/backfill_a").Code)
	assert.Equal(t, 1, known.settled)
	expect(t, get(t, api, "/api/v1/backfills/backfill_x"), http.StatusNotFound, `{"detail":"There is no backfill \"backfill_x\""}`)
	assert.Equal(t, http.StatusNotFound, get(t, api, "/api/v1/backfills/%00").Code)
}

func TestDeleteBackfill(t *testing.T) {
	t.Parallel()
	done := exampleBackfill("backfill_b")
	done.Status, done.EndedAt = "completed", &eventTime
	log := &commands{}
	api := newAPI(t, withBackfills(&backfills{known: []httpapi.Backfill{exampleBackfill("backfill_a"), done}}, log))
	expect(t, serve(t, api, request(http.MethodDelete, "/api/v1/backfills/backfill_a", "")), http.StatusAccepted, `{"backfill_id":"backfill_a","status":"accepted"}`)
	require.Len(t, log.all(), 1)
	assert.Equal(t, "backfill_a", log.all()[0].(schema.BackfillStopped).BackfillID)
	expect(t, serve(t, api, request(http.MethodDelete, "/api/v1/backfills/backfill_b", "")), http.StatusConflict, `{"detail":"Backfill backfill_b is completed"}`)
	assert.Equal(t, http.StatusNotFound, serve(t, api, request(http.MethodDelete, "/api/v1/backfills/backfill_x", "")).Code)
	assert.Len(t, log.all(), 1)
}

func TestBackfillsOfADatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	down := fmt.Errorf("reading: %w", httpapi.ErrUnavailable)
	api := newAPI(t, withBackfills(&backfills{known: []httpapi.Backfill{exampleBackfill("backfill_a")}, err: down}, &commands{err: down}))
	assert.Equal(t, http.StatusServiceUnavailable, get(t, api, "/api/v1/backfills").Code)
	assert.Equal(t, http.StatusServiceUnavailable, get(t, api, "/api/v1/backfills/backfill_a").Code)
	assert.Equal(t, http.StatusServiceUnavailable, serve(t, api, request(http.MethodPost, "/api/v1/backfills", backfillBody)).Code)
	api = newAPI(t, withBackfills(&backfills{known: []httpapi.Backfill{exampleBackfill("backfill_a")}}, &commands{err: errors.New("a fault of ours")}))
	assert.Equal(t, http.StatusInternalServerError, serve(t, api, request(http.MethodDelete, "/api/v1/backfills/backfill_a", "")).Code)
}
