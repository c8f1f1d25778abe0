package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is that of the clients of a visitor: an answer that takes longer is
// none. The API gives each query six seconds, and a price that must be fetched
// the time of FETCH_TIMEOUT and two seconds on top.
const patience = 15 * time.Second

// question is what a visitor asks, and which statuses may answer it while the
// services are down. 503 must say when to ask again, unless it is a check.
type question struct {
	name    string
	pause   time.Duration
	method  string
	path    func() string
	body    func() string
	allowed []int
	check   bool
	// look, if not nil, looks into an answer with the first of the statuses.
	look func(answer) error
}

// tally counts the answers to one kind of request.
type tally struct {
	statuses map[int]int
	slowest  time.Duration
}

// visitor asks a process everything, all the time, whatever happens to the
// services behind it, and notes each answer that should not be.
type visitor struct {
	name, url string
	http      http.Client
	stop      chan struct{}
	done      sync.WaitGroup

	mu      sync.Mutex
	tallies map[string]*tally
	faults  []string
	jobs    []string // the ids of those that were accepted
}

// newVisitor starts asking a process with the API.
func newVisitor(name, url string) *visitor {
	v := newWatcher(name, url)
	path := func(pattern string) func() string {
		return func() string { return fmt.Sprintf("/api/v1/prices/"+pattern, anySymbol()) }
	}
	for _, q := range []question{
		{name: "average", pause: 50 * time.Millisecond, path: path("moving-average?window=5&symbol=%s"), allowed: []int{200, 503}},
		{name: "average of any window", pause: 200 * time.Millisecond, path: path("moving-average?window=7&symbol=%s"), allowed: []int{200, 503}},
		{name: "history", pause: 200 * time.Millisecond, path: path("history?limit=5&symbol=%s"), allowed: []int{200, 503}},
		{name: "known price", pause: 50 * time.Millisecond, path: path("latest?max_age=3600&symbol=%s"), allowed: []int{200, 503}},
		{name: "fresh price", pause: 200 * time.Millisecond, path: path("latest?max_age=0&symbol=%s"), allowed: []int{200, 503, 504}},
		{name: "stale price", pause: 200 * time.Millisecond, path: path("latest?max_age=0&stale=allow&symbol=%s"), allowed: []int{200, 503}},
		{name: "jobs", pause: 200 * time.Millisecond, path: func() string { return "/api/v1/prices/poll" }, allowed: []int{200, 503}},
		{name: "job created", pause: 300 * time.Millisecond, method: http.MethodPost, path: func() string { return "/api/v1/prices/poll" },
			body:    func() string { return fmt.Sprintf(`{"symbols":["POLLED%d"],"interval":3600}`, rand.IntN(50)) },
			allowed: []int{202, 503}, look: v.noteJob},
	} {
		v.ask(q)
	}
	return v
}

// newWatcher asks a process only what watches it.
func newWatcher(name, url string) *visitor {
	v := &visitor{name: name, url: url, http: http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
		stop: make(chan struct{}), tallies: map[string]*tally{}}
	for _, q := range []question{
		{name: "/livez", pause: 100 * time.Millisecond, allowed: []int{200}},
		{name: "/readyz", pause: 50 * time.Millisecond, allowed: []int{200, 503}},
		{name: "/metrics", pause: time.Second, allowed: []int{200}},
	} {
		q.path, q.check = func() string { return q.name }, true
		v.ask(q)
	}
	return v
}

func (v *visitor) noteJob(a answer) error {
	var accepted struct {
		JobID string `json:"job_id"`
	}
	err := json.Unmarshal([]byte(a.body), &accepted)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.jobs = append(v.jobs, accepted.JobID)
	return err
}

// ask asks again and again until the visitor leaves.
func (v *visitor) ask(q question) {
	t := &tally{statuses: map[int]int{}}
	v.tallies[q.name] = t
	v.done.Go(func() {
		ticker := time.NewTicker(q.pause)
		defer ticker.Stop()
		for {
			began := time.Now()
			a, err := v.send(q)
			took := time.Since(began)
			if err == nil {
				err = q.judge(a)
			}
			v.mu.Lock()
			t.statuses[a.status]++
			t.slowest = max(t.slowest, took)
			if err != nil {
				v.faults = append(v.faults, fmt.Sprintf("%s %s: %s after %v: %v", began.Format("15:04:05.000"), v.name, q.name, took, err))
			}
			v.mu.Unlock()
			select {
			case <-ticker.C:
			case <-v.stop:
				return
			}
		}
	})
}

func (v *visitor) send(q question) (answer, error) {
	body := ""
	if q.body != nil {
		body = q.body()
	}
	method := q.method
	if method == "" {
		method = http.MethodGet
	}
	request, err := http.NewRequest(method, v.url+q.path(), strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := v.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	content, err := io.ReadAll(response.Body)
	_ = response.Body.Close() // it was read to its end, or err says why not
	return answer{response.StatusCode, response.Header, string(content)}, err
}

func (q question) judge(a answer) error {
	switch {
	case !slices.Contains(q.allowed, a.status):
		return fmt.Errorf("status %d: %s", a.status, a.body)
	case a.status == http.StatusServiceUnavailable && !q.check && a.header.Get("Retry-After") == "":
		return fmt.Errorf("status %d without Retry-After: %s", a.status, a.body)
	case a.status == q.allowed[0] && q.look != nil:
		return q.look(a)
	}
	return nil
}

// quit ends the asking.
func (v *visitor) quit() {
	close(v.stop)
	v.done.Wait()
	v.http.CloseIdleConnections()
}

// leave ends the asking and wants no fault.
func (v *visitor) leave(t *testing.T) {
	t.Helper()
	v.quit()
	for _, name := range slices.Sorted(maps.Keys(v.tallies)) {
		tally := v.tallies[name]
		t.Logf("%s: %s: by status %v, the slowest in %v", v.name, name, tally.statuses, tally.slowest.Round(time.Millisecond))
	}
	const most = 20
	assert.Empty(t, v.faults[:min(len(v.faults), most)], "%s: %d answers that should not be", v.name, len(v.faults))
}

// count counts the answers to a question with a status until now.
func (v *visitor) count(name string, status int) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tallies[name].statuses[status]
}

// awaitReadiness waits until a check of readiness that began after the call gives
// the status.
func (p *program) awaitReadiness(status int) {
	p.t.Helper()
	var last answer
	require.Eventually(p.t, func() bool {
		last = p.get("/readyz")
		return last.status == status
	}, 2*time.Minute, 10*time.Millisecond, "/readyz: want %d", status)
	p.t.Logf("/readyz: %d: %s", last.status, statesOf(last))
}

// statesOf are the checks of an answer of /readyz that are not well, each with its
// state.
func statesOf(a answer) []string {
	var body struct {
		Checks []struct{ Name, State string }
	}
	if json.Unmarshal([]byte(a.body), &body) != nil {
		return []string{a.body}
	}
	var bad []string
	for _, c := range body.Checks {
		if c.State != "ok" {
			bad = append(bad, c.Name+": "+c.State)
		}
	}
	return bad
}
