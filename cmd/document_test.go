package cmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documentRun counts what was done with the blocks of a document.
type documentRun struct {
	ran, compared int
	notRun        []string // why, of each block that is not
}

// fencedBlock is a block of a document with the comment before it, if there is one.
var fencedBlock = regexp.MustCompile("(?s)(?:<!-- not run: ([^\n]*) -->\n\n)?```([a-z]*)\n(.*?)```")

// runDocument runs every block of commands of a document, in their order, and compares
// each output that it shows with that of the command before it. A block that does not run
// says so in a comment.
func runDocument(t *testing.T, path string) (d documentRun) {
	t.Helper()
	document, err := os.ReadFile(path)
	require.NoError(t, err)
	execute := inThisProcess(t)
	blocks := fencedBlock.FindAllStringSubmatch(string(document), -1)
	for i, block := range blocks {
		why, kind, text := block[1], block[2], block[3]
		lines := strings.Split(strings.TrimSpace(text), "\n")
		switch {
		case why != "":
			d.notRun = append(d.notRun, why)
			for _, line := range lines {
				if words := strings.Fields(line); words[0] == "make" {
					assertTarget(t, words[1])
				}
			}
		case kind == "sh":
			d.ran += len(lines)
			for n, line := range lines {
				if last := n == len(lines)-1; last && i+1 < len(blocks) && slices.Contains([]string{"json", "text"}, blocks[i+1][2]) {
					compareOutput(t, execute, line, blocks[i+1][2], blocks[i+1][3])
					d.compared++
					continue
				}
				_, err := execute(t.Context(), line)
				require.NoError(t, err, "%s: %s", path, line)
			}
		case kind == "json" || kind == "text":
			require.True(t, i > 0 && blocks[i-1][2] == "sh" && blocks[i-1][1] == "", "%s: output of no command:\n%s", path, text)
		default:
			assert.Equal(t, "python", kind, "%s: a block that is neither run nor compared, and does not say why:\n%s", path, text)
		}
	}
	return d
}

// executor runs a line of a shell and returns its output.
type executor func(ctx context.Context, line string) (string, error)

// compareOutput runs a line until its output has the shape of the one that is shown: read
// models follow one by one, and a price may be known to one of them before it is to
// another. A line that posts runs once.
func compareOutput(t *testing.T, execute executor, line, kind, want string) {
	t.Helper()
	compare := func(c require.TestingT) {
		output, err := execute(t.Context(), line)
		require.NoError(c, err, line)
		assert.NoError(c, sameShape(kind, want, output), line)
	}
	if strings.Contains(line, " -d ") {
		compare(t)
		return
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) { compare(c) }, 2*time.Minute, 100*time.Millisecond, line)
}

// sameShape is an error where an output is not like the one that is shown.
func sameShape(kind, want, output string) error {
	if kind == "json" {
		shown, err := jsonShape(want)
		if err != nil {
			return err
		}
		got, err := jsonShape(output)
		if err == nil && !assert.ObjectsAreEqual(shown, got) {
			err = fmt.Errorf("%s\nis not like what is shown:\n%s", output, want)
		}
		return err
	}
	shown, whole := rowShapes(want)
	got, _ := rowShapes(output)
	problems := []error{}
	if shown[0] != got[0] {
		problems = append(problems, fmt.Errorf("begins with %q, and shown is %q", got[0], shown[0]))
	}
	for _, row := range shown {
		if !slices.Contains(got, row) {
			problems = append(problems, fmt.Errorf("no line like %q in\n%s", row, output))
		}
	}
	for _, row := range got {
		if whole && !slices.Contains(shown, row) {
			problems = append(problems, fmt.Errorf("a line like %q, which is not shown", row))
		}
	}
	return errors.Join(problems...)
}

// inThisProcess runs lines against a service within the test or, with
// PRICEMILL_TEST_README, as a person would against that of `make run`: see .ci/bare.
func inThisProcess(t *testing.T) executor {
	t.Helper()
	if os.Getenv("PRICEMILL_TEST_README") != "" {
		return inAShell(t)
	}
	p := start(t, environment{"PLUGINS": "candles,ema"}) // those that documents ask; all are also those of tests
	p.eventually("/readyz", http.StatusOK)
	env := maps.Clone(p.env)
	env["HTTP_ADDR"] = strings.TrimPrefix(p.url, "http://") // where clients look for it
	return func(_ context.Context, line string) (string, error) {
		if strings.HasPrefix(line, "curl ") {
			return curl(t, p, line), nil
		}
		if !strings.HasPrefix(line, "bin/pricemill ") {
			return "", fmt.Errorf("%s: this is neither curl nor pricemill", line)
		}
		status, stdout, stderr := run(t, env, arguments(line)...)
		if status != 0 || stdout == "" {
			return "", fmt.Errorf("%s: status %d, output %q: %s", line, status, stdout, stderr)
		}
		return stdout, nil
	}
}

// inAShell runs lines in the root of the repository with an empty HOME and no variables.
func inAShell(t *testing.T) executor {
	t.Helper()
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	home := t.TempDir()
	return func(ctx context.Context, line string) (string, error) {
		process := exec.CommandContext(ctx, "bash", "-eu", "-o", "pipefail", "-c", line)
		process.Dir = root
		process.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}
		output, err := process.Output()
		if err != nil {
			return "", fmt.Errorf("%s: %w", line, err)
		}
		if len(output) == 0 || strings.HasPrefix(string(output), `{"detail"`) {
			return "", fmt.Errorf("%s: answered %q", line, output)
		}
		return string(output), nil
	}
}

// volatile are the parts of an output that differ from run to run, and what they have in
// common. Times are first: they are of numbers.
var volatile = []struct {
	pattern *regexp.Regexp
	shape   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "SECOND"},
	{regexp.MustCompile(`\b(poll|stream|rebuild)_[a-z0-9]{8}\b`), "${1}_ID"},
	{regexp.MustCompile(`[+−-]?\b\d+(\.\d+)?`), "#"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

// textShape is a text without what differs from run to run.
func textShape(text string) string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.shape)
	}
	return strings.TrimSpace(text)
}

// rowShapes are the shapes of the lines of an output, each once. A line … says that
// others are left out.
func rowShapes(output string) (shapes []string, whole bool) {
	whole = true
	for line := range strings.Lines(output) {
		if line = textShape(line); line == "…" {
			whole = false
		} else if !slices.Contains(shapes, line) {
			shapes = append(shapes, line)
		}
	}
	return append(shapes, ""), whole // none is a shape too
}

// jsonShape is what an answer has in common with another of the same request: its names,
// the kinds of its numbers and the shapes of its texts.
func jsonShape(text string) (any, error) {
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return nil, fmt.Errorf("reading %q: %w", text, err)
	}
	return shapeOf(value), nil
}

func shapeOf(value any) any {
	switch v := value.(type) {
	case map[string]any:
		shapes := map[string]any{}
		for name, member := range v {
			shapes[name] = shapeOf(member)
		}
		return shapes
	case []any: // each shape once
		shapes := []any{}
		for _, element := range v {
			one := shapeOf(element)
			if !slices.ContainsFunc(shapes, func(other any) bool { return assert.ObjectsAreEqual(one, other) }) {
				shapes = append(shapes, one)
			}
		}
		return shapes
	case string:
		return textShape(v)
	}
	return fmt.Sprintf("%T", value)
}

// An output that differs in anything but times, ids and numbers is not like another.
func TestOutputsOfDocuments(t *testing.T) {
	t.Parallel()
	const table = "JOB            RUNS  PRICE  NEXT RUN\npoll_wvc3fp7a  1  -1.5  2026-11-28T21:27:05Z\n"
	for name, test := range map[string]struct {
		kind, shown, output string
		same                bool
	}{
		"numbers, ids, times":    {"text", table, "JOB RUNS PRICE NEXT RUN\npoll_abcdefg1 20 3 2027-01-02T03:04:05Z\n", true},
		"a row more of the kind": {"text", table, table + "poll_abcdefg1 20 3 2027-01-02T03:04:05Z\n", true},
		"no rows":                {"text", table, "JOB RUNS PRICE NEXT RUN\n", false},
		"another title":          {"text", table, strings.Replace(table, "RUNS", "RUN", 1), false},
		"another word":           {"text", table, strings.Replace(table, "-1.5", "-", 1), false},
		"a row of another kind":  {"text", table, table + "and more\n", false},
		"rows left out":          {"text", table + "…\n", table + "and more\n", true},
		"another precision":      {"text", table, strings.Replace(table, "05Z", "05.000000Z", 1), false},
		"JSON":                   {"json", `{"a":[{"b":1},{"b":2}],"at":"2026-11-28T21:27:05.000001Z"}`, `{"at":"2026-11-28T21:27:05.000002Z","a":[{"b":3.5}]}`, true},
		"another name":           {"json", `{"a":1}`, `{"b":1}`, false},
		"another kind":           {"json", `{"a":1}`, `{"a":"1"}`, false},
		"another text":           {"json", `{"a":"AAPL"}`, `{"a":"MSFT"}`, false},
		"nothing in a list":      {"json", `{"a":[1]}`, `{"a":[]}`, false},
		"no JSON":                {"json", `{"a":[1]}`, ``, false},
	} {
		assert.Equal(t, test.same, sameShape(test.kind, test.shown, test.output) == nil, name)
	}
}

// arguments are those of a command of the README, as a shell in the root of the
// repository would split them.
func arguments(line string) []string {
	words := regexp.MustCompile(`'[^']*'|\S+`).FindAllString(line, -1)[1:]
	for i, word := range words {
		words[i] = strings.Trim(word, "'")
		if file, ours := strings.CutPrefix(words[i], "cmd/"); ours {
			words[i] = file // tests run in cmd
		}
	}
	return words
}

func assertTarget(t *testing.T, target string) {
	t.Helper()
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^`+target+`:`, string(makefile))
}

// curlPattern is as much of curl's syntax as the documents use, and curlHeader one header.
var (
	curlPattern = regexp.MustCompile(`^curl -s ((?:-H '[^']*' )*)(?:-d '([^']*)' )?((?:-H '[^']*' )*)'?http://127\.0\.0\.1:8000([^' ]*)'?$`)
	curlHeader  = regexp.MustCompile(`-H '([^:]*): ([^']*)'`)
)

// curl does what a line says, and returns the body of the answer. One that asks for a
// problem gets one.
func curl(t testing.TB, p *program, line string) string {
	t.Helper()
	parts := curlPattern.FindStringSubmatch(line)
	require.NotNil(t, parts, line)
	headers, body, path := curlHeader.FindAllStringSubmatch(parts[1]+parts[3], -1), parts[2], parts[4]
	if body == "" && headers == nil {
		got := p.eventually(path, http.StatusOK)
		assert.True(t, json.Valid([]byte(got.body)), "%s: %s", line, got.body)
		return got.body
	}
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, header := range headers {
		request.Header.Set(header[1], header[2])
	}
	got := p.send(request)
	accept := request.Header.Get("Accept")
	assert.Equal(t, accept == "application/problem+json", got.status >= 400, "%s: %s", line, got.body)
	assert.True(t, strings.HasPrefix(got.header.Get("Content-Type"), accept), "%s: %v", line, got.header)
	return got.body
}
