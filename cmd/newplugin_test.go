package cmd_test

import (
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// codeBlocks are the blocks of a language in a document, in their order.
func codeBlocks(t *testing.T, file, language string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var blocks []string
	for _, found := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}

// tutorial is an empty folder in which docs/plugins.md is followed.
type tutorial struct {
	t       *testing.T
	dir     string // where the next block runs
	address string
	env     []string
}

// run runs a block of the document as it stands, but for the port.
func (tu *tutorial) run(block string) (string, error) {
	script := "set -e\n" + strings.ReplaceAll(block, "127.0.0.1:8000", tu.address)
	c := exec.Command("sh", "-c", script)
	c.Dir, c.Env = tu.dir, tu.env
	out, err := c.CombinedOutput()
	return string(out), err
}

func (tu *tutorial) must(block string) string {
	tu.t.Helper()
	out, err := tu.run(block)
	require.NoError(tu.t, err, "%s\n%s", block, out)
	return out
}

// eventually runs a block until it succeeds and its output holds a text.
func (tu *tutorial) eventually(block, holds string) {
	tu.t.Helper()
	var out string
	require.Eventually(tu.t, func() bool {
		var err error
		out, err = tu.run(block)
		return err == nil && strings.Contains(out, holds)
	}, 30*time.Second, 20*time.Millisecond, "%s never gave %s", block, holds)
}

// serve starts the service that a block starts, and returns what stops it.
func (tu *tutorial) serve(block string) (stop func()) {
	tu.t.Helper()
	c := exec.Command("sh", "-c", "exec "+block)
	c.Dir, c.Env = tu.dir, tu.env
	said := newLogs()
	reader, writer := io.Pipe()
	c.Stderr = writer
	require.NoError(tu.t, c.Start())
	followed := make(chan struct{})
	go func() { said.follow(reader); close(followed) }()
	said.await(tu.t, "pipeline running")
	said.await(tu.t, "listening")
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		assert.NoError(tu.t, c.Process.Signal(syscall.SIGTERM))
		assert.NoError(tu.t, c.Wait(), "%s", said)
		assert.NoError(tu.t, writer.Close())
		<-followed
	}
	tu.t.Cleanup(stop)
	return stop
}

// docs/plugins.md, followed to the letter in an empty folder. Nothing is downloaded:
// the modules are those of this checkout, and .ci/bare holds that there are no more
// of them than `go test` itself needs.
func TestTheTutorialOfPlugins(t *testing.T) {
	t.Parallel()
	checkout, err := filepath.Abs("..")
	require.NoError(t, err)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "pricemill"), "./cmd/pricemill")
	build.Dir = checkout
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	address := freeAddress(t, rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)))
	folder := t.TempDir()
	tu := &tutorial{t: t, dir: folder, address: address, env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "PRICEMILL="+checkout,
		"HTTP_ADDR="+address, "DATABASE_URL=", "KAFKA_BOOTSTRAP_SERVERS=", "GOFLAGS=-mod=readonly", "GOPROXY=off", "GOWORK=off")}
	steps := codeBlocks(t, "../docs/plugins.md", "sh")
	require.Len(t, steps, 7, "the document has other steps: %q", steps)

	tu.must(steps[0])
	tu.dir = filepath.Join(folder, "daily-range")
	shown := codeBlocks(t, "../docs/plugins.md", "go")
	for i, file := range []string{"dailyrange/dailyrange.go", "dailyrange/dailyrange_test.go"} {
		written, err := os.ReadFile(filepath.Join(tu.dir, file))
		require.NoError(t, err)
		assert.Equal(t, string(written), shown[i], "the document shows another %s", file)
	}
	assert.Empty(t, tu.must("gofmt -l . && go vet ./..."))
	for _, file := range []string{"main.go"} {
		text, err := os.ReadFile(filepath.Join(tu.dir, file))
		require.NoError(t, err)
		assert.Regexp(t, `_ "daily-range/dailyrange"`, string(text))
	}

	stop := tu.serve(steps[1])
	tu.eventually(steps[2], `{"items":[{"symbol":"AAPL","provider":"simulated","timestamp":`)
	tu.eventually(steps[3], `pricemill_stage_batch_records_count{stage="daily-range.g1"}`)
	assert.Contains(t, tu.must(steps[3]), "how many prices of a day there must be")
	tu.eventually("curl -sf http://127.0.0.1:8000/openapi.json", "/api/v1/indicators/daily-range")
	stop()

	tu.must(steps[4])
	stop = tu.serve(steps[5])
	tu.eventually(steps[6], `pricemill_stage_batch_records_count{stage="daily-range.g2"}`)
	tu.eventually(steps[6], `{"items":[{"symbol":"AAPL","provider":"simulated","timestamp":`)
	stop()

	// A plugin may bring modules of its own, and whose licences those are is said.
	assert.NotContains(t, tu.must("./daily-range licenses"), "not known here")
	require.NoError(t, os.WriteFile(filepath.Join(tu.dir, "more.go"), []byte("package main\n\nimport _ \"github.com/stretchr/testify/assert\"\n"), 0o600))
	_, unlisted, _ := strings.Cut(tu.must("go build -o more . && ./more licenses"), "not known here")
	assert.Regexp(t, `(?m)^github\.com/stretchr/testify +v\S+$`, unlisted)
	assert.NotContains(t, unlisted, "github.com/IBM/sarama")

	// The section of the settings, as the document has it, and a key of none.
	settings := codeBlocks(t, "../docs/plugins.md", "yaml")[0]
	file := filepath.Join(folder, "settings.yaml")
	for text, want := range map[string]string{settings: "", strings.Replace(settings, "least", "leest", 1): `there is no setting "leest"; did you mean "least"?`} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		out, err := tu.run("./daily-range topology --config " + file)
		if want == "" {
			require.NoError(t, err, out)
		} else {
			require.Error(t, err)
			assert.Contains(t, out, want)
		}
	}
}

func TestNewPluginRefuses(t *testing.T) {
	checkout, err := filepath.Abs("..")
	require.NoError(t, err)
	dir := t.TempDir()
	t.Chdir(dir)
	for name, want := range map[string]string{
		"Daily":   "is no name for a plugin",
		"-x":      "",
		"a--b":    "is no name for a plugin",
		"../x":    "is no name for a plugin",
		"func":    "is no name for a plugin",
		"candles": `there is a module "candles" in this binary already`,
	} {
		status, _, stderr := run(t, environment{}, "new", "plugin", name)
		assert.Equal(t, 2, status, name)
		assert.Contains(t, stderr, want)
	}
	status, _, stderr := run(t, environment{}, "new", "plugin", "x", "--replace", dir)
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "no checkout of pricemill")
	status, _, stderr = run(t, environment{}, "new", "plugin", "x")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "is not a release", "no module could require it")
	require.NoError(t, os.Mkdir("there", 0o700))
	status, _, stderr = run(t, environment{}, "new", "plugin", "there", "--replace", checkout)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "making the folder")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing was written")
}
