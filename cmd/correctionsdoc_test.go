package cmd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

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
	text, err := os.ReadFile("../docs/corrections.md")
	require.NoError(t, err)
	compared := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?").FindAllStringSubmatch(string(text), -1) {
		lines := strings.Split(strings.TrimSpace(block[1]), "\n")
		for i, line := range lines {
			args := arguments(strings.ReplaceAll(line, " handlers/", " ../handlers/")) // tests run in cmd
			command := func() (int, string, string) { return p.asClient(args...) }
			if args[0] == "ingest" {
				command = func() (int, string, string) { return run(t, p.env, alone(args...)...) }
			}
			if i < len(lines)-1 || block[2] == "" {
				status, _, stderr := command()
				require.Zero(t, status, "%s: %s", line, stderr)
				continue
			}
			compared++
			want := varying.ReplaceAllString(block[2], "…")
			require.EventuallyWithT(t, func(c *assert.CollectT) { // a correction that was just made is on its way
				status, stdout, stderr := command()
				assert.Zero(c, status, "%s: %s", line, stderr)
				assert.Equal(c, want, varying.ReplaceAllString(regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, ""), "…"), line)
			}, 20*time.Second, 50*time.Millisecond)
		}
	}
	assert.Equal(t, 8, compared)
	status, stdout, stderr := run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
}
