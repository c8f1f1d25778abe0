package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

type accepted struct {
	JobID  string `json:"job_id"`
	Status string
	Config json.RawMessage
}

func TestPoll(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, config string }{
		{"as the original's clients send it", `{"symbols":["AAPL","MSFT"],"interval":60,"provider":"finnhub"}`,
			`{"symbols":["AAPL","MSFT"],"interval":60,"provider":"finnhub"}`},
		{"upper case, each symbol once, in order", `{"symbols":["msft"," aapl ","MSFT"],"interval":3600}`,
			`{"symbols":["MSFT","AAPL"],"interval":3600,"provider":"finnhub"}`},
		{"alias", `{"symbols":["A"],"interval":60,"provider":"yahoo_finance"}`,
			`{"symbols":["A"],"interval":60,"provider":"yahoo_finance"}`},
		{"a byte order mark", "\ufeff" + `{"symbols":["A"],"interval":60}`, `{"symbols":["A"],"interval":60,"provider":"finnhub"}`},
		{"null provider, unknown members", `{"symbols":["A"],"interval":60,"provider":null,"Symbols":1,"x":{}}`,
			`{"symbols":["A"],"interval":60,"provider":"finnhub"}`},
		{"number in a string", `{"symbols":["A"],"interval":"60"}`, `{"symbols":["A"],"interval":60,"provider":"finnhub"}`},
		{"float without a fraction", `{"symbols":["A"],"interval":60.0}`, `{"symbols":["A"],"interval":60,"provider":"finnhub"}`},
		{"exponent", `{"symbols":["A"],"interval":6e1}`, `{"symbols":["A"],"interval":60,"provider":"finnhub"}`},
		{"the last of two members", `{"interval":1,"symbols":["A"],"interval":61}`, `{"symbols":["A"],"interval":61,"provider":"finnhub"}`},
		{"ten symbols", `{"symbols":["A","B","C","D","E","F","G","H","I","J"],"interval":60}`,
			`{"symbols":["A","B","C","D","E","F","G","H","I","J"],"interval":60,"provider":"finnhub"}`},
		{"escaped symbol", `{"symbols":["\u0041&B"],"interval":60}`, `{"symbols":["A&B"],"interval":60,"provider":"finnhub"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			log := &commands{}
			w := poll(t, newAPI(t, func(s *setup) { s.Commands = log }), test.body)
			var body accepted
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != http.StatusAccepted {
				t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
			}
			if body.Status != "accepted" || string(body.Config) != test.config {
				t.Errorf("got  %s\nwant %s", w.Body, test.config)
			}
			if got := w.Header().Get("X-Log-Position"); got != "polling-jobs:3:42" {
				t.Errorf("X-Log-Position %q", got)
			}
			checkJob(t, log.all(), body)
		})
	}
}

// checkJob holds the event against the answer.
func checkJob(t *testing.T, published []schema.Payload, answer accepted) {
	t.Helper()
	if len(published) != 1 {
		t.Fatalf("published %v, want one job", published)
	}
	job := published[0].(schema.PollingJobCreated)
	if err := job.Validate(); err != nil {
		t.Error(err)
	}
	var config struct {
		Symbols  []schema.Symbol
		Interval int
		Provider schema.Provider
	}
	if err := json.Unmarshal(answer.Config, &config); err != nil {
		t.Fatal(err)
	}
	if config.Provider == "yahoo_finance" { // the name that the client gave it
		config.Provider = "yahoo"
	}
	if job.JobID != answer.JobID || job.Interval != config.Interval || job.Provider != config.Provider ||
		!reflect.DeepEqual(job.Symbols, config.Symbols) {
		t.Errorf("published %+v, answered %+v", job, answer)
	}
}

func TestJobIDsDiffer(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.RateLimitPerMinute = -1 })
	seen := map[string]bool{}
	for range 200 {
		var body accepted
		if err := json.Unmarshal(poll(t, api, `{"symbols":["A"],"interval":60}`).Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		if seen[body.JobID] {
			t.Fatalf("%s twice", body.JobID)
		}
		seen[body.JobID] = true
	}
}

// TestWhoMayPost: any type of body is read as JSON, but not for a page of
// another site.
func TestWhoMayPost(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for name, test := range map[string]struct {
		header []string
		want   int
	}{
		"no type":                   {nil, http.StatusAccepted},
		"JSON":                      {[]string{"Content-Type", "application/json; charset=utf-8"}, http.StatusAccepted},
		"curl -d":                   {[]string{"Content-Type", "application/x-www-form-urlencoded"}, http.StatusAccepted},
		"our own page":              {[]string{"Origin", "http://example.com"}, http.StatusAccepted},
		"our own page, by browser":  {[]string{"Sec-Fetch-Site", "same-origin"}, http.StatusAccepted},
		"another site":              {[]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"another site, plain text":  {[]string{"Origin", "https://evil.example", "Content-Type", "text/plain"}, http.StatusForbidden},
		"another site, by browser":  {[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"a sandboxed page":          {[]string{"Origin", "null"}, http.StatusForbidden},
		"another port, by browser":  {[]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"the user, by address line": {[]string{"Sec-Fetch-Site", "none"}, http.StatusAccepted},
	} {
		r := request(http.MethodPost, "/api/v1/prices/poll", `{"symbols":["A"],"interval":60}`, test.header...)
		w := serve(t, api, r)
		if w.Code != test.want {
			t.Errorf("%s: %d, want %d: %s", name, w.Code, test.want, w.Body)
		}
	}
}

func TestPollUnavailable(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Commands = &commands{err: httpapi.ErrUnavailable} })
	w := poll(t, api, `{"symbols":["A"],"interval":60}`)
	expect(t, w, http.StatusServiceUnavailable, `{"detail":"Service temporarily unavailable"}`)
	if w.Header().Get("Retry-After") != "5" || w.Header().Get("X-Log-Position") != "" {
		t.Errorf("headers %v", w.Header())
	}
}

func TestLargeBodies(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	const tooLarge = `{"detail":"Request body is larger than 65536 bytes"}`
	padded := func(size int) string {
		const start, end = `{"symbols":["A"],"interval":60,"x":"`, `"}`
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	expect(t, poll(t, api, padded(1<<20)), http.StatusRequestEntityTooLarge, tooLarge)
	if w := poll(t, api, padded(httpapi.MaxBody)); w.Code != http.StatusAccepted {
		t.Errorf("64 KiB: %d", w.Code)
	}
	chunked := request(http.MethodPost, "/api/v1/prices/poll", padded(httpapi.MaxBody+1))
	chunked.ContentLength = -1
	expect(t, serve(t, api, chunked), http.StatusRequestEntityTooLarge, tooLarge)
}

func TestUnreadableBodies(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	const unreadable = `{"detail":"There was an error parsing the body"}`
	expect(t, poll(t, api, "{\"symbols\":[\"\xff\"],\"interval\":60}"), http.StatusBadRequest, unreadable)
	broken := request(http.MethodPost, "/api/v1/prices/poll", "")
	broken.Body, broken.ContentLength = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)), -1
	expect(t, serve(t, api, broken), http.StatusBadRequest, unreadable)
}

// FuzzPollBody: whatever the body, the answer is in the document, and what is
// accepted is a valid event.
func FuzzPollBody(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[]", "{", `{"a":}`, "{} {}", `{"symbols":["AAPL"," msft "],"interval":60,"provider":"finnhub"}`,
		`{"symbols":["A"],"interval":"1_00.0"}`, `{"symbols":["A"],"interval":6e1}`, `{"symbols":["A"],"interval":-1e999}`,
		`{"symbols":[1,null,"",{}],"interval":true,"provider":[]}`, `{"symbols":["\ud800"],"interval":60.5}`,
		`{"symbols":["ſ"],"interval":99999999999999999999}`, "\xef\xbb\xbf{}", "{\"symbols\":[\"\xff\"]}",
	} {
		f.Add(seed)
	}
	log := &commands{}
	api := newAPI(f, func(s *setup) { s.Commands, s.RateLimitPerMinute = log, -1 })
	f.Fuzz(func(t *testing.T, body string) {
		w := poll(t, api, body)
		log.mu.Lock()
		published := log.published
		log.published = nil
		log.mu.Unlock()
		if (w.Code == http.StatusAccepted) != (len(published) == 1) {
			t.Fatalf("%d with %d events", w.Code, len(published))
		}
		for _, event := range published {
			if err := event.Validate(); err != nil {
				t.Errorf("accepted %q: %v", body, err)
			}
		}
	})
}
