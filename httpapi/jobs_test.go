package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

const polls = "/api/v1/prices/poll"

func TestJob(t *testing.T) {
	t.Parallel()
	job := activeJob("poll_bcdefghi", eventTime)
	job.LastRun, job.Runs, job.Prices, job.Unchanged, job.Failures = eventTime.Add(time.Second), 4, 3, 2, 1
	job.LastFailure = &jobs.Failure{Symbol: "AAPL", Code: schema.CodeNotConfigured, Reason: "no key", At: eventTime}
	fresh := activeJob("poll_abc12345", eventTime)
	fresh.Status, fresh.NextRun = schema.JobPaused, schema.Time{}
	api := newAPI(t, func(s *setup) { s.Jobs = &jobList{jobs: []jobs.Job{job, fresh}} })
	const config = `"config":{"symbols":["AAPL"],"interval":60,"provider":"finnhub"},"created_at":"2025-06-15T14:30:00.000000Z",`
	first := `{"job_id":"poll_bcdefghi","status":"active",` + config + `"next_run":"2025-06-15T14:30:00.000000Z","last_run":"2025-06-15T14:30:01.000000Z",` +
		`"last_error":{"symbol":"AAPL","code":"not_configured","reason":"no key","timestamp":"2025-06-15T14:30:00.000000Z"},` +
		`"counts":{"runs":4,"prices":3,"unchanged":2,"failures":1}}`
	second := `{"job_id":"poll_abc12345","status":"paused",` + config + `"next_run":null,"last_run":null,"last_error":null,` +
		`"counts":{"runs":0,"prices":0,"unchanged":0,"failures":0}}`
	expect(t, get(t, api, polls+"/poll_bcdefghi"), http.StatusOK, first)
	expect(t, get(t, api, polls+"/poll_abc12345"), http.StatusOK, second)
	expect(t, get(t, api, polls), http.StatusOK, `{"items":[`+first+`,`+second+`]}`)
}

func TestPagesOfJobs(t *testing.T) {
	t.Parallel()
	model := &jobList{}
	for i := range 7 {
		model.add(activeJob(fmt.Sprint("poll_job0000", i), eventTime.Add(time.Duration(i/2)*time.Second))) // two at a time
	}
	api := newAPI(t, func(s *setup) { s.Jobs = model })
	seen := ""
	for next := polls + "?limit=3"; next != ""; {
		w := get(t, api, next)
		for _, found := range regexp.MustCompile(`poll_job0000(.)`).FindAllStringSubmatch(w.Body.String(), -1) {
			seen += found[1]
		}
		next = nextPage(t, w)
		model.add(activeJob("poll_newcomer", eventTime.Add(time.Hour)))
	}
	if seen != "6543210" {
		t.Errorf("saw %s", seen)
	}
	expect(t, get(t, newAPI(t, func(s *setup) { s.Jobs = &jobList{} }), polls), http.StatusOK, `{"items":[]}`)
	list := []string{polls}
	for _, query := range []string{"limit=1001", "cursor=x", "cursor=" + httpapi.Cursor(list, "soon", "a"),
		"cursor=" + httpapi.Cursor(list, "0000-06-15T14:30:00Z", "a"), "cursor=" + httpapi.Cursor([]string{"/api/v1/symbols", ""}, "a", "b")} {
		if w := get(t, api, polls+"?"+query); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

// command sends one and returns the answer with what was published.
func command(t *testing.T, method, path string, model *jobList) (*httptest.ResponseRecorder, []schema.Payload) {
	t.Helper()
	log := &commands{}
	api := newAPI(t, func(s *setup) {
		s.Jobs, s.Commands = model, log
		s.Now = func() time.Time { return eventTime.Time }
	})
	return serve(t, api, request(method, polls+"/"+path, "")), log.all()
}

func TestCommands(t *testing.T) {
	t.Parallel()
	const id = "poll_abc12345"
	for _, c := range []struct {
		method, path string
		event        schema.Payload
	}{
		{http.MethodPost, id + "/pause", schema.PollingJobPaused{JobID: id, PausedAt: eventTime}},
		{http.MethodPost, id + "/resume", schema.PollingJobResumed{JobID: id, ResumedAt: eventTime}},
		{http.MethodDelete, id, schema.PollingJobStopped{JobID: id, StoppedAt: eventTime}},
	} {
		for _, status := range []schema.JobStatus{schema.JobActive, schema.JobPaused, schema.JobStopped} {
			job := activeJob(id, eventTime)
			job.Status = status
			w, published := command(t, c.method, c.path, &jobList{jobs: []jobs.Job{job}})
			if status == schema.JobStopped {
				expect(t, w, http.StatusConflict, `{"detail":"Polling job poll_abc12345 is stopped"}`)
				if len(published) != 0 {
					t.Errorf("published %v", published)
				}
				continue
			}
			// The read model may be behind, so what seems to be so is said again.
			expect(t, w, http.StatusAccepted, `{"job_id":"poll_abc12345","status":"accepted"}`)
			if !reflect.DeepEqual(published, []schema.Payload{c.event}) || w.Header().Get("X-Log-Position") != "polling-jobs:3:42" {
				t.Errorf("published %v, %v", published, w.Header())
			}
		}
	}
}

// A job that was posted a moment ago may not be in the read model yet: only one
// that has caught up says that there is none.
func TestAJobOnItsWayIsWaitedFor(t *testing.T) {
	mustContract(t)
	for _, c := range []struct {
		method, path string
		status       int
	}{{http.MethodPost, "/pause", http.StatusAccepted}, {http.MethodGet, "", http.StatusOK}} {
		for _, test := range []struct {
			behind time.Duration
			posted bool
			status int
			waited time.Duration
		}{
			{4 * time.Second, true, c.status, 4 * time.Second},
			{0, false, http.StatusNotFound, 0},
			{4 * time.Second, false, http.StatusNotFound, 4 * time.Second},
			{time.Minute, true, http.StatusServiceUnavailable, 5 * time.Second},
		} {
			synctest.Test(t, func(t *testing.T) {
				model := &jobList{behind: test.behind}
				if test.posted {
					folded := time.AfterFunc(test.behind-time.Nanosecond, func() { model.add(activeJob("poll_abc12345", eventTime)) })
					defer folded.Stop()
				}
				begin := time.Now()
				w, published := command(t, c.method, "poll_abc12345"+c.path, model)
				if waited := time.Since(begin); w.Code != test.status || waited != test.waited {
					t.Errorf("%s, %+v: %d after %v", c.method, test, w.Code, waited)
				}
				if (len(published) == 1) != (w.Code == http.StatusAccepted) {
					t.Errorf("%s, %+v: %d, published %v", c.method, test, w.Code, published)
				}
			})
		}
	}
}

func TestIDsThatNoJobHas(t *testing.T) {
	t.Parallel()
	for path, detail := range map[string]string{
		"nope":                   `There is no polling job \"nope\"`,
		"%00":                    `There is no polling job \"\\x00\"`,
		"a%FFb":                  `There is no polling job \"a\\xffb\"`,
		"a%20%22":                `There is no polling job \"a \\\"\"`,
		strings.Repeat("x", 999): `There is no polling job \"` + strings.Repeat("x", 64) + `…\"`,
	} {
		w, published := command(t, http.MethodPost, path+"/pause", &jobList{})
		expect(t, w, http.StatusNotFound, `{"detail":"`+detail+`"}`)
		if len(published) != 0 {
			t.Errorf("published %v", published)
		}
	}
}

// A client that hangs up is not waited on, and a database that is down is said
// to be.
func TestWaitingForAJobEnds(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		begin := time.Now()
		w := httptest.NewRecorder()
		api := newAPI(t, func(s *setup) { s.Jobs = &jobList{behind: time.Second} })
		dropped := drops(api, w, request(http.MethodGet, polls+"/poll_abc12345", "").WithContext(ctx))
		if waited := time.Since(begin); !dropped || waited != 100*time.Millisecond {
			t.Errorf("dropped %v, %d after %v", dropped, w.Code, waited)
		}
	})
	api := newAPI(t, func(s *setup) { s.Jobs = brokenJobs{} })
	for _, path := range []string{polls, polls + "/poll_abc12345"} {
		expect(t, get(t, api, path), http.StatusServiceUnavailable, `{"detail":"Service temporarily unavailable"}`)
	}
}

type brokenJobs struct{}

func (brokenJobs) Get(context.Context, string) (jobs.Job, error) {
	return jobs.Job{}, httpapi.ErrUnavailable
}

func (brokenJobs) Open(context.Context, []string) (int, []string, error) {
	return 0, nil, httpapi.ErrUnavailable
}

func (brokenJobs) WaitCaughtUp(context.Context) error { return httpapi.ErrUnavailable }

func (brokenJobs) List(context.Context, jobs.Place, int) ([]jobs.Job, error) {
	return nil, httpapi.ErrUnavailable
}

func TestACommandOfAnotherSiteIsRefused(t *testing.T) {
	t.Parallel()
	log := &commands{}
	api := newAPI(t, func(s *setup) { s.Commands = log })
	for method, path := range map[string]string{http.MethodPost: "/poll_abc12345/pause", http.MethodDelete: "/poll_abc12345"} {
		w := serve(t, api, request(method, polls+path, "", "Origin", "https://evil.example"))
		if w.Code != http.StatusForbidden || len(log.all()) != 0 {
			t.Errorf("%s: %d, published %v", method, w.Code, log.all())
		}
	}
}
