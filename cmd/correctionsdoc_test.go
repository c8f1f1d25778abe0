package cmd_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// varying is what differs from one run to the next: ids, and when a correction was made.
var varying = regexp.MustCompile(`20[0-9]{2}-[0-9-]+T[0-9:.]+Z  [0-9a-f-]{36}`)

// TestTheCorrectionsDocument runs the commands of docs/corrections.md against a service, in
// their order, and compares what they print.
func TestTheCorrectionsDocument(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	want := 8
	var without []string
	if onServices() { // on Kafka, the corrections of a file have no numbers in the log
		want, without = 7, []string{"bin/pricemill average T --provider csv --as-of-log price-events:2:9"}
	}
	compared := pageAnswers(t, p, "corrections.md", func(text string) string { return varying.ReplaceAllString(text, "…") }, without...)
	assert.Equal(t, want, compared)
	status, stdout, stderr := run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
}
