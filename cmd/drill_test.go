package cmd_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// drill follows docs/operations.md on the stack of the tests, while prices flow.
type drill struct {
	t   *testing.T
	env environment
	// running are the processes, those that were started last at the end, and second is the one
	// on the other port.
	running []*program
	second  *program
	// backups takes the place of /var/backups, and restored is the URL of the new database.
	backups, restored string
	answers           []fedAnswer
	stopFeed          chan struct{}
	fed               chan int
	// acknowledged are the answers that were fed before the backup began.
	acknowledged []fedAnswer
	// rows and ends are what there was before the loss, where the log is Kafka.
	rows map[string][]string
	ends map[schema.Topic][]int64
	ran  int
}

// label says which stacks a paragraph is about.
var label = regexp.MustCompile(`^\*\*(SQLite|PostgreSQL|PostgreSQL alone|PostgreSQL and Kafka)\*\*`)

// concerns reports whether a paragraph is about this stack.
func (d *drill) concerns(paragraph string) bool {
	switch found := label.FindStringSubmatch(paragraph); {
	case found == nil:
		return true
	case found[1] == "SQLite":
		return !onPostgres()
	case found[1] == "PostgreSQL":
		return onPostgres()
	case found[1] == "PostgreSQL alone":
		return onPostgres() && !onServices()
	}
	return onServices()
}

// TestTheOperationsDrill runs docs/operations.md: its commands, and what its sentences say of
// stopping and restarting processes. Prices flow until the loss. Afterwards each answer is there
// once, and verify holds.
func TestTheOperationsDrill(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := &drill{t: t, env: newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"}), backups: t.TempDir(), stopFeed: make(chan struct{}), fed: make(chan int, 1),
		answers: makeAnswers(rand.New(rand.NewPCG(seed, 0)), 6000, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))}
	text, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	var steps []string
	for i, section := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		number, name, _ := strings.Cut(title, ". ")
		require.Equal(t, strconv.Itoa(i+1), number, title)
		steps = append(steps, name)
		t.Log(title)
		d.follow(name, body)
	}
	assert.Equal(t, []string{"Install", "Observe", "Alert", "Halt", "Resume", "Scale", "Upgrade", "Back up", "Restore"}, steps)
	assert.Greater(t, d.ran, 18)
	d.check()
}

// follow does what a section says.
func (d *drill) follow(name, body string) {
	skip := false
	for _, paragraph := range regexp.MustCompile("(?s)```.*?```|\\S.*?(?:\n\n|\n*$)").FindAllString(body, -1) {
		code, isCode := strings.CutPrefix(paragraph, "```sh\n")
		if !isCode {
			if skip = !d.concerns(paragraph); !skip {
				d.heed(name, strings.Join(strings.Fields(paragraph), " "))
			}
			continue
		}
		if !skip {
			for line := range strings.Lines(strings.TrimSuffix(code, "```")) {
				d.execute(strings.TrimSpace(line))
				d.ran++
			}
		}
		skip = false // a label is for one block
	}
}

// heed does what a sentence says.
func (d *drill) heed(section, sentence string) {
	says := func(phrase string) bool { return strings.Contains(sentence, phrase) }
	switch {
	case says("Have it ask for prices"):
		go func() {
			began := time.Now()
			d.fed <- feedWhenDue(d.t, d.env, d.answers, time.Second/2, func(int) int {
				select {
				case <-d.stopFeed:
					return -1
				default:
					return min(len(d.answers), 500+int(50*time.Since(began).Seconds()))
				}
			})
		}()
	case says("fires where this metric is 1"):
		d.halted(0)
	case says("Restart the process") && onServices():
		d.stop(1)
		d.serve(nil)
		d.last().halts("the topic has 24 partitions", "pricemill stages resume")
		d.halted(1)
	case says("Stop the first one"), says("stop the last old process") && len(d.running) > 1:
		d.stop(1)
	case says("stop all processes"):
		d.stop(len(d.running))
	case says("The service keeps running"):
		d.acknowledged = fedIn(d.t, d.env, d.answers)
	case says("Stop every process"):
		close(d.stopFeed)
		d.answers = d.answers[:<-d.fed]
		d.last().eventually("/readyz", http.StatusOK)
		awaitDrained(d.t, d.env)
		d.stop(len(d.running))
		if onServices() {
			d.rows, d.ends = keptOf(d.t, d.env), endsOfAll(d.t, d.env)
		}
	}
}

// last is the process that was started last.
func (d *drill) last() *program { return d.running[len(d.running)-1] }

// stop stops the processes that were started first.
func (d *drill) stop(n int) {
	for _, p := range d.running[:n] {
		p.stopped()
	}
	d.running = d.running[n:]
}

func (d *drill) serve(env environment) {
	d.env = d.env.with(env)
	d.running = append(d.running, start(d.t, d.env))
}

// halted waits until the highest value of the metric of an alert is this.
func (d *drill) halted(value int) {
	d.t.Helper()
	metric := regexp.MustCompile(`(?m)^pricemill_stage_halted\{.*\} (\d)$`)
	require.Eventually(d.t, func() bool {
		highest := -1
		for _, found := range metric.FindAllStringSubmatch(d.last().get("/metrics").body, -1) {
			n, _ := strconv.Atoi(found[1]) // a digit
			highest = max(highest, n)
		}
		return highest == value
	}, time.Minute, 50*time.Millisecond, "pricemill_stage_halted %d", value)
}

var (
	drillCommand = regexp.MustCompile(`^((?:[A-Z_]+=\S+ )*)bin/pricemill (.*)$`)
	drillCurl    = regexp.MustCompile(`^curl -s http://127\.0\.0\.1:8000(\S+)(?: \| grep (\S+))?$`)
	drillTopics  = regexp.MustCompile(`^kafka-topics\.sh --bootstrap-server \S+ --alter --topic (\S+) --partitions (\d+)$`)
)

// execute runs a line.
func (d *drill) execute(line string) {
	d.t.Helper()
	line = strings.NewReplacer("/var/backups", d.backups, `"$RESTORED_URL"`, d.restored).Replace(line)
	switch {
	case drillCommand.MatchString(line):
		found := drillCommand.FindStringSubmatch(line)
		env := environment{}
		for _, pair := range strings.Fields(found[1]) {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
		d.pricemill(line, env, strings.Fields(found[2]))
	case drillCurl.MatchString(line):
		found := drillCurl.FindStringSubmatch(line)
		body := d.last().get(found[1]).body
		assert.NotEmpty(d.t, body, line)
		assert.Contains(d.t, body, found[2], line)
	case drillTopics.MatchString(line):
		found := drillTopics.FindStringSubmatch(line)
		partitions, err := strconv.ParseInt(found[2], 10, 32)
		require.NoError(d.t, err)
		administer(d.t, d.env, func(admin sarama.ClusterAdmin) {
			require.NoError(d.t, admin.CreatePartitions(topicName(d.env, schema.Topic(found[1])), int32(partitions), nil, false))
		})
	case strings.HasPrefix(line, "createdb "):
		d.restored = newDatabase(d.t, "restored_"+strings.ReplaceAll(uuid.NewString(), "-", "")[:12])
	default:
		process := exec.CommandContext(d.t.Context(), "bash", "-eu", "-c", line)
		process.Env = []string{"PATH=" + withPostgres(d.t), "DATABASE_URL=" + d.env["DATABASE_URL"], "RESTORED_URL=" + d.restored}
		output, err := process.CombinedOutput()
		require.NoError(d.t, err, "%s:\n%s", line, output)
	}
}

// pricemill runs a command of the program.
func (d *drill) pricemill(line string, env environment, args []string) {
	d.t.Helper()
	elsewhere := env["HTTP_ADDR"] != ""
	if args[0] == "serve" {
		delete(env, "HTTP_ADDR")
		full := d.env
		d.serve(env)
		if elsewhere {
			d.env, d.second = full, d.last()
		}
		return
	}
	if len(d.running) > 0 {
		p := d.last()
		if elsewhere {
			p = d.second
		}
		env["HTTP_ADDR"] = strings.TrimPrefix(p.url, "http://")
	}
	run := func() error {
		status, stdout, stderr := run(d.t, d.env.with(env), args...)
		if status != 0 || stdout == "" {
			return fmt.Errorf("%s: status %d\n%s%s", line, status, stdout, stderr)
		}
		return nil
	}
	if args[0] == "health" {
		require.EventuallyWithT(d.t, func(c *assert.CollectT) { assert.NoError(c, run()) }, time.Minute, 100*time.Millisecond)
		return
	}
	require.NoError(d.t, run())
	if args[0] == "refill" {
		restored := d.env.with(env)
		sameRows(d.t, d.rows, keptOf(d.t, restored))
		assert.Equal(d.t, d.ends, endsOfAll(d.t, restored), "nothing was written to the log")
	}
}

// check holds what was restored against what was fed.
func (d *drill) check() {
	d.t.Helper()
	d.last().eventually("/readyz", http.StatusOK)
	awaitDrained(d.t, d.env)
	there := fedIn(d.t, d.env, d.answers)
	d.t.Logf("%d answers were fed, %d of them before the backup; %d were there after the restore", len(d.answers), len(d.acknowledged), len(there))
	assert.NotEmpty(d.t, d.acknowledged)
	if onServices() {
		assert.Len(d.t, there, len(d.answers), "the log has all")
	} else {
		assert.Subset(d.t, idsOf(there), idsOf(d.acknowledged), "all that was acknowledged before the backup is there")
		checkTables(d.t, d.env, there)
		feed(d.t, d.env, d.answers) // as a file is imported again
		awaitDrained(d.t, d.env)
	}
	checkTables(d.t, d.env, d.answers)
	proven(d.t, d.env)
}

func idsOf(answers []fedAnswer) (ids []string) {
	for _, a := range answers {
		ids = append(ids, a.id)
	}
	return ids
}

// withPostgres is PATH with the newest programs of PostgreSQL that are installed.
func withPostgres(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) })
	path := os.Getenv("PATH")
	if len(found) > 0 {
		path = found[len(found)-1] + string(os.PathListSeparator) + path
	}
	return path
}
