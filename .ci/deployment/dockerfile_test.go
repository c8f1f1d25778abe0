package deployment

import (
	"errors"
	"go/version"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// instruction is a line of a Dockerfile.
type instruction struct {
	name string
	args []string
	exec bool // its arguments are a JSON list, which needs no shell
}

func instructions(t *testing.T) []instruction {
	t.Helper()
	result, err := parser.Parse(strings.NewReader(read(t, "Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Warnings) > 0 {
		t.Errorf("warnings: %v", result.Warnings)
	}
	var all []instruction
	for _, node := range result.AST.Children {
		line := instruction{name: strings.ToLower(node.Value), exec: node.Attributes["json"]}
		for next := node.Next; next != nil; next = next.Next {
			line.args = append(line.args, next.Value)
		}
		all = append(all, line)
	}
	return all
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	last := map[string]instruction{} // of the last stage
	for _, line := range instructions(t) {
		if line.name != "from" {
			last[line.name] = line
			continue
		}
		clear(last)
		last["from"] = line
		if line.args[0] != "scratch" && !pinned.MatchString(line.args[0]) {
			t.Errorf("%s is not pinned", line.args[0])
		}
	}
	if user := strings.Join(last["user"].args, " "); !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		t.Errorf("the user is %q: an orchestrator can only tell by a number that it is not root", user)
	}
	for _, name := range []string{"entrypoint", "cmd", "healthcheck"} {
		if !last[name].exec {
			t.Errorf("%s needs a shell, which the image does not have", name)
		}
	}
	check := last["healthcheck"].args
	if want := []string{"/pricemill", "health"}; len(check) != 3 || !slices.Equal(check[1:], want) {
		t.Errorf("the health check is %q", check)
	}
	for _, name := range []string{fullFile, singleFile} {
		project, err := load(t, name, read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		for service, s := range project.Services {
			if s.Image == ours && !slices.Equal(s.HealthCheck.Test[1:], check[1:]) {
				t.Errorf("%s: %s is asked by %q", name, service, s.HealthCheck.Test)
			}
		}
	}
}

// TestTheImageHasTheNotices: those of the program and of the certificates, from the
// stage that builds.
func TestTheImageHasTheNotices(t *testing.T) {
	t.Parallel()
	made, copied := "", false
	for _, line := range instructions(t) {
		switch {
		case line.name == "from":
			copied = false
		case line.name == "run":
			made += strings.Join(line.args, " ")
		case line.name == "copy" && slices.Equal(line.args, []string{"/out/licenses", "/licenses"}):
			copied = true
		}
	}
	if !copied {
		t.Error("the last stage has no /licenses")
	}
	for _, notice := range []string{"cmd/notices.txt", "/usr/share/doc/ca-certificates/copyright"} {
		if !strings.Contains(made, "cp "+notice+" /out/licenses/") {
			t.Errorf("%s is not in /licenses", notice)
		}
	}
	if text := read(t, "cmd/notices.txt"); !strings.Contains(text, "The Go Authors") {
		t.Error("cmd/notices.txt has no licence of Go")
	}
}

// TestTheBuildersGoIsNewEnough: the image has no way to get another.
func TestTheBuildersGoIsNewEnough(t *testing.T) {
	t.Parallel()
	wanted := regexp.MustCompile(`(?m)^go (.+)$`).FindStringSubmatch(read(t, "go.mod"))
	got := regexp.MustCompile(`(?m)^FROM golang:([0-9.]+)-`).FindStringSubmatch(read(t, "Dockerfile"))
	if wanted == nil || got == nil || version.Compare("go"+got[1], "go"+wanted[1]) < 0 {
		t.Errorf("the image has Go %v, and go.mod wants %v", got, wanted)
	}
}

// TestTheContextBuilds builds the program from what .dockerignore lets through,
// as the Dockerfile does.
func TestTheContextBuilds(t *testing.T) {
	t.Parallel()
	context := t.TempDir()
	patterns, err := ignorefile.ReadAll(strings.NewReader(read(t, ".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		ignored, err := matcher.MatchesOrParentMatches(name)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && ignored:
			return fs.SkipDir // no pattern of ours lets a part of an ignored folder through
		case entry.IsDir() || ignored:
			return nil
		case regexp.MustCompile(`(^|/)(\.env.*|secrets.*|.*_test\.go|.*\.db)$`).MatchString(name):
			t.Errorf("%s goes to the builder", name)
		}
		return copyFile(path, filepath.Join(context, name))
	})
	if err != nil {
		t.Fatal(err)
	}
	run := instruction{}
	for _, line := range instructions(t) {
		if line.name == "run" && strings.Contains(line.args[0], "go build") {
			run = line
		}
	}
	out := t.TempDir()
	command := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(strings.Join(run.args, " "), "/out/", out+"/"))
	command.Dir = context
	command.Env = append(os.Environ(), "VERSION=1.2.3", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	output, err := exec.CommandContext(t.Context(), filepath.Join(out, "pricemill"), "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(output), "pricemill 1.2.3") {
		t.Errorf("%v: %s", err, output)
	}
}

func copyFile(from, to string) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	_, err = io.Copy(target, source)
	return err
}
