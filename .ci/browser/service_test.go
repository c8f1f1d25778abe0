package browser_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is the program, running.
type service struct {
	t   *testing.T
	url string
	dir string // of its data
	// patience is how long eventually waits; 0 means a minute.
	patience time.Duration
}

// launch starts the program with data of its own, and waits until it listens.
func launch(t *testing.T, settings ...string) *service {
	t.Helper()
	binary := os.Getenv("PRICEMILL_TEST_BINARY")
	if binary == "" {
		t.Fatal("PRICEMILL_TEST_BINARY is not set: run make test-browser")
	}
	s := &service{t: t, dir: t.TempDir()}
	command := exec.Command(binary, "serve")
	command.Env = append(append(os.Environ(), "DATA_DIR="+s.dir, "HTTP_ADDR=127.0.0.1:0", "LOG_FORMAT=json"), settings...)
	out, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
	})
	address := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var line struct{ Msg, URL string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
				address <- line.URL
			}
		}
	}()
	select {
	case s.url = <-address:
	case <-time.After(time.Minute):
		t.Fatal("the service does not listen after a minute")
	}
	return s
}

// startService starts the program with jobs that poll simulated prices every second, and
// waits until there are some.
func startService(t *testing.T) *service {
	t.Helper()
	s := launch(t, "DEMO=off", "PLUGINS=all", "MIN_POLL_INTERVAL=1s")
	s.eventually("it is ready", func() bool { status, _ := s.get("/readyz", ""); return status == http.StatusOK })
	for _, symbol := range []string{"ACME", "GLOBEX", "AT&T"} {
		s.post("/api/v1/prices/poll", map[string]any{"symbols": []string{symbol}, "interval": 1, "provider": "simulated"})
	}
	s.eventually("there are prices", func() bool {
		_, body := s.get("/api/v1/prices/history?symbol=ACME", "")
		return strings.Count(body, `"price"`) >= 3
	})
	return s
}

// ingest brings lines of time, symbol, price and size into the running service, and waits
// until they are committed.
func (s *service) ingest(lines ...string) {
	s.t.Helper()
	command := exec.Command(os.Getenv("PRICEMILL_TEST_BINARY"), "ingest", "--columns", "time,symbol,price,size", "--no-header", "-")
	command.Env = append(os.Environ(), "DATA_DIR="+s.dir)
	command.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("ingesting: %v\n%s", err, out)
	}
}

func (s *service) eventually(what string, holds func() bool) {
	s.t.Helper()
	deadline := time.After(cmp.Or(s.patience, time.Minute))
	for tick := time.NewTicker(50 * time.Millisecond); !holds(); {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("after all that time it is not so that %s", what)
		}
	}
}

func (s *service) get(path, accept string) (status int, body string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	return s.do(request)
}

func (s *service) post(path string, body any) {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	if status, answer := s.do(request); status != http.StatusAccepted {
		s.t.Fatalf("POST %s: %d %s", path, status, answer)
	}
}

func (s *service) do(request *http.Request) (status int, body string) {
	s.t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}
