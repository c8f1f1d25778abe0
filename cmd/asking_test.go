package cmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// client asks the API all the time, as many clients would, and notes each answer
// that is not a success.
type client struct {
	url  string
	http http.Client
	stop context.CancelFunc
	over context.Context // ends the asking
	done sync.WaitGroup
	// refusable says that a 503 which tells when to ask again is no fault.
	refusable bool

	mu      sync.Mutex
	answers int
	slowest time.Duration
	faults  []string
	jobs    []string // the ids of those that were accepted
	// away says that the process that answers is dead, and deaths how often it
	// died; cutOff are the requests that got no answer because of that, refused
	// those that were answered 503.
	away            bool
	deaths          int
	cutOff, refused int
}

// newClient makes a client that asks nothing yet.
func newClient(url string) *client {
	// Longer than any answer may take: one that takes longer is a fault.
	c := &client{url: url + "/api/v1/prices/", http: http.Client{Timeout: 30 * time.Second}}
	c.over, c.stop = context.WithCancel(context.Background())
	return c
}

// askAll starts asking.
func (c *client) askAll() {
	c.often(20*time.Millisecond, c.askAverage())
	c.often(20*time.Millisecond, c.askLatest)
	c.often(500*time.Millisecond, c.postJob)
}

// died says that the process that answers is about to be killed, and lives that it
// answers again.
func (c *client) died() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = true
	c.deaths++
}

func (c *client) lives() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = false
}

// awaitSuccess waits until the API answers as it should.
func (c *client) awaitSuccess(ctx context.Context) error {
	for {
		answer, err := c.exchange(http.MethodGet, "latest?max_age=3600&symbol="+anySymbol(), "")
		if err == nil && answer.status == http.StatusOK {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for a successful answer: %w; the last was %d %s, %w", ctx.Err(), answer.status, answer.body, err)
		}
	}
}

// errExcused is the end of a request that is counted and no fault.
var errExcused = errors.New("excused")

// often calls ask until the client is closed.
func (c *client) often(pause time.Duration, ask func() error) {
	c.done.Go(func() {
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		for {
			if err := ask(); err != nil && !errors.Is(err, errExcused) {
				c.mu.Lock()
				c.faults = append(c.faults, err.Error())
				c.mu.Unlock()
			}
			select {
			case <-ticker.C:
			case <-c.over.Done():
				return
			}
		}
	})
}

// close ends the asking.
func (c *client) close() {
	c.stop()
	c.done.Wait()
	c.http.CloseIdleConnections()
}

// do sends one request and reads the answer, which must have one of the statuses;
// into gets the answer of the first of them.
func (c *client) do(method, path, body string, into any, statuses ...int) error {
	c.mu.Lock()
	away, deaths := c.away, c.deaths
	c.mu.Unlock()
	began := time.Now()
	answer, err := c.exchange(method, path, body)
	took := time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil && (away || deaths != c.deaths):
		c.cutOff++
		return errExcused
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	c.answers++
	c.slowest = max(c.slowest, took)
	switch {
	case answer.status == statuses[0]:
		return json.Unmarshal([]byte(answer.body), into)
	case slices.Contains(statuses, answer.status):
		return nil
	case c.refusable && answer.status == http.StatusServiceUnavailable && answer.header.Get("Retry-After") != "":
		c.refused++
		return errExcused
	}
	return fmt.Errorf("%s %s: status %d after %v: %s", method, path, answer.status, took, answer.body)
}

func (c *client) exchange(method, path, body string) (answer, error) {
	request, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	content, err := io.ReadAll(response.Body)
	_ = response.Body.Close() // it was read to its end, or err says why not
	return answer{response.StatusCode, response.Header, string(content)}, err
}

// askAverage asks for averages, whose time must not go backwards.
func (c *client) askAverage() func() error {
	newest := map[string]time.Time{}
	return func() error {
		path := "moving-average?symbol=" + anySymbol() + "&window=5"
		var answer struct{ Timestamp time.Time }
		if err := c.do(http.MethodGet, path, "", &answer, http.StatusOK); err != nil {
			return err
		}
		if answer.Timestamp.Before(newest[path]) {
			return fmt.Errorf("%s: the average is of %v, and was of %v", path, answer.Timestamp, newest[path])
		}
		newest[path] = answer.Timestamp
		return nil
	}
}

// askLatest asks for prices, content with what is known.
func (c *client) askLatest() error {
	var answer struct{ Price json.Number }
	return c.do(http.MethodGet, "latest?max_age=3600&symbol="+anySymbol(), "", &answer, http.StatusOK)
}

// askFresh asks for a price that must be fetched, of a symbol at which the provider
// may misbehave.
func (c *client) askFresh() error {
	symbols := []string{"GOOD", "FAIL", "HANG", "SLOW", "NOPE", "JUNK", "ZERO", "HUGE"}
	var answer struct{ Price json.Number }
	return c.do(http.MethodGet, "latest?max_age=0&symbol="+symbols[rand.IntN(len(symbols))], "", &answer,
		http.StatusOK, http.StatusNotFound, http.StatusBadGateway, http.StatusGatewayTimeout)
}

// postJob asks for a symbol to be polled that no one feeds.
func (c *client) postJob() error {
	var answer struct {
		JobID string `json:"job_id"`
	}
	body := fmt.Sprintf(`{"symbols":["POLLED%d"],"interval":3600}`, rand.IntN(50))
	if err := c.do(http.MethodPost, "poll", body, &answer, http.StatusAccepted); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = append(c.jobs, answer.JobID)
	return nil
}

// anySymbol is one of those that are fed.
func anySymbol() string { return "S" + strconv.Itoa(rand.IntN(fedSymbols)) }
