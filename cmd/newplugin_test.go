package cmd_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
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

// tutorial is an empty folder in which a page of docs/plugins is followed.
type tutorial struct {
	t    *testing.T
	dir  string // where the next block runs
	env  []string
	here *strings.Replacer // of the addresses in the page
	// running are what stops the services that blocks started; pricemill itself is the last.
	running []func()
}

// run runs a block of the page as it is, but for the addresses.
func (tu *tutorial) run(block string) (string, error) {
	c := exec.Command("sh", "-c", "set -e\n"+tu.here.Replace(block))
	c.Dir, c.Env = tu.dir, tu.env
	out, err := c.CombinedOutput()
	return regexp.MustCompile(`(?m) +$`).ReplaceAllString(string(out), ""), err
}

func (tu *tutorial) must(block string) string {
	tu.t.Helper()
	out, err := tu.run(block)
	require.NoError(tu.t, err, "%s\n%s", block, out)
	return out
}

// eventually runs a block until it succeeds and its output is right.
func (tu *tutorial) eventually(block, want string, right func(out string) bool) {
	tu.t.Helper()
	require.EventuallyWithT(tu.t, func(c *assert.CollectT) {
		out, err := tu.run(block)
		assert.NoError(c, err, out)
		assert.True(c, right(out), "%s gives\n%s\nwant\n%s", block, out, want)
	}, 60*time.Second, 50*time.Millisecond)
}

// start starts the service that a block starts, and waits until it logs all messages.
func (tu *tutorial) start(block string, messages ...string) {
	tu.t.Helper()
	c := exec.Command("sh", "-c", "exec "+tu.here.Replace(block))
	c.Dir, c.Env = tu.dir, tu.env
	said := newLogs()
	reader, writer := io.Pipe()
	c.Stderr = writer
	require.NoError(tu.t, c.Start())
	followed := make(chan struct{})
	go func() { said.follow(reader); close(followed) }()
	for _, message := range messages {
		said.await(tu.t, message)
	}
	tu.running = append(tu.running, func() {
		assert.NoError(tu.t, c.Process.Signal(syscall.SIGTERM))
		if err := c.Wait(); len(messages) > 0 { // others just die
			assert.NoError(tu.t, err, "%s", said)
		}
		assert.NoError(tu.t, writer.Close())
		<-followed
	})
}

// stop stops what was started last.
func (tu *tutorial) stop() {
	last := len(tu.running) - 1
	tu.running[last]()
	tu.running = tu.running[:last]
}

// pageBlock is a block of code in a page, or the end of a service.
var pageBlock = regexp.MustCompile("(?s)<!-- stop -->|```(\\w+)\n(.*?)```")

// follow does what a page says: runs its commands in order, and compares their output, the
// code that is shown and the settings with what there is.
func (tu *tutorial) follow(file, name string) (ran int) {
	text, err := os.ReadFile(file)
	require.NoError(tu.t, err)
	blocks := pageBlock.FindAllStringSubmatch(string(text), -1)
	for i, b := range blocks {
		kind, block := b[1], b[2]
		shown := ""
		if i+1 < len(blocks) && (blocks[i+1][1] == "text" || blocks[i+1][1] == "json") {
			shown = blocks[i+1][2]
		}
		switch {
		case kind == "":
			tu.stop()
		case kind == "go":
			tu.compareCode(block)
		case kind == "yaml":
			tu.checkSettings(block)
		case kind != "sh":
		case strings.Contains(block, " serve"):
			tu.start(block, "pipeline running", "listening")
			ran++
		case strings.HasPrefix(block, "./fake-service"):
			tu.start(block)
			ran++
		case strings.HasPrefix(block, "pricemill new"):
			// The full number of random logs is for those who write a plugin.
			if strings.Contains(block, "--kind handler") || strings.Contains(block, "--kind projection") {
				block = strings.Replace(block, "go test ./...", "go test ./... -args -rapid.checks=5", 1)
			}
			tu.must(block)
			tu.dir = filepath.Join(tu.dir, name)
			assert.Empty(tu.t, tu.must("gofmt -l . && go vet ./..."))
			tu.move("pricemill.yaml")
			ran++
		case i+1 < len(blocks) && blocks[i+1][1] == "json":
			tu.eventually(block, shown, func(out string) bool {
				return json.Valid([]byte(out)) && sameShape("json", shown, out) == nil
			})
			ran++
		case shown != "":
			tu.eventually(block, shown, func(out string) bool { return out == shown })
			ran++
		case strings.Contains(block, "curl"):
			tu.eventually(block, "an answer", func(out string) bool { return out != "" })
			ran++
		default:
			tu.must(block)
			ran++
		}
	}
	return ran
}

// move changes the addresses in a file, where there is one.
func (tu *tutorial) move(file string) {
	file = filepath.Join(tu.dir, file)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	require.NoError(tu.t, err)
	require.NoError(tu.t, os.WriteFile(file, []byte(tu.here.Replace(string(text))), 0o600))
}

// compareCode looks for the file that holds the code which is shown.
func (tu *tutorial) compareCode(shown string) {
	var files []string
	found := false
	require.NoError(tu.t, filepath.WalkDir(tu.dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" {
			text, err := os.ReadFile(path)
			require.NoError(tu.t, err)
			// Before a block changes the version.
			found = found || string(text) == shown
			files = append(files, path)
		}
		return err
	}))
	assert.True(tu.t, found, "none of %q is\n%s", files, shown)
}

// checkSettings: the section of the settings, as the page has it, and a key of none.
func (tu *tutorial) checkSettings(section string) {
	file := filepath.Join(tu.t.TempDir(), "settings.yaml")
	name := filepath.Base(tu.dir)
	key := regexp.MustCompile(`(?m)^    (\w+):`).FindStringSubmatch(section)[1]
	for text, want := range map[string]string{section: "", strings.Replace(section, "    "+key, "    "+key+"x", 1): fmt.Sprintf("there is no setting %q; did you mean %q?", key+"x", key)} {
		require.NoError(tu.t, os.WriteFile(file, []byte(text), 0o600))
		out, err := tu.run("./" + name + " topology --config " + file)
		if want == "" {
			require.NoError(tu.t, err, out)
		} else {
			require.Error(tu.t, err)
			assert.Contains(tu.t, out, want)
		}
	}
}

// TestTheTutorialsOfPlugins follows the pages of docs/plugins to the letter, each in an
// empty folder. Nothing is downloaded: the modules are those of this checkout, and .ci/bare
// holds that there are no more of them than `go test` itself needs.
func TestTheTutorialsOfPlugins(t *testing.T) {
	t.Parallel()
	checkout, err := filepath.Abs("..")
	require.NoError(t, err)
	// The program is this test's own binary: linking another one takes seconds.
	self, err := os.Executable()
	require.NoError(t, err)
	bin := t.TempDir()
	program := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asProgram, self)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "pricemill"), []byte(program), 0o700))
	pages, err := filepath.Glob("../docs/plugins/*.md")
	require.NoError(t, err)
	names := map[string]string{"handler": "price-jumps", "projection": "daily-range", "provider": "my-quotes", "source": "desk-notes"}
	require.Len(t, pages, len(names))
	for _, page := range pages {
		kind := strings.TrimSuffix(filepath.Base(page), ".md")
		t.Run(kind, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
			address, service := freeAddress(t, rng), freeAddress(t, rng)
			tu := &tutorial{t: t, dir: t.TempDir(), here: strings.NewReplacer("127.0.0.1:8000", address, "127.0.0.1:9100", service),
				env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "PRICEMILL="+checkout,
					"HTTP_ADDR="+address, "DATABASE_URL=", "KAFKA_BOOTSTRAP_SERVERS=", "GOFLAGS=-mod=readonly", "GOPROXY=off", "GOWORK=off")}
			t.Cleanup(func() {
				for len(tu.running) > 0 {
					tu.stop()
				}
			})
			assert.Greater(t, tu.follow(page, names[kind]), 6)
			if kind == "projection" {
				tu.eventually("curl -sf http://127.0.0.1:8000/openapi.json", "its route", func(out string) bool { return strings.Contains(out, "/api/v1/indicators/daily-range") })
				licencesOfAPlugin(tu)
			}
		})
	}
}

// licencesOfAPlugin: a plugin may bring modules of its own, and whose licences those are is
// said.
func licencesOfAPlugin(tu *tutorial) {
	assert.NotContains(tu.t, tu.must("./daily-range licenses"), "not known here")
	require.NoError(tu.t, os.WriteFile(filepath.Join(tu.dir, "more.go"), []byte("package main\n\nimport _ \"github.com/stretchr/testify/assert\"\n"), 0o600))
	_, unlisted, _ := strings.Cut(tu.must("go build -o more . && ./more licenses"), "not known here")
	assert.Regexp(tu.t, `(?m)^github\.com/stretchr/testify +v\S+$`, unlisted)
	assert.NotContains(tu.t, unlisted, "github.com/IBM/sarama")
}

// TestAPluginOfOneWord: its binary and its package are at different places, for all kinds.
func TestAPluginOfOneWord(t *testing.T) {
	checkout, err := filepath.Abs("..")
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	for _, kind := range []string{"projection", "handler", "provider", "source"} {
		status, stdout, stderr := run(t, environment{}, "new", "plugin", kind+"x", "--kind", kind, "--replace", checkout)
		require.Zero(t, status, stderr)
		assert.Contains(t, stdout, "./"+kind+"x serve")
		assert.NoDirExists(t, filepath.Join(kind+"x", kind+"x"), "where the binary belongs")
		assert.FileExists(t, filepath.Join(kind+"x", "plugins", kind+"x", kind+"x.go"))
		ignored, err := os.ReadFile(filepath.Join(kind+"x", ".gitignore"))
		require.NoError(t, err)
		assert.Contains(t, string(ignored), "/"+kind+"x\n")
		readme, err := os.ReadFile(filepath.Join(kind+"x", "README.md"))
		require.NoError(t, err)
		assert.Contains(t, string(readme), "\n./"+kind+"x serve")
		// No name of a plugin may be that of a package which its code imports.
		require.NoError(t, filepath.WalkDir(kind+"x", func(path string, _ fs.DirEntry, err error) error {
			if filepath.Ext(path) != ".go" {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			require.NoError(t, err)
			for _, i := range file.Imports {
				imported := strings.Trim(i.Path.Value, `"`)
				if name := filepath.Base(imported); name != kind+"x" {
					status, _, stderr := run(t, environment{}, "new", "plugin", name, "--replace", checkout)
					assert.Equal(t, 2, status, "%s imports %s", path, imported)
					assert.Contains(t, stderr, "is the name of a package that the plugin's code uses")
				}
			}
			return nil
		}))
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
	assert.Contains(t, stderr, "\n  pricemill new plugin x --kind projection --replace ")
	status, _, stderr = run(t, environment{}, "new", "plugin", "x", "--kind", "sorce")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `did you mean "source"?`)
	status, stdout, _ := run(t, environment{}, "__complete", "new", "plugin", "x", "--kind", "")
	assert.Zero(t, status)
	assert.Regexp(t, "(?s)^projection\t.*\nhandler\t.*\nprovider\t.*\nsource\t", stdout)
	require.NoError(t, os.Mkdir("there", 0o700))
	status, _, stderr = run(t, environment{}, "new", "plugin", "there", "--replace", checkout)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "making the folder")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing was written")
}
