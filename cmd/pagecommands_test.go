package cmd_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pageCommand is a command of a page of the documents, and what the page says that it prints:
// empty where it does not say.
type pageCommand struct {
	line  string
	args  []string
	shown string
}

// pageCommands are the commands in the shell blocks of a page, in their order. What a block
// shows is printed by its last command.
func pageCommands(t testing.TB, page string) (text string, all []pageCommand) {
	t.Helper()
	read, err := os.ReadFile("../docs/" + page)
	require.NoError(t, err)
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?").FindAllStringSubmatch(string(read), -1) {
		lines := strings.Split(strings.TrimSpace(block[1]), "\n")
		for i, line := range lines {
			c := pageCommand{line: line, args: arguments(strings.ReplaceAll(line, " handlers/", " ../handlers/"))} // tests run in cmd
			if i == len(lines)-1 {
				c.shown = block[2]
			}
			all = append(all, c)
		}
	}
	return string(read), all
}

var trailingSpaces = regexp.MustCompile(`(?m) +$`)

// printed is what a command printed as a page shows it.
func printed(stdout string) string { return trailingSpaces.ReplaceAllString(stdout, "") }

// pageAnswers runs the commands of a page as a client of a service, but for those that import
// files. It compares what they print, once what was said before has been applied, but for some
// lines that it leaves out, and returns how much it has compared.
func pageAnswers(t testing.TB, p *program, page string, normalized func(string) string, without ...string) (compared int) {
	t.Helper()
	_, commands := pageCommands(t, page)
	for _, c := range commands {
		if slices.Contains(without, c.line) {
			continue
		}
		imports := c.args[0] == "ingest"
		command := func() (int, string, string) { return p.asClient(c.args...) }
		if imports {
			command = func() (int, string, string) { return run(t, p.env, alone(c.args...)...) }
		}
		if c.shown != "" {
			compared++
		}
		if imports || c.shown == "" { // once
			status, stdout, stderr := command()
			require.Zero(t, status, "%s: %s", c.line, stderr)
			if c.shown != "" {
				assert.Equal(t, normalized(c.shown), normalized(printed(stdout)), c.line)
			}
			continue
		}
		require.EventuallyWithT(t, func(t *assert.CollectT) {
			status, stdout, stderr := command()
			assert.Zero(t, status, "%s: %s", c.line, stderr)
			assert.Equal(t, normalized(c.shown), normalized(printed(stdout)), c.line)
		}, 20*time.Second, 50*time.Millisecond)
	}
	return compared
}
