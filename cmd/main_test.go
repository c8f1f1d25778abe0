package cmd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/cmd"
	"github.com/pricemill/pricemill/internal/proxytest"

	_ "github.com/pricemill/pricemill/handlers/fetch"
	_ "github.com/pricemill/pricemill/handlers/normalize"
	_ "github.com/pricemill/pricemill/handlers/provider/coinbase"
	_ "github.com/pricemill/pricemill/handlers/provider/csv"
	_ "github.com/pricemill/pricemill/handlers/provider/finnhub"
	_ "github.com/pricemill/pricemill/handlers/provider/simulated"
	_ "github.com/pricemill/pricemill/handlers/provider/yahoo"
	_ "github.com/pricemill/pricemill/handlers/rawstore"
	_ "github.com/pricemill/pricemill/handlers/schedule"
	_ "github.com/pricemill/pricemill/handlers/stream"
	_ "github.com/pricemill/pricemill/projections/jobs"
	_ "github.com/pricemill/pricemill/projections/latestprices"
	_ "github.com/pricemill/pricemill/projections/movingaverages"
	_ "github.com/pricemill/pricemill/projections/processedprices"
	_ "github.com/pricemill/pricemill/projections/requests"
)

// asProgram makes this test binary behave as the program.
const asProgram = "PRICEMILL_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		limitPages()
		os.Exit(cmd.Main(context.Background(), os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m, append(proxytest.Left(),
		// http.DefaultTransport keeps idle connections of the tests' own client.
		goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"),
		// sarama's metrics start one goroutine a process, and keep it.
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))...)
}

// environment is what a program under test sees.
type environment map[string]string

func (e environment) lookup(name string) (string, bool) {
	value, set := e[name]
	return value, set
}

// with returns the settings with those of more before them.
func (e environment) with(more environment) environment {
	full := maps.Clone(e)
	maps.Copy(full, more)
	return full
}

// logs collects what a program writes to stderr.
type logs struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines []map[string]any
	ended bool
	news  chan struct{} // closed and replaced at every change
}

func newLogs() *logs { return &logs{news: make(chan struct{})} }

// follow reads JSON lines from r until it ends.
func (l *logs) follow(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		l.change(func() {
			l.text.Write(append(scanner.Bytes(), '\n'))
			var line map[string]any
			if json.Unmarshal(scanner.Bytes(), &line) == nil {
				l.lines = append(l.lines, line)
			}
		})
	}
	l.change(func() { l.ended = true })
}

func (l *logs) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.news)
	l.news = make(chan struct{})
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// find returns the first line with this message, or what to wait for.
func (l *logs) find(message string) (line map[string]any, ended bool, news <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line["msg"] == message {
			return line, false, nil
		}
	}
	return nil, l.ended, l.news
}

// all returns the lines with this message.
func (l *logs) all(message string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for _, line := range l.lines {
		if line["msg"] == message {
			found = append(found, line)
		}
	}
	return found
}

// atLevel returns the lines of a level.
func (l *logs) atLevel(level string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.lines), func(line map[string]any) bool { return line["level"] != level })
}

// await returns the first line with this message, once it is there.
func (l *logs) await(t testing.TB, message string) map[string]any {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		line, ended, news := l.find(message)
		if line != nil {
			return line
		}
		require.False(t, ended, "the program ended before it said %q:\n%s", message, l)
		select {
		case <-news:
		case <-timeout:
			require.Failf(t, "timeout", "the program did not say %q:\n%s", message, l)
		}
	}
}

// program is the program, running inside the test.
type program struct {
	t    testing.TB
	url  string
	env  environment
	logs *logs
	key  string // an API key that requests have; empty for none
	stop func() int
	kill func() // of a process alone
}

// start runs "pricemill serve" in this process on a stack of its own.
func start(t testing.TB, env environment) *program {
	t.Helper()
	p := &program{t: t, env: newStack(t, env), logs: newLogs()}
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		exit <- cmd.Main(ctx, []string{"serve"}, p.env.lookup, io.Discard, writer)
		_ = writer.Close() // never fails
	}()
	followed := make(chan struct{})
	go func() { p.logs.follow(reader); close(followed) }()
	var once sync.Once
	var status int
	p.stop = func() int {
		once.Do(func() { cancel(); status = <-exit; <-followed })
		return status
	}
	t.Cleanup(func() {
		assert.Zero(t, p.stop(), "exit status; log:\n%s", p.logs)
	})
	p.url = p.logs.await(t, "listening")["url"].(string)
	p.logs.await(t, "pipeline running")
	return p
}

// answer is an HTTP answer.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) field(t testing.TB, name string) any {
	t.Helper()
	var object map[string]any
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&object), a.body)
	return object[name]
}

func (p *program) get(path string) answer { return p.do(http.MethodGet, path, "") }

func (p *program) post(path, body string) answer { return p.do(http.MethodPost, path, body) }

func (p *program) do(method, path, body string) answer {
	p.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, p.url+path, strings.NewReader(body))
	require.NoError(p.t, err)
	request.Header.Set("Content-Type", "application/json")
	return p.send(request)
}

func (p *program) send(request *http.Request) answer {
	p.t.Helper()
	if p.key != "" && request.Header.Get("Authorization") == "" {
		request.Header.Set("Authorization", "Bearer "+p.key)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer func() { assert.NoError(p.t, response.Body.Close()) }()
	content, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	return answer{response.StatusCode, response.Header, string(content)}
}

// eventually asks again until the answer has the status.
func (p *program) eventually(path string, status int) answer {
	p.t.Helper()
	var last answer
	require.Eventually(p.t, func() bool {
		last = p.get(path)
		return last.status == status
	}, 20*time.Second, 5*time.Millisecond, "%s: want %d", path, status)
	return last
}

// run runs a subcommand in this process.
func run(t testing.TB, env environment, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = cmd.Main(t.Context(), args, env.lookup, &out, &errs)
	return status, out.String(), errs.String()
}

// command is the program as a process of its own, to be started.
func command(t testing.TB, env environment, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	process := exec.Command(self, args...)
	process.Env = append(os.Environ(), asProgram+"=1", "DEMO=off")
	for name, value := range env {
		process.Env = append(process.Env, name+"="+value)
	}
	return process
}

// spawn starts the program as a process of its own, which can be killed.
func spawn(t testing.TB, env environment) (*exec.Cmd, *logs) {
	t.Helper()
	return launched(t, command(t, env, "serve"))
}

// launched starts a process, and collects its log.
func launched(t testing.TB, process *exec.Cmd) (*exec.Cmd, *logs) {
	t.Helper()
	stderr, err := process.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill() // it may have ended, and been waited for
		_ = process.Wait()
	})
	l := newLogs()
	go l.follow(stderr)
	return process, l
}
