package httpapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

func TestGetRequest(t *testing.T) {
	t.Parallel()
	price := schema.MustDecimal("185.7500")
	asked := eventTime
	detail := func(id string, state requests.State, more func(*requests.Detail)) requests.Detail {
		d := requests.Detail{Request: requests.Request{RequestID: id, Symbol: "AAPL", Provider: "finnhub", State: state},
			AskedAt: asked, Deadline: asked.Add(10 * time.Second)}
		if more != nil {
			more(&d)
		}
		return d
	}
	done := func(d *requests.Detail) {
		d.Price, d.Timestamp, d.ReceivedAt = price, asked, asked.Add(time.Second)
		d.SettledAt, d.FactID, d.RawResponseID = asked.Add(time.Second), "fact", "7"
		d.Outcome = &requests.Place{Topic: "price-events", Partition: 3, Offset: 41}
	}
	wrong := func(d *requests.Detail) {
		d.Code, d.Reason, d.SettledAt = schema.CodeTimeout, "no answer", asked.Add(10*time.Second)
		d.Outcome = &requests.Place{Topic: "quote-outcomes", Partition: 0, Offset: 0}
	}
	const nothing = `"finished_at":null,"outcome":null,"price":null,"timestamp":null,"received_at":null,"fact_id":null,"raw_response_id":null,"code":null,"reason":null,"record":null}`
	head := func(id, status, job string) string {
		return fmt.Sprintf(`{"request_id":"%s","status":"%s","symbol":"AAPL","provider":"finnhub","job_id":%s,"requested_at":"2025-06-15T14:30:00.000000Z","deadline":"2025-06-15T14:30:10.000000Z",`, id, status, job)
	}
	tests := map[string]struct {
		known, arrives []requests.Detail
		now            time.Duration // after it was made
		id             string
		status         int
		want           string
	}{
		"waiting": {known: []requests.Detail{detail("r", requests.Pending, nil)}, now: 12 * time.Second, id: "r", status: http.StatusOK,
			want: head("r", "waiting", "null") + nothing},
		"expired": {known: []requests.Detail{detail("r", requests.Pending, nil)}, now: 12*time.Second + time.Millisecond, id: "r", status: http.StatusOK,
			want: head("r", "expired", "null") + nothing},
		"on its way": {arrives: []requests.Detail{detail("poll_a.r", requests.Pending, nil)}, id: "poll_a.r", status: http.StatusOK,
			want: head("poll_a.r", "waiting", `"poll_a"`) + nothing},
		"done": {known: []requests.Detail{detail("r", requests.Observed, done)}, now: time.Hour, id: "r", status: http.StatusOK,
			want: head("r", "done", "null") + `"finished_at":"2025-06-15T14:30:01.000000Z","outcome":"observed","price":185.75,"timestamp":"2025-06-15T14:30:00.000000Z",` +
				`"received_at":"2025-06-15T14:30:01.000000Z","fact_id":"fact","raw_response_id":"7","code":null,"reason":null,"record":{"topic":"price-events","partition":3,"offset":41}}`},
		"failed": {known: []requests.Detail{detail("r", requests.Failed, wrong)}, now: time.Hour, id: "r", status: http.StatusOK,
			want: head("r", "failed", "null") + `"finished_at":"2025-06-15T14:30:10.000000Z","outcome":"failed","price":null,"timestamp":null,"received_at":null,"fact_id":null,` +
				`"raw_response_id":null,"code":"timeout","reason":"no answer","record":{"topic":"quote-outcomes","partition":0,"offset":0}}`},
		"unknown":       {id: "r", status: http.StatusNotFound, want: `{"detail":"There is no fetch request \"r\", or it is older than REQUESTS_RETENTION"}`},
		"a polling job": {id: "poll_abc12345", status: http.StatusNotFound, want: `{"detail":"There is no fetch request \"poll_abc12345\", or it is older than REQUESTS_RETENTION; polling jobs are at /api/v1/prices/poll/{job_id}"}`},
		"no text":       {id: "%ff", status: http.StatusNotFound},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, func(s *setup) {
				s.RequestDetails = &requestList{known: test.known, arrives: test.arrives}
				s.Now = func() time.Time { return asked.Add(test.now).Time }
			})
			w := get(t, api, "/api/v1/requests/"+test.id)
			if test.want == "" {
				assert.Equal(t, test.status, w.Code)
				return
			}
			expect(t, w, test.status, test.want)
		})
	}
	api := newAPI(t, func(s *setup) { s.RequestDetails = &requestList{err: httpapi.ErrUnavailable} })
	assert.Equal(t, http.StatusServiceUnavailable, get(t, api, "/api/v1/requests/r").Code)
}

// An answer for which a provider was asked names the request, also if there was no price; a
// price that was known needed none.
func TestLatestNamesItsRequest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*setup)
		asked  bool
	}{
		"fetched": {func(s *setup) { s.Requests = becomes(observed("185.75")) }, true},
		"failed": {func(s *setup) {
			s.Requests = becomes(failed(requests.Failed, schema.CodeUnavailable, "down"))
		}, true},
		"stale": {func(s *setup) {
			s.LatestPrices, s.Requests = knows("1", time.Hour), becomes(failed(requests.Failed, schema.CodeTimeout, "late"))
		}, true},
		"known": {func(s *setup) { s.LatestPrices = knows("185.75", 0) }, false},
	} {
		log := &commands{}
		api := newAPI(t, func(s *setup) {
			s.Commands = log
			test.change(s)
		})
		id := get(t, api, "/api/v1/prices/latest?symbol=AAPL&stale=allow").Header().Get("Pricemill-Request")
		assert.Equal(t, test.asked, id != "", name)
		if test.asked {
			assert.Equal(t, id, log.all()[0].(schema.FetchRequested).RequestID, name)
		}
	}
}

func TestADeletedJob(t *testing.T) {
	t.Parallel()
	assert.True(t, errors.Is(jobs.ErrForgotten, projections.ErrNotFound))
	log := &commands{}
	api := newAPI(t, func(s *setup) {
		s.Commands, s.Jobs = log, &jobList{forgotten: true}
	})
	w := get(t, api, "/api/v1/prices/poll/poll_abc12345")
	assert.Equal(t, http.StatusNotFound, w.Code)
	assert.Contains(t, w.Body.String(), "JOBS_RETENTION")
	r := request(http.MethodPost, "/api/v1/prices/poll", `{"symbols":["AAPL"],"interval":60}`, "Content-Type", "application/json", "Idempotency-Key", "old")
	w = serve(t, api, r)
	assert.Equal(t, http.StatusConflict, w.Code)
	assert.True(t, strings.Contains(w.Body.String(), "use another key"), w.Body.String())
	assert.Empty(t, log.all(), "nothing is started")
}
