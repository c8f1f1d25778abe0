package cmd_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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

// A stranger's hour: the README from its top to its end, each block as it stands, its
// output held against the one that it shows. Which blocks do not run, and why, is in the
// README, and here.
func TestTheREADMEsCommands(t *testing.T) {
	t.Parallel()
	d := runDocument(t, "../README.md")
	assert.Equal(t, []string{"`.ci/bare` runs both", "needs PostgreSQL and Kafka, as in `make test-services`",
		"needs Docker; `make test-deployment` reads the files"}, d.notRun)
	assert.Greater(t, d.ran, 20)
	assert.Greater(t, d.compared, 10)
}

func TestTheCommandsForThoseWhoComeFromTheOriginal(t *testing.T) {
	t.Parallel()
	d := runDocument(t, "../docs/from-the-original.md")
	assert.Equal(t, documentRun{ran: 3, compared: 3}, d)
}

// TestTheAPIDocument runs docs/api.md as a client would follow it.
func TestTheAPIDocument(t *testing.T) {
	t.Parallel()
	d := runDocument(t, "../docs/api.md")
	assert.Equal(t, documentRun{ran: 7, compared: 6, notRun: []string{"the position is another one each time; `TestReadYourWrites` reads it", "`make test-clients` does, with both versions pinned"}}, d)
}

// TestTheRunbook runs what docs/runbook.md has for an alert on a service that is well.
func TestTheRunbook(t *testing.T) {
	t.Parallel()
	d := runDocument(t, "../docs/runbook.md")
	assert.Equal(t, documentRun{ran: 11, compared: 2}, d)
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
	assert.Contains(t, run, "\nreadonly all=(bare ", "the first of all steps")
	began := regexp.MustCompile(`(?m)^ *(make|\.ci/|go [^v]).*$`).FindString(run)
	assert.Contains(t, began, ".ci/bare ", "the first thing that is built or run")
	assert.NotRegexp(t, `(?m)^\s*make test$`, run, "once is enough")
}

// TestTheOperationsCommands: what docs/operations-reference.md has is there, by name and by
// flag. What it does is tested where it is made.
func TestTheOperationsCommands(t *testing.T) {
	t.Parallel()
	operations, err := os.ReadFile("../docs/operations-reference.md")
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
	var rows, meanings []string // the meaning of a row is below it
	for line := range strings.Lines(stdout) {
		if meaning, below := strings.CutPrefix(line, "    "); below {
			meanings[len(meanings)-1] += strings.TrimSpace(meaning) + " "
			continue
		}
		rows, meanings = append(rows, line), append(meanings, "")
	}
	assert.Len(t, documented, len(rows)-1) // without the titles
	comments := strings.ReplaceAll(strings.ToLower(string(example)), "\n# ", " ")
	for i, row := range rows[1:] {
		words := strings.Fields(row)
		value, known := documented[words[0]]
		assert.True(t, known, "%s is not in .env.example", words[0])
		if value != "" {
			assert.Equal(t, value, words[1], words[0])
		}
		meaning := strings.ToLower(strings.TrimSpace(meanings[i+1]))
		assert.Contains(t, comments, meaning+".\n#"+strings.ToLower(words[0])+"=")
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
