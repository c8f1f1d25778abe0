package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
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
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	answers int
	slowest time.Duration
	faults  []string
	jobs    []string // the ids of those that were accepted
}

// newClient starts asking.
func newClient(url string) *client {
	// Longer than any answer may take: one that takes longer is a fault.
	c := &client{url: url + "/api/v1/prices/", http: http.Client{Timeout: 30 * time.Second}, stop: make(chan struct{})}
	c.often(20*time.Millisecond, c.askAverage())
	c.often(20*time.Millisecond, c.askLatest)
	c.often(500*time.Millisecond, c.postJob)
	return c
}

// often calls ask until the client is closed.
func (c *client) often(pause time.Duration, ask func() error) {
	c.done.Go(func() {
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		for {
			if err := ask(); err != nil {
				c.mu.Lock()
				c.faults = append(c.faults, err.Error())
				c.mu.Unlock()
			}
			select {
			case <-ticker.C:
			case <-c.stop:
				return
			}
		}
	})
}

// close ends the asking.
func (c *client) close() {
	close(c.stop)
	c.done.Wait()
	c.http.CloseIdleConnections()
}

// do sends one request and reads the answer, which must have the status.
func (c *client) do(method, path, body string, status int, into any) error {
	request, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	began := time.Now()
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	content, err := io.ReadAll(response.Body)
	took := time.Since(began)
	_ = response.Body.Close() // it was read to its end, or err says why not
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	c.mu.Lock()
	c.answers++
	c.slowest = max(c.slowest, took)
	c.mu.Unlock()
	if response.StatusCode != status {
		return fmt.Errorf("%s %s: status %d after %v: %s", method, path, response.StatusCode, took, content)
	}
	return json.Unmarshal(content, into)
}

// askAverage asks for averages, whose time must not go backwards.
func (c *client) askAverage() func() error {
	newest := map[string]time.Time{}
	return func() error {
		path := "moving-average?symbol=" + anySymbol() + "&window=5"
		var answer struct{ Timestamp time.Time }
		if err := c.do(http.MethodGet, path, "", http.StatusOK, &answer); err != nil {
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
	return c.do(http.MethodGet, "latest?max_age=3600&symbol="+anySymbol(), "", http.StatusOK, &answer)
}

// postJob asks for a symbol to be polled that nobody feeds.
func (c *client) postJob() error {
	var answer struct {
		JobID string `json:"job_id"`
	}
	body := fmt.Sprintf(`{"symbols":["POLLED%d"],"interval":3600}`, rand.IntN(50))
	if err := c.do(http.MethodPost, "poll", body, http.StatusAccepted, &answer); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = append(c.jobs, answer.JobID)
	return nil
}

// anySymbol is one of those that are fed.
func anySymbol() string { return "S" + strconv.Itoa(rand.IntN(fedSymbols)) }
