package cmd_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowClients are clients that take their time over everything, each with one
// connection. One that the server ends is opened again.
type slowClients struct {
	address string
	end     context.CancelFunc
	done    sync.WaitGroup
	opened  atomic.Int64
	ended   atomic.Int64 // by the server
	failed  atomic.Int64 // could not be opened
}

// trickle is how long a slow client waits between two bytes.
const trickle = time.Second

// slowly is how a client takes its time: what it sends at once, and whether it then
// sends byte by byte, or reads so.
type slowly struct {
	request string
	sends   bool
}

var waysToBeSlow = []slowly{
	{"GET /api/v1/prices/history?symbol=SLOW HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", true},
	{"POST /api/v1/prices/poll HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{", true},
	{"POST /api/v1/prices/poll HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", true},
	{"GET /api/v1/prices/history?symbol=SLOW&limit=1000 HTTP/1.1\r\nHost: localhost\r\nAccept: text/csv\r\n\r\n", false},
	{"GET /redoc/redoc.standalone.js HTTP/1.1\r\nHost: localhost\r\n\r\n", false},
	{"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", false},
	{"", false}, // says nothing at all
}

// newSlowClients opens n connections, one by one, and returns when all are open and
// every answer has begun.
func newSlowClients(t testing.TB, url string, n int) *slowClients {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &slowClients{address: strings.TrimPrefix(url, "http://"), end: cancel}
	var open sync.WaitGroup
	open.Add(n)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := range n {
		<-ticker.C
		s.done.Go(func() {
			first := sync.OnceFunc(open.Done)
			for ctx.Err() == nil {
				s.connect(ctx, waysToBeSlow[i%len(waysToBeSlow)], first)
			}
		})
	}
	open.Wait()
	return s
}

// connect keeps one connection until the server ends it, or ctx does.
func (s *slowClients) connect(ctx context.Context, how slowly, opened func()) {
	defer opened()
	conn, err := net.DialTimeout("tcp", s.address, 10*time.Second)
	failed := func() {
		if ctx.Err() == nil { // else the end of the test closed it
			s.failed.Add(1)
		}
	}
	if err != nil {
		failed()
		return
	}
	defer func() { _ = conn.Close() }() // no matter who ended it
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096) // so that an answer does not fit
	if _, err := io.WriteString(conn, how.request); err != nil {
		failed()
		return
	}
	s.opened.Add(1)
	if how.sends {
		s.done.Go(func() { // until the service has had enough
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close() // which the next byte notices
		})
	}
	ticker := time.NewTicker(trickle)
	defer ticker.Stop()
	for one := []byte("1"); err == nil; {
		if how.sends || how.request == "" {
			opened()
		}
		if how.sends {
			_, err = conn.Write(one)
		} else {
			_, err = conn.Read(one)
			opened() // its answer has begun: to make it was no slowness
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
	if ctx.Err() == nil {
		s.ended.Add(1)
	}
}

func (s *slowClients) close() {
	s.end()
	s.done.Wait()
}

// steady asks at a fixed rate, whether or not the answers keep up.
type steady struct {
	url  string
	http http.Client

	mu     sync.Mutex
	took   []time.Duration
	faults []string
}

func newSteady(url string) *steady {
	// A connection of its own for each request that is under way.
	return &steady{url: url, http: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
}

var healthyPaths = []string{"/api/v1/prices/moving-average?symbol=SLOW", "/api/v1/prices/history?symbol=SLOW&limit=20",
	"/api/v1/prices/latest?symbol=AAPL&provider=simulated&max_age=3600", "/api/v1/symbols", "/livez", "/readyz"}

// ask asks for so long, and returns when all is answered.
func (s *steady) ask(rate int, d time.Duration) (took []time.Duration) {
	s.took = nil
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	var under sync.WaitGroup
	for i := range rate * int(d/time.Second) {
		<-ticker.C
		due := time.Now()
		under.Go(func() {
			err := s.one(healthyPaths[i%len(healthyPaths)])
			s.mu.Lock()
			defer s.mu.Unlock()
			s.took = append(s.took, time.Since(due))
			if err != nil {
				s.faults = append(s.faults, err.Error())
			}
		})
	}
	under.Wait()
	slices.Sort(s.took)
	return s.took
}

func (s *steady) one(path string) error {
	response, err := s.http.Get(s.url + path)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was read, or err says why not
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d: %s (%w)", path, response.StatusCode, body, err)
	}
	return nil
}

// latency is what the table of faults shows of sorted times.
func latency(took []time.Duration) string {
	at := func(part int) string {
		return fmt.Sprintf("%.1f", float64(took[(len(took)-1)*part/100].Microseconds())/1000)
	}
	return fmt.Sprintf("p50 %s, p99 %s, max %s ms", at(50), at(99), at(100))
}

// newHistory has a service know a thousand prices of SLOW, and one of AAPL.
func newHistory(t testing.TB, p *program) {
	t.Helper()
	var rows strings.Builder
	rows.WriteString("symbol,price,time\n")
	at := time.Date(2025, 6, 15, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		fmt.Fprintf(&rows, "SLOW,%d.25,%s\n", 100+i%50, at.Add(time.Duration(i)*time.Second).Format(time.RFC3339))
	}
	path := filepath.Join(t.TempDir(), "slow.csv")
	require.NoError(t, os.WriteFile(path, []byte(rows.String()), 0o600))
	status, _, stderr := run(t, p.env, "ingest", "--provider", "csv", path)
	require.Zero(t, status, stderr)
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL&provider=simulated").status)
}

// TestFaultsSlowConnections: a thousand connections that send or read byte by byte
// take nothing from those who ask at a normal pace, and leave nothing behind.
func TestFaultsSlowConnections(t *testing.T) {
	t.Parallel()
	const slow, rate = 1000, 100
	// The prices of the file are those of the default provider here.
	env := newStack(t, environment{"DEFAULT_PROVIDER": "csv"})
	_, l := spawn(t, env)
	p := &program{t: t, env: env, logs: l, url: l.await(t, "listening")["url"].(string)}
	l.await(t, "pipeline running")
	p.eventually("/readyz", http.StatusOK)
	newHistory(t, p)
	healthy := newSteady(p.url)
	healthy.ask(rate, time.Second) // what is slow once, is not for this
	before := latency(healthy.ask(rate, sizeOf(2*time.Second, 5*time.Second, 20*time.Second)))
	level := p.gauges()

	clients := newSlowClients(t, p.url, slow)
	during := latency(healthy.ask(rate, sizeOf(6*time.Second, 20*time.Second, 70*time.Second)))
	most := p.gauges()
	clients.close()
	healthy.http.CloseIdleConnections()

	t.Logf("before: %s", before)
	t.Logf("with %d slow connections: %s", slow, during)
	t.Logf("%d connections were opened, %d ended by the service, %d failed; held: %v; before: %v",
		clients.opened.Load(), clients.ended.Load(), clients.failed.Load(), most, level)
	assert.Empty(t, healthy.faults, "requests of healthy clients that failed")
	assert.Zero(t, clients.failed.Load(), "connections within the limits are let in")
	assert.GreaterOrEqual(t, most["pricemill_http_connections"], slow/2.0, "they were slow together")
	assert.NotZero(t, clients.ended.Load(), "slow headers are ended after five seconds")
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		now := p.gauges()
		assert.Less(c, now["pricemill_http_connections"], 50.0)
		assert.Less(c, now["go_goroutines"], level["go_goroutines"]+50)
		assert.Less(c, now["process_open_fds"], level["process_open_fds"]+50)
	}, time.Minute, 100*time.Millisecond, "the service holds what it held before")
	row := fmt.Sprintf("| %d slow connections, %d requests/s next to them: %s (before: %s) | %s | %d | – | – | – | – |",
		slow, rate, during, before, thisStack(), clients.opened.Load())
	t.Log(row)
	writeRow(t, row)
}

// gauges are metrics without labels, by name.
func (p *program) gauges() map[string]float64 {
	p.t.Helper()
	all := map[string]float64{}
	lines := bufio.NewScanner(strings.NewReader(p.get("/metrics").body))
	for lines.Scan() {
		var name string
		var value float64
		if n, _ := fmt.Sscan(lines.Text(), &name, &value); n == 2 {
			switch name {
			case "pricemill_http_connections", "go_goroutines", "process_open_fds", "process_resident_memory_bytes":
				all[name] = value
			}
		}
	}
	return all
}
