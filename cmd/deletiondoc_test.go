package cmd_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// varyingDeletion is what differs from one deletion to the next.
var varyingDeletion = regexp.MustCompile(`20[0-9]{2}-[0-9-]+T[0-9:.]+Z|[0-9a-f]{8}-[0-9a-f-]{27}`)

// ofKafka are the lines of delete-data if the log is on Kafka.
var ofKafka = regexp.MustCompile(`(?m)^(rewritten|not deleted +copies of topics) .*\n`)

// TestTheDeletionDocument runs the commands of docs/deletion.md in their order, and compares
// what they print.
func TestTheDeletionDocument(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	compared := 0
	_, commands := pageCommands(t, "deletion.md")
	for _, c := range commands {
		if slices.Contains(c.args, "--yes") {
			p.stopped()
		}
		status, stdout, stderr := run(t, p.env, c.args...)
		require.Zero(t, status, "%s: %s", c.line, stderr)
		if c.args[0] == "ingest" {
			awaitDrained(t, p.env)
		}
		if c.shown != "" {
			compared++
			assert.Equal(t, p.env.onKafka() && c.args[0] == "delete-data", ofKafka.MatchString(stdout))
			assert.Equal(t, varyingDeletion.ReplaceAllString(c.shown, "…"), varyingDeletion.ReplaceAllString(printed(ofKafka.ReplaceAllString(stdout, "")), "…"), c.line)
		}
	}
	assert.Equal(t, 3, compared)
}
