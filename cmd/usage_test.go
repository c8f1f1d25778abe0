package cmd_test

import (
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// everyCommand calls look with the path and the help of each command of the program.
func everyCommand(t *testing.T, look func(path []string, help string), path ...string) (seen int) {
	t.Helper()
	status, help, stderr := runWith(t, append(slices.Clone(path), "--help")...)
	require.Zero(t, status, "%q: %s", path, stderr)
	look(path, help)
	for _, name := range subcommands(t, path...) {
		if name != "help" {
			seen += everyCommand(t, look, append(slices.Clone(path), name)...)
		}
	}
	return seen + 1
}

var (
	// aFlag is the line of a flag: its name, and what its value is called.
	aFlag = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)(?: ([^ ]+))? {2,}(\S.*)$`)
	// bareTypes are names of values that say nothing about them.
	bareTypes = []string{"int", "int32", "int64", "ints", "uint", "float", "stringArray", "strings", "stringToString", "value"}
)

// The help of every command fits a terminal of 80 columns, and says what it does, how it
// is called, and in what unit each number is.
func TestTheHelpOfEveryCommand(t *testing.T) {
	t.Parallel()
	flags := 0
	seen := everyCommand(t, func(path []string, help string) {
		name := strings.Join(append([]string{"pricemill"}, path...), " ")
		for line := range strings.Lines(help) {
			line = strings.TrimRight(line, "\n")
			assert.LessOrEqual(t, utf8.RuneCountInString(line), 80, "%s: %s", name, line)
			assert.NotContains(t, line, "\t", name)
		}
		about, rest, found := strings.Cut(help, "\n\nUsage:\n")
		assert.True(t, found, name)
		assert.Greater(t, len(strings.Fields(about)), 1, "%s has no text", name)
		if !strings.Contains(rest, "Available Commands:") && !slices.Contains(path, "completion") {
			_, example, found := strings.Cut(rest, "Examples:\n")
			assert.True(t, found, "%s has no example", name)
			assert.Regexp(t, `\b`+name+`[ \n]`, example, "an example of another command")
		}
		for _, flag := range aFlag.FindAllStringSubmatch(rest, -1) {
			flags++
			assert.NotContains(t, bareTypes, flag[2], "%s --%s: of what?", name, flag[1])
		}
	})
	assert.Greater(t, seen, 50)
	assert.Greater(t, flags, 200)
}

// What is wrong with a call is said in a sentence, and the status tells a wrong call (2)
// from one that failed (1).
func TestWrongCalls(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, taken.Close()) }) // after the parallel tests below
	port := taken.Addr().String()
	const closes = "testdata/monthly-closes.csv"
	// An installation that is there: what is wrong is the call.
	dir := filepath.Join(t.TempDir(), "data")
	status, _, stderr := run(t, environment{}, "ingest", "--symbol", "AAPL", closes, "--data-dir", dir)
	require.Zero(t, status, stderr)
	for _, test := range []struct {
		line   string // NAME=VALUE words before the arguments are settings
		status int
		want   string
	}{
		{"--nonsense", 2, `unknown flag --nonsense; see "pricemill --help"`},
		{"history AAPL --limt 3", 2, `unknown flag --limt; did you mean "--limit"? see "pricemill history --help"`},
		{"prcie AAPL", 2, `unknown command "prcie" of "pricemill"; did you mean "price"?`},
		{"poll lst", 2, `unknown command "lst" of "pricemill poll"; did you mean "list"?`},
		{"completion tcsh", 2, `unknown command "tcsh" of "pricemill completion"; see`},
		{"price", 2, `accepts 1 arg(s), received 0; see "pricemill price --help"`},
		{"price AAPL MSFT", 2, "accepts 1 arg(s), received 2"},
		{"poll create --interval 60", 2, "requires at least 1 arg"},
		{"plugins more", 2, "accepts 0 arg(s), received 1"},
		{"history AAPL --limit x", 2, `--limit: "x" is not a whole number`},
		{"poll create AAPL --interval 1h", 2, `--interval: "1h" is not a whole number`},
		{"bench chain --rate a,b", 2, `--rate: "a,b" is not whole numbers, separated by commas`},
		{"bench chain --events 0", 2, "--events: 0 is not within 1 and 100000000"},
		{"chart AAPL --points 1", 2, "--points: 1 is not within 2 and 1000"},
		{"verify --wait soon", 2, `--wait: "soon" is not a duration such as 5s`},
		{"health --timeout 1", 2, `--timeout: "1" is not a duration`},
		{"verify --wait -1s", 2, "must not be negative"},
		{"chart AAPL -o csv", 2, `"csv" for "-o, --output" flag: no such value; known are table, json`},
		{"poll list -o jsn", 2, `no such value; did you mean "json"?`},
		{"indicator ema AAPL --set period", 2, "period must be formatted as key=value"},
		{"price AAPL --url ftp://x", 2, `"ftp://x" is not like http://127.0.0.1:8000`},
		{"HTTP_ADDR=nowhere price AAPL", 2, `HTTP_ADDR: "nowhere" is not host:port`},
		{"price AAPL --url http://127.0.0.1:1", 1, `connection refused; is it running? Start it with "pricemill serve"`},
		{"HTTP_ADDR=127.0.0.1:1 health", 1, "not well: "},
		{"ingest nothere.csv", 1, "nothere.csv: no such file or directory"},
		{"ingest --provider coinbse " + closes, 2, `there is no provider "coinbse"; did you mean "coinbase"? Known are coinbase, csv`},
		{"ingest --preset binanc " + closes, 2, `there is no preset "binanc"; did you mean "binance-`},
		{"ingest --work --no-wait " + closes, 2, "--work and --no-wait exclude each other"},
		{"replay price-event", 2, `there is no topic "price-event"; did you mean "price-events"?`},
		{"replay price-events --from soon", 2, `"soon" is not like 1200, 2026-03-01T09:30:00Z or 90m`},
		{"replay price-events --from 2026-13-45", 2, "--from: "},
		{"replay price-events --from 10 --to 5", 2, "--to 5 lies before --from 10"},
		{"replay price-events --append", 2, "--append is for --to-topic"},
		{"rebuild moving-average", 2, `did you mean "moving-averages"?`},
		{"rebuild moving-averages --promote if", 2, "known are manual, if-equal, auto"},
		{"rebuild moving-averages --rate -1", 2, "--rate must not be negative"},
		{"rebuild show rebuild_none", 1, "rebuild rebuild_none: not found"},
		{"generations drop moving-average 1", 2, `did you mean "moving-averages"?`},
		{"generations drop moving-averages one", 2, `generation "one" is not a number`},
		{"generations drop moving-averages 99", 1, "generation 99 of moving-averages: not found"},
		{"stages resume normalize raw-quotes three", 2, `partition "three" is not a number`},
		{"stages reset normalize --to nowhere", 2, `"nowhere" is neither start nor end nor an offset`},
		{"dead-letters show seventeen", 2, `"seventeen" is not the number of a dead letter`},
		{"dead-letters show 17", 1, "there is no dead letter 17"},
		{"dead-letters retry 17 --all", 2, "name one dead letter by its ID, or --stage STAGE, or --all"},
		{"verify --projection moving", 2, `there is no projection "moving"; did you mean "moving-averages"?`},
		{"new plugin 9lives", 2, `"9lives" is no name for a plugin`},
		{"move", 2, "--to-database is required"},
		{"topology -o png", 2, "known are mermaid, svg"},
		{"config --config nothere.yaml", 2, "reading nothere.yaml"},
		{"serve --roles apis", 2, "a setting is wrong:\nROLES: there is no role \"apis\"; did you mean \"api\"?"},
		{"serve --http-addr 8000", 2, `HTTP_ADDR: "8000" is not host:port`},
		{"serve --http-addr 0.0.0.0:8000", 2, "set HTTP_ALLOW_REMOTE=true if that is meant"},
		{"serve --http-addr " + port, 1, port + ": bind: address already in use"},
		{"KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1 serve", 2, "KAFKA_BOOTSTRAP_SERVERS is set, and DATABASE_URL is not"},
		{"DATABASE_URL=mysql://a serve", 2, `there is no engine for "mysql"`},
		{"DEBUG=true LOG_LEVEL=error serve", 2, `LOG_LEVEL: "error" contradicts DEBUG=true`},
		{"LATEST_MAX_AGE=5 FETCH_TIMEOUT=x serve", 2, "2 settings are wrong:\n"},
		{"PLUGINS=candels serve", 2, `there is no module "candels"; did you mean "candles"?`},
		{"DEFAULT_PROVIDER=yaho serve", 2, `there is no provider "yaho"; did you mean "yahoo"?`},
		{"MOVING_AVERAGE_WINDOW=0 serve", 2, `"0" is not a whole number within 1 and 1000`},
	} {
		t.Run(test.line, func(t *testing.T) {
			t.Parallel()
			env := environment{"DATA_DIR": dir, "LOG_LEVEL": "error"}
			words := strings.Fields(test.line)
			for strings.Contains(words[0], "=") {
				name, value, _ := strings.Cut(words[0], "=")
				env[name], words = value, words[1:]
			}
			if _, set := env["DEBUG"]; !set {
				delete(env, "LOG_LEVEL")
			}
			status, stdout, stderr := run(t, env, words...)
			assert.Equal(t, test.status, status, stderr)
			assert.Contains(t, stderr, test.want)
			assert.True(t, strings.HasPrefix(stderr, "pricemill: ") || status == 1, stderr)
			assert.Empty(t, stdout)
			assert.NotContains(t, stderr, "strconv")
		})
	}
}
