package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

// submit sends a form as a browser does from one of our pages.
func submit(t *testing.T, api http.Handler, form string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return serve(t, api, request(http.MethodPost, "/dashboard/actions", form,
		append([]string{"Content-Type", "application/x-www-form-urlencoded", "Origin", "http://example.com", "Sec-Fetch-Site", "same-origin"}, header...)...))
}

// TestActions: a form does what the request of the API does that it stands for.
func TestActions(t *testing.T) {
	t.Parallel()
	paused := activeJob("poll_paused12", eventTime)
	paused.Status = schema.JobPaused
	for form, want := range map[string]struct {
		page  string
		event schema.EventType
	}{
		"do=create-job&symbols=aapl%2C+msft&interval=60&provider=yahoo_finance": {"jobs", schema.PollingJobCreated{}.EventType()},
		"do=pause-job&id=poll_abc12345":                                         {"jobs", schema.PollingJobPaused{}.EventType()},
		"do=resume-job&id=poll_paused12":                                        {"jobs", schema.PollingJobResumed{}.EventType()},
		"do=stop-job&id=poll_abc12345":                                          {"jobs", schema.PollingJobStopped{}.EventType()},
		"do=start-stream&symbols=BTC-USD&provider=yahoo":                        {"jobs", schema.StreamStarted{}.EventType()},
		"do=stop-stream&id=stream_abc12345":                                     {"jobs", schema.StreamStopped{}.EventType()},
		"do=promote-rebuild&id=rebuild_abc12345":                                {"pipeline", ""},
	} {
		log := &commands{}
		api := newAPI(t, func(s *setup) {
			s.Commands = log
			s.Jobs = &jobList{jobs: []jobs.Job{activeJob("poll_abc12345", eventTime), paused}}
		})
		w := submit(t, api, form)
		action, _, _ := strings.Cut(strings.TrimPrefix(form, "do="), "&")
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/dashboard/"+want.page+"?done="+action {
			t.Errorf("%s: %d %v %s", form, w.Code, w.Header(), visible(w.Body.String()))
			continue
		}
		if events := log.all(); want.event != "" && (len(events) != 1 || events[0].EventType() != want.event) {
			t.Errorf("%s published %v", form, events)
		}
		if page := visible(get(t, api, w.Header().Get("Location")).Body.String()); !strings.Contains(page, "was accepted") && !strings.Contains(page, "is being") && !strings.Contains(page, "was promoted") {
			t.Errorf("%s: the page says nothing of it: %s", form, page)
		}
	}
}

func TestActionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for form, want := range map[string]struct {
		status int
		says   string
	}{
		"":                                       {http.StatusUnprocessableEntity, "there is no such action"},
		"do=launch-missile":                      {http.StatusUnprocessableEntity, "there is no such action"},
		"do=%zz":                                 {http.StatusBadRequest, "parsing the form"},
		"do=create-job&symbols=AAPL&interval=59": {http.StatusUnprocessableEntity, "interval: Input should be greater than or equal to 60."},
		"do=create-job&symbols=AAPL&interval=soon":             {http.StatusUnprocessableEntity, "interval: "},
		"do=create-job&symbols=&interval=60":                   {http.StatusUnprocessableEntity, "symbols: "},
		"do=create-job&symbols=A&interval=60&provider=none":    {http.StatusBadRequest, "Unknown provider"},
		"do=pause-job&id=poll_nothing1":                        {http.StatusNotFound, "There is no polling job"},
		"do=pause-job&id=..%2F..%2Fstreams":                    {http.StatusNotFound, ""},
		"do=start-stream&symbols=A&provider=finnhub":           {http.StatusBadRequest, "cannot stream"},
		"do=start-rebuild&projection=%3Cb%3E":                  {http.StatusNotFound, "Unknown projection"},
		"do=create-job&symbols=" + strings.Repeat("A", 70_000): {http.StatusRequestEntityTooLarge, "larger than"},
	} {
		log := &commands{}
		w := submit(t, newAPI(t, func(s *setup) { s.Commands = log }), form)
		if w.Code != want.status || !strings.Contains(visible(w.Body.String()), want.says) || strings.Contains(w.Body.String(), "<b>") {
			t.Errorf("%.80s: %d %s", form, w.Code, visible(w.Body.String()))
		}
		if events := log.all(); len(events) > 0 {
			t.Errorf("%.80s published %v", form, events)
		}
	}
	down := newAPI(t, func(s *setup) { s.Commands = &commands{err: httpapi.ErrUnavailable} })
	if w := submit(t, down, "do=stop-job&id=poll_abc12345"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// TestActionsOfOtherSites: a form on a page of another site does nothing here.
func TestActionsOfOtherSites(t *testing.T) {
	t.Parallel()
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "http://evil.example"}, {"Sec-Fetch-Site", "", "Origin", "null"}} {
		log := &commands{}
		w := submit(t, newAPI(t, func(s *setup) { s.Commands = log }), "do=stop-job&id=poll_abc12345", header...)
		if w.Code != http.StatusForbidden || len(log.all()) > 0 {
			t.Errorf("%v: %d, published %v", header, w.Code, log.all())
		}
	}
}

func TestThePipelinePage(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	page := visible(get(t, api, "/dashboard/pipeline").Body.String())
	for _, want := range []string{"normalize price-events candles 13 behind", "latest-prices halted", "candles.g1 price-events 2 187 13 ", "the log has a gap", "All 0 checks are ok"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in %s", want, page)
		}
	}
}

func TestTheJobsPage(t *testing.T) {
	t.Parallel()
	page := get(t, newAPI(t, nil), "/dashboard/jobs?done=%3Cscript%3E").Body.String()
	for _, want := range []string{"poll_abc12345", "stream_abc12345", `value="pause-job"`, `value="stop-stream"`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in %s", want, page)
		}
	}
	if strings.Contains(page, `class="notice"`) {
		t.Error("the address has the page say something")
	}
}
