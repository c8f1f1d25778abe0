package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheFirstScreenOfTheREADME: what it is in two sentences, the two commands, a
// question, and its answer.
func TestTheFirstScreenOfTheREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	first, _, found := strings.Cut(string(readme), "\n## ")
	require.True(t, found)
	assert.LessOrEqual(t, strings.Count(first, "\n"), 40)
	assert.NotContains(t, string(readme), "```mermaid")
	about := strings.Split(first, "\n\n")[1]
	assert.Len(t, regexp.MustCompile(`\.(\s|$)`).FindAllString(about, -1), 2, "sentences: %s", about)
	assert.Regexp(t, "(?s)^# pricemill\n.*```sh\nmake run [^\n]*\nmake test [^\n]*\n```.*```sh\ncurl [^\n]*\n```\n\n```json\n\\{[^\n]*\\}\n```", first)
}

func TestTheREADMEsCommands(t *testing.T) {
	t.Parallel()
	ran, compared := runDocument(t, "../README.md")
	assert.Greater(t, ran, 6)
	assert.Greater(t, compared, 6)
}

func TestTheCommandsForThoseWhoComeFromTheOriginal(t *testing.T) {
	t.Parallel()
	ran, compared := runDocument(t, "../docs/from-the-original.md")
	assert.Equal(t, 3, ran)
	assert.Equal(t, 3, compared)
}

// runDocument runs every command of a document against a service, in their order, and
// compares the outputs that it shows with what they answer. Those of make are what CI
// runs.
func runDocument(t *testing.T, path string) (ran, compared int) {
	t.Helper()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	document, err := os.ReadFile(path)
	require.NoError(t, err)
	output := ""
	for _, block := range regexp.MustCompile("(?s)```(sh|json|text)\n(.*?)```").FindAllSubmatch(document, -1) {
		if kind := string(block[1]); kind != "sh" {
			assert.Equal(t, shape(t, kind, string(block[2])), shape(t, kind, output), "%s shows\n%s", path, block[2])
			compared++
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(string(block[2])), "\n") {
			switch words := strings.Fields(line); words[0] {
			case "make":
				assertTarget(t, words[1])
			case "curl":
				output = curl(t, p, line)
			case "docker":
				// make test-deployment reads the file as docker does.
				assert.Equal(t, "docker compose up --wait", line)
			case "bin/pricemill":
				env := maps.Clone(p.env)
				env["HTTP_ADDR"] = strings.TrimPrefix(p.url, "http://") // where clients look for it
				// Read models follow one by one: the price of a request may be known to
				// one of them before it is to another.
				assert.EventuallyWithT(t, func(c *assert.CollectT) {
					status, stdout, stderr := run(t, env, arguments(line)...)
					assert.Zero(c, status, "%s: %s", line, stderr)
					assert.NotEmpty(c, stdout, line)
					output = stdout
				}, 20*time.Second, 50*time.Millisecond)
			default:
				// On PostgreSQL and Kafka this whole test runs in `make test-services`.
				assert.Regexp(t, `^DATABASE_URL=postgres://\S+ KAFKA_BOOTSTRAP_SERVERS=\S+ bin/pricemill serve$`, line)
			}
			ran++
		}
	}
	return ran, compared
}

// shape is what an output has in common with another of the same command: of JSON
// its names and the kinds of its values, of a table its first line.
func shape(t testing.TB, kind, output string) any {
	t.Helper()
	if kind == "text" {
		first, _, _ := strings.Cut(output, "\n")
		return strings.Fields(first)
	}
	var value any
	require.NoError(t, json.Unmarshal([]byte(output), &value), output)
	return shapeOf(value)
}

func shapeOf(value any) any {
	switch v := value.(type) {
	case map[string]any:
		shapes := map[string]any{}
		for name, member := range v {
			shapes[name] = shapeOf(member)
		}
		return shapes
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shapeOf(v[0])}
	}
	return fmt.Sprintf("%T", value)
}

// TestCIBeginsOnABareMachine: the first commands of the README are what CI runs
// before all others, in .ci/bare, with empty caches; and the tests run only there.
func TestCIBeginsOnABareMachine(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(content)
	}
	commands := regexp.MustCompile(`(?m)^make \w+`).FindAllString(codeBlocks(t, "../README.md", "sh")[0], -1)
	require.NotEmpty(t, commands)
	// How long they take from nothing depends on the machine and its network.
	assert.NotRegexp(t, `(?i)(second|minute|hour)s?\b`, codeBlocks(t, "../README.md", "sh")[0])
	bare := read("../.ci/bare")
	assert.Contains(t, bare, "bare=(env -i PATH=")
	for _, command := range commands {
		assert.Regexp(t, `(?m)^"\$\{bare\[@\]\}" .*\b`+command+`\b`, bare)
	}
	run := read("../.ci/run")
	began := regexp.MustCompile(`(?m)^ *(make|\.ci/|go [^v]).*$`).FindString(run)
	assert.Contains(t, began, ".ci/bare ", "the first thing that is built or run")
	assert.NotRegexp(t, `(?m)^\s*make test$`, run, "once is enough")
}

// TestTheOperationsCommands: what docs/operations.md has is there, by name and by
// flag. What it does is tested where it is made.
func TestTheOperationsCommands(t *testing.T) {
	t.Parallel()
	operations, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	program := regexp.MustCompile(`(?:bin/|/)pricemill ([a-z-]+)|docker compose run --rm \w+ ([a-z-]+)`)
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(operations, -1) {
		for _, line := range strings.Split(strings.TrimSpace(string(block[1])), "\n") {
			for _, words := range program.FindAllStringSubmatch(line, -1) {
				status, stdout, stderr := run(t, environment{}, words[1]+words[2], "--help")
				assert.Zero(t, status, "%s: %s", line, stderr)
				for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(line[strings.Index(line, words[0])+len(words[0]):], -1) {
					assert.Contains(t, stdout, flag, line)
				}
				ran++
			}
			if words := strings.Fields(line); words[0] == "make" {
				assertTarget(t, words[1])
				ran++
			}
		}
	}
	assert.Greater(t, ran, 6)
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

// curlPattern is as much of curl's syntax as the README uses.
var curlPattern = regexp.MustCompile(`^curl -s (?:-d '([^']*)' )?(?:-H 'Accept: ([^']*)' )?'?http://127\.0\.0\.1:8000([^' ]*)'?$`)

// curl does what a line says, and returns the body of the answer.
func curl(t testing.TB, p *program, line string) string {
	t.Helper()
	parts := curlPattern.FindStringSubmatch(line)
	require.NotNil(t, parts, line)
	if body := parts[1]; body != "" {
		response, err := http.Post(p.url+parts[3], "application/x-www-form-urlencoded", strings.NewReader(body))
		require.NoError(t, err)
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Equal(t, http.StatusAccepted, response.StatusCode, "%s: %s", line, answer)
		return string(answer)
	}
	if accept := parts[2]; accept != "" {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+parts[3], nil)
		require.NoError(t, err)
		request.Header.Set("Accept", accept)
		got := p.send(request)
		assert.Equal(t, http.StatusOK, got.status, "%s: %s", line, got.body)
		assert.True(t, strings.HasPrefix(got.header.Get("Content-Type"), accept), "%s: %v", line, got.header)
		return got.body
	}
	got := p.eventually(parts[3], http.StatusOK)
	assert.True(t, json.Valid([]byte(got.body)), "%s: %s", line, got.body)
	return got.body
}

// TestDocumentsNameTestsThatExist: a claim whose test is gone is only a claim.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	require.NoError(t, fs.WalkDir(os.DirFS(".."), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		content, err := os.ReadFile(filepath.Join("..", name))
		code.Write(content)
		return err
	}))
	documents, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	decisions, err := filepath.Glob("../docs/decisions/[0-9]*.md")
	require.NoError(t, err)
	index, err := os.ReadFile("../docs/decisions/README.md")
	require.NoError(t, err)
	for _, decision := range decisions {
		assert.Contains(t, string(index), "("+filepath.Base(decision)+")", "the index of decisions")
	}
	documents = append(documents, decisions...)
	named := 0
	for _, document := range documents {
		content, err := os.ReadFile(document)
		require.NoError(t, err)
		for _, test := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(content), -1) {
			assert.True(t, strings.Contains(code.String(), "\nfunc "+test+"(") || strings.Contains(string(content), "\nfunc "+test+"("),
				"%s names %s", document, test) // or it is what the document writes itself
			named++
		}
	}
	assert.Greater(t, named, 10)
}

// TestEverySettingIsDocumented holds .env.example against the binary.
func TestEverySettingIsDocumented(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../.env.example")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^#([A-Z_]+)=(.*)$`).FindAllStringSubmatch(string(example), -1) {
		documented[match[1]] = match[2]
	}
	status, stdout, stderr := run(t, environment{}, "config")
	require.Zero(t, status, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")[1:] // after the titles
	assert.Len(t, documented, len(lines))
	for _, line := range lines {
		words := strings.Fields(line)
		value, known := documented[words[0]]
		assert.True(t, known, "%s is not in .env.example", words[0])
		if value != "" {
			assert.Equal(t, value, words[1], words[0])
		}
		_, meaning, _ := strings.Cut(line, "  default  ")
		comments := strings.ReplaceAll(strings.ToLower(string(example)), "\n# ", " ")
		assert.Contains(t, comments, strings.ToLower(strings.TrimSpace(meaning))+".\n#"+strings.ToLower(words[0])+"=")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, environment{"FINNHUB_API_KEY": "canary-key", "REDIS_URL": "redis://:canary-key@localhost"}, "config")
	require.Zero(t, status, stderr)
	assert.NotContains(t, stdout+stderr, "canary-key")
	assert.Contains(t, stdout, "***")
}

func TestAConfigurationFile(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		name := t.TempDir() + "/pricemill.yaml"
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	status, stdout, stderr := run(t, environment{"DEBUG": "true"}, "config", "--config",
		write("http_addr: 127.0.0.1:9999\ndebug: false\nmodules:\n  fetch:\n    concurrency: 3\n"))
	require.Zero(t, status, stderr)
	assert.Regexp(t, `HTTP_ADDR +127\.0\.0\.1:9999`, stdout, "the file wins over the default")
	assert.Regexp(t, `DEBUG +true`, stdout, "the environment wins over the file")
	for text, hint := range map[string]string{
		"htp_addr: x\n": `did you mean "http_addr"?`,
		"modules:\n  fetsch:\n    concurrency: 3\n": `no module "fetsch"`,
		"modules: 3\n":   "not a section",
		"http_addr: [\n": "reading",
	} {
		status, _, stderr := run(t, environment{}, "config", "--config", write(text))
		assert.Equal(t, 2, status, text)
		assert.Contains(t, stderr, hint)
	}
	status, _, stderr = run(t, environment{"DATA_DIR": t.TempDir()}, "serve", "--config", write("modules:\n  fetch:\n    concurency: 3\n"))
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "concurency")
}

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
