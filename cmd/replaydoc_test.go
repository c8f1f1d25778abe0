package cmd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
)

// TestTheStepsOfReplay runs every command of docs/replay.md against a service, in
// their order.
func TestTheStepsOfReplay(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.feed(oneEach(0, 20))
	document, err := os.ReadFile("../docs/replay.md")
	require.NoError(t, err)
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(document, -1) {
		for _, line := range strings.Split(strings.TrimSpace(string(block[1])), "\n") {
			p = p.step(line)
			ran++
		}
	}
	assert.Equal(t, 11, ran)
	awaitDrained(t, p.env)
	proven(t, p.env)
}

// step runs one line, and returns the program as it runs then.
func (p *program) step(line string) *program {
	p.t.Helper()
	words := strings.Fields(line)
	switch {
	case words[0] == "curl":
		curl(p.t, p, line)
		p.reaches(p.rebuilds()[0].ID, projections.RebuildPromoted)
		return p
	case words[len(words)-1] == "serve":
		p.stopped()
		env := p.env.with(nil)
		for _, setting := range words[:len(words)-2] {
			name, value, _ := strings.Cut(setting, "=")
			env[name] = value
		}
		next := start(p.t, env)
		next.eventually("/readyz", http.StatusOK)
		next.reaches(next.rebuilds()[0].ID, projections.RebuildReady)
		return next
	}
	command := strings.ReplaceAll(line, "REBUILD", p.rebuilds()[0].ID)
	assert.EventuallyWithT(p.t, func(c *assert.CollectT) {
		status, _, stderr := run(p.t, p.env, arguments(command)...)
		assert.Zero(c, status, "%s: %s", line, stderr)
	}, 20*time.Second, 50*time.Millisecond)
	return p
}

// rebuilds are those there are, or one that is none.
func (p *program) rebuilds() []projections.Rebuild {
	p.t.Helper()
	var all struct{ Items []projections.Rebuild }
	got := p.get("/api/v1/rebuilds")
	require.NoError(p.t, json.Unmarshal([]byte(got.body), &all), got.body)
	if len(all.Items) == 0 {
		return []projections.Rebuild{{}}
	}
	return all.Items
}
