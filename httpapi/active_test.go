package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

const (
	jobOfA    = `{"symbols":["A"],"interval":60}`
	streamOfA = `{"symbols":["A"],"provider":"simulated"}`
)

// Jobs that are not stopped are limited, whether the read model knows them yet or not.
func TestMaxActiveJobs(t *testing.T) {
	t.Parallel()
	model, log := &jobList{}, &commands{}
	api := newAPI(t, func(s *setup) { s.Jobs, s.Commands, s.MaxActiveJobs = model, log, 3 })
	status := func(want int) {
		t.Helper()
		if w := poll(t, api, jobOfA); w.Code != want {
			t.Errorf("%d, want %d: %s", w.Code, want, w.Body)
		}
	}
	stopped, paused := activeJob("poll_stopped1", eventTime), activeJob("poll_paused11", eventTime)
	stopped.Status, paused.Status = schema.JobStopped, schema.JobPaused
	model.add(stopped)
	model.add(paused)
	status(http.StatusAccepted)
	status(http.StatusAccepted)
	w := poll(t, api, jobOfA)
	expect(t, w, http.StatusConflict, `{"detail":"There are 3 polling jobs that are not stopped, and MAX_ACTIVE_JOBS allows no more: stop one first"}`)
	if w.Header().Get("X-Log-Position") != "" || len(log.all()) != 2 {
		t.Errorf("%d jobs were published", len(log.all()))
	}
	// What was published counts once when the read model knows it.
	for _, p := range log.all() {
		model.add(activeJob(p.(schema.PollingJobCreated).JobID, eventTime))
	}
	status(http.StatusConflict)
	model.mu.Lock()
	for i := range model.jobs {
		model.jobs[i].Status = schema.JobStopped
	}
	model.mu.Unlock()
	for _, want := range []int{http.StatusAccepted, http.StatusAccepted, http.StatusAccepted, http.StatusConflict} {
		status(want)
	}
}

// Of requests that come at one moment, only so many pass as there is room for.
func TestABurstOfJobs(t *testing.T) {
	t.Parallel()
	log := &commands{}
	api := newAPI(t, func(s *setup) { s.Jobs, s.Commands, s.MaxActiveJobs = &jobList{}, log, 20 })
	var clients sync.WaitGroup
	for range 100 {
		clients.Go(func() {
			api.ServeHTTP(httptest.NewRecorder(), request(http.MethodPost, "/api/v1/prices/poll", jobOfA))
		})
	}
	clients.Wait()
	if n := len(log.all()); n != 20 {
		t.Errorf("%d jobs, want 20", n)
	}
}

// A job that could not be published takes no room, and a repeated request of one that
// was takes none again.
func TestWhatTakesNoRoom(t *testing.T) {
	t.Parallel()
	log := &commands{err: errors.New("the log is down")}
	api := newAPI(t, func(s *setup) { s.Jobs, s.Commands, s.MaxActiveJobs = &jobList{}, log, 1 })
	for range 3 {
		if w := poll(t, api, jobOfA); w.Code != http.StatusInternalServerError {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	log.mu.Lock()
	log.err = nil
	log.mu.Unlock()
	for range 3 {
		if w := serve(t, api, request(http.MethodPost, "/api/v1/prices/poll", jobOfA, "Idempotency-Key", "one")); w.Code != http.StatusAccepted {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if w := poll(t, api, jobOfA); w.Code != http.StatusConflict {
		t.Errorf("a second job: %d", w.Code)
	}
}

func TestMaxActiveStreams(t *testing.T) {
	t.Parallel()
	stopped := exampleStream("stream_stopped1")
	stopped.StoppedAt = &eventTime
	log := &commands{}
	known := &streams{known: []httpapi.Stream{exampleStream("stream_abc12345"), stopped}}
	api := newAPI(t, func(s *setup) { s.Streams, s.Commands, s.MaxActiveStreams = known, log, 2 })
	start := func() *httptest.ResponseRecorder {
		return serve(t, api, request(http.MethodPost, "/api/v1/streams", streamOfA))
	}
	if w := start(); w.Code != http.StatusAccepted {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	expect(t, start(), http.StatusConflict, `{"detail":"There are 2 streams that are not stopped, and MAX_ACTIVE_STREAMS allows no more: stop one first"}`)
	if len(log.all()) != 1 {
		t.Errorf("%d streams were published", len(log.all()))
	}
}

func TestLimitsOfActivity(t *testing.T) {
	t.Parallel()
	for want, most := range map[int]int{500: 0, 700: -1} {
		log := &commands{}
		api := newAPI(t, func(s *setup) { s.Jobs, s.Commands, s.MaxActiveJobs, s.RateLimitPerMinute = &jobList{}, log, most, -1 })
		for range 700 {
			api.ServeHTTP(httptest.NewRecorder(), request(http.MethodPost, "/api/v1/prices/poll", jobOfA))
		}
		if n := len(log.all()); n != want {
			t.Errorf("a limit of %d: %d jobs, want %d", most, n, want)
		}
	}
}

// uncounted is a read model that cannot count.
type uncounted struct{ jobList }

func (*uncounted) Open(context.Context, []string) (int, []string, error) {
	return 0, nil, errors.New("no such table")
}

func TestJobsThatCannotBeCounted(t *testing.T) {
	t.Parallel()
	log := &commands{}
	api := newAPI(t, func(s *setup) { s.Jobs, s.Commands = &uncounted{}, log })
	if w := poll(t, api, jobOfA); w.Code != http.StatusInternalServerError || len(log.all()) != 0 {
		t.Errorf("%d, %d published", w.Code, len(log.all()))
	}
}

// meanwhile are jobs of which the first that is asked for becomes known while they are
// counted.
type meanwhile struct {
	*jobList
	came bool
}

func (m *meanwhile) Open(ctx context.Context, ids []string) (open int, known []string, err error) {
	_, known, err = m.jobList.Open(ctx, ids)
	if len(ids) > 0 && !m.came {
		m.came = true
		m.add(activeJob(ids[0], eventTime))
	}
	if err == nil {
		open, _, err = m.jobList.Open(ctx, nil)
	}
	return open, known, err
}

// A job that becomes known while jobs are counted is counted once.
func TestAJobThatBecomesKnownMeanwhile(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Jobs, s.MaxActiveJobs = &meanwhile{jobList: &jobList{}}, 2 })
	for i, want := range []int{http.StatusAccepted, http.StatusAccepted, http.StatusConflict, http.StatusConflict} {
		if w := poll(t, api, jobOfA); w.Code != want {
			t.Errorf("request %d: %d, want %d: %s", i+1, w.Code, want, w.Body)
		}
	}
}
