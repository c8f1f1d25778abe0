package cmd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
)

// A watch begins with the prices that are known, and shows those that come.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	file := filepath.Join(t.TempDir(), "prices.csv")
	ingest := func(rows string) {
		require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\n"+rows), 0o600))
		status, _, stderr := run(t, p.env, "ingest", "--provider", "csv", file)
		require.Zero(t, status, stderr)
	}
	ingest("AAA,10.50,2025-06-15T14:30:00Z\nBBB,3,2025-06-15T14:31:00Z\n")
	require.Eventually(t, func() bool { return strings.Contains(p.get("/api/v1/symbols").body, "BBB") }, 20*time.Second, 10*time.Millisecond)
	status, stdout, stderr := p.asClient("watch", "AAA", "BBB", "NONE", "--provider", "csv", "--count", "2")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `^TIMESTAMP +SYMBOL +PRICE +CHANGE +AVERAGE
2025-06-15T14:30:00.000000Z  AAA +10.5 +0.00 % +10.500
2025-06-15T14:31:00.000000Z  BBB +3 +0.00 % +3.00
$`, stdout)
	assert.Empty(t, stderr)

	out, stop := p.watching("AAA", "--provider", "csv")
	out.await(t, "10.5")
	ingest("AAA,10.521,2025-06-15T14:32:00Z\n")
	out.await(t, `2025-06-15T14:32:00.000000Z  AAA +10.521 +\+0.20 %`)
	ingest("AAA,9,2025-06-15T14:00:00Z\nAAA,10.5,2025-06-15T14:33:00Z\n") // the first is late
	out.await(t, `2025-06-15T14:33:00.000000Z  AAA +10.5 +0.00 %`)
	assert.Zero(t, stop(), "Ctrl-C is how a watch ends")
	assert.NotContains(t, out.String(), "14:00:00")

	status, stdout, _ = p.asClient("watch", "ACME", "--provider", "simulated", "--count", "0", "-o", "xml")
	assert.Equal(t, 2, status)
	assert.Empty(t, stdout)
	status, _, stderr = p.asClient("watch", "AAA", "--provider", "cvs")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `Unknown provider "cvs"; known are`)
	status, _, stderr = p.asClient("watch", "AAA", "--window", "x")
	assert.Equal(t, 2, status, stderr)
	status, _, stderr = run(t, environment{"HTTP_ADDR": "127.0.0.1:1"}, "watch", "AAA")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "is it running?")
	status, _, stderr = p.asClient("watch", "AAA", "--count", "-1")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "--count: -1 is below 0")
}

// output collects what a command writes while it runs.
type output struct{ *logs }

// Write implements io.Writer.
func (o output) Write(text []byte) (int, error) {
	o.change(func() { o.text.Write(text) })
	return len(text), nil
}

// await waits until the output has a match.
func (o output) await(t testing.TB, pattern string) {
	t.Helper()
	assert.Eventually(t, func() bool { return regexp.MustCompile(pattern).MatchString(o.String()) },
		20*time.Second, 10*time.Millisecond, "want %s", pattern)
	require.Regexp(t, pattern, o.String())
}

// watching runs the command watch until stop, which returns its status.
func (p *program) watching(args ...string) (out output, stop func() int) {
	return watch(p.t, environment{"HTTP_ADDR": strings.TrimPrefix(p.url, "http://")}, args...)
}

func watch(t testing.TB, env environment, args ...string) (out output, stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	out = output{newLogs()}
	exit := make(chan int, 1)
	go func() { exit <- cmd.Main(ctx, append([]string{"watch"}, args...), env.lookup, out, out) }()
	stopped := false
	stop = func() int {
		stopped = true
		cancel()
		return <-exit
	}
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
	})
	return out, stop
}

// pushing is a service that pushes what a test has it push, over several connections.
type pushing struct {
	*httptest.Server
	asked chan string // the ids that clients come back with
	turns []string    // what each connection is answered; "" for 503
}

func newPushing(t *testing.T, turns ...string) *pushing {
	p := &pushing{asked: make(chan string, len(turns)+1), turns: turns}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked <- r.Header.Get("Last-Event-ID")
		turn := p.turns[0]
		if len(p.turns) > 1 {
			p.turns = p.turns[1:]
		}
		if turn == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(turn)) // the client may have gone
		if strings.HasSuffix(turn, "wait\n") {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func pricedAt(id, price, second string) string {
	return fmt.Sprintf("event: price\nid: %s\ndata: {\"symbol\":\"AAA\",\"provider\":\"x\",\"price\":%s,\"timestamp\":\"2025-06-15T14:30:%sZ\"}\n\n", id, price, second)
}

// A connection that is lost is made again with the last id, and the user is told.
func TestWatchConnectsAgain(t *testing.T) {
	t.Parallel()
	const snapshot = "retry: 1\n\nevent: snapshot\nid: s1\ndata: {\"symbol\":\"AAA\",\"simulated\":true,\"price\":null,\"average\":null}\n\n"
	p := newPushing(t, snapshot+pricedAt("p1", "100", "00"), "", ": nothing new\n\nretry: 1\n\n"+pricedAt("p2", "100.5", "01"), pricedAt("p3", "99", "02")+": wait\n")
	out, stop := watch(t, environment{}, "AAA", "--url", p.URL)
	out.await(t, `14:30:02.000000Z  AAA +99.0? +−1.00 %`)
	assert.Zero(t, stop())
	for _, want := range []string{"", "p1", "p1", "p2"} {
		assert.Equal(t, want, <-p.asked)
	}
	assert.Equal(t, 1, strings.Count(out.String(), " 100.5 "), out.String())
	assert.Equal(t, 2, strings.Count(out.String(), "\nconnected again\n"), out.String())
	assert.Regexp(t, `the service ended the connection; connecting again in 1ms\n.*503 Service Unavailable.*; connecting again in 2ms\nconnected again\n`, out.String())
	assert.Equal(t, 1, strings.Count(out.String(), "simulated prices"), out.String())
}

// As JSON a watch is the events as they came.
func TestWatchAsJSON(t *testing.T) {
	t.Parallel()
	p := newPushing(t, pricedAt("p1", "100.10", "00")+"event: average\nid: a1\ndata: {\"symbol\":\"AAA\",\"window_size\":5,\"value\":100.1}\n\n"+
		"id: k1\n\n"+pricedAt("p2", "100", "01"))
	status, stdout, stderr := run(t, environment{}, "watch", "AAA", "--url", p.URL, "-o", "json", "--count", "2")
	require.Zero(t, status, stderr)
	var events []pushed
	for line := range strings.Lines(stdout) {
		var e struct {
			Event, ID string
			Data      json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		events = append(events, pushed{e.Event, e.ID, string(e.Data)})
	}
	require.Len(t, events, 3)
	assert.Equal(t, []string{"p1", "a1", "p2"}, []string{events[0].id, events[1].id, events[2].id})
	assert.Contains(t, events[0].data, `"price":100.10,`, "every digit")
}

// What the service refuses at once ends a watch; so does an answer of another server.
func TestWatchOfAnotherServer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	status, _, stderr := run(t, environment{}, "watch", "AAA", "--url", server.URL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "404 Not Found")
	junk := newPushing(t, "event: price\nid: 1\ndata: {\"price\":\"x\"}\n\n")
	status, _, stderr = run(t, environment{}, "watch", "AAA", "--url", junk.URL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "reading the event price")
}
