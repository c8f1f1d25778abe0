package cmd_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// completed are the words that a shell would offer after these.
func completed(t *testing.T, env environment, words ...string) []string {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"__complete"}, words...)...)
	require.Zero(t, status, "%q: %s", words, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Regexp(t, "^:[0-9]+$", lines[len(lines)-1])
	offered := []string{}
	for _, line := range lines[:len(lines)-1] {
		name, _, _ := strings.Cut(line, "\t")
		offered = append(offered, name)
	}
	return offered
}

// What the program itself knows is completed without a service.
func TestCompletionOfValues(t *testing.T) {
	t.Parallel()
	nothing := environment{"HTTP_ADDR": "127.0.0.1:1"}
	for line, want := range map[string]string{
		"price AAPL --provider _":             "coinbase csv finnhub simulated yahoo",
		"history AAPL --provider s_":          "simulated",
		"history AAPL -o _":                   "table json csv parquet",
		"history AAPL --output=_":             "table json csv parquet",
		"poll list -o _":                      "table json",
		"topology -o _":                       "mermaid svg",
		"replay price-e_":                     "price-events",
		"replay price-events _":               "",
		"rebuild mo_":                         "moving-averages",
		"rebuild moving-averages --promote _": "manual if-equal auto",
		"generations drop latest_":            "latest-prices",
		"verify --projection lat_":            "latest-prices",
		"ingest --preset yah_":                "yahoo",
		"serve --roles _":                     "all api handlers projections relay",
		"serve --roles api,_":                 "api,all api,handlers api,projections api,relay",
		"serve --roles api,re_":               "api,relay",
		"poll create --interval _":            "",
		"bench chain --rate _":                "",
		"stages reset normalize raw_":         "raw-quotes",
		// These only the service knows, and there is none.
		"price _":                     "",
		"poll pause _":                "",
		"stages resume _":             "",
		"dead-letters show _":         "",
		"indicator _":                 "",
		"poll pause --url nowhere _":  "",
		"dead-letters list --stage _": "",
		"generations drop requests _": "",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			words := strings.Fields(line)
			words[len(words)-1] = strings.TrimSuffix(words[len(words)-1], "_")
			assert.Equal(t, strings.Fields(want), completed(t, nothing, words...))
		})
	}
}

// A file is completed by the shell, and a word that is neither by nothing.
func TestCompletionOfFiles(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{"ingest": ":0", "backup": ":0", "version": ":4", "poll create --interval": ":4", "serve --data-dir": ":0"} {
		_, stdout, _ := runWith(t, append(append([]string{"__complete"}, strings.Fields(line)...), "")...)
		assert.Equal(t, want, strings.TrimSpace(stdout), line)
	}
}

// What a service knows is asked of it.
func TestCompletionAsksTheService(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"PLUGINS": "ema"})
	file := filepath.Join(t.TempDir(), "prices.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\nAAA,10.50,2025-06-15T14:30:00Z\nABB,3,2025-06-15T14:31:00Z\n"), 0o600))
	status, _, stderr := run(t, p.env, "ingest", "--provider", "csv", file)
	require.Zero(t, status, stderr)
	jobs := map[string]string{}
	for _, symbol := range []string{"AAA", "ABB"} {
		created := p.post("/api/v1/prices/poll", `{"symbols":["`+symbol+`"],"interval":3600,"provider":"simulated"}`)
		require.Equal(t, http.StatusAccepted, created.status, created.body)
		jobs[symbol] = created.field(t, "job_id").(string)
	}
	p.eventuallyHolds("/api/v1/symbols?provider=simulated", `"AAA"`) // and so at two providers
	p.eventuallyHolds("/api/v1/symbols?provider=simulated", `"ABB"`)
	env := environment{"HTTP_ADDR": strings.TrimPrefix(p.url, "http://")}
	offers := func(want []string, words ...string) {
		t.Helper()
		// Read models follow.
		assert.EventuallyWithT(t, func(c *assert.CollectT) { assert.ElementsMatch(c, want, completed(t, env, words...), words) },
			20*time.Second, 20*time.Millisecond)
	}
	offers([]string{"AAA", "ABB"}, "history", "A")
	offers([]string{"ABB"}, "poll", "create", "AAA", "A") // no symbol twice
	offers([]string{"AAA", "ABB"}, "chart", "--url", p.url, "")
	offers([]string{jobs["AAA"], jobs["ABB"]}, "poll", "pause", "")
	offers([]string{}, "poll", "resume", "")
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/prices/poll/"+jobs["AAA"]+"/pause", "").status)
	offers([]string{jobs["AAA"]}, "poll", "resume", "")
	offers([]string{jobs["ABB"]}, "poll", "pause", "")
	offers([]string{"ema"}, "indicator", "em")
	offers([]string{"normalize"}, "stages", "resume", "no")
	offers([]string{"1"}, "generations", "drop", "moving-averages", "")
	_, stdout, stderr := run(t, env, "__complete", "poll", "pause", "")
	assert.Contains(t, stdout, jobs["ABB"]+"\tABB\n", "what it polls is shown")
	assert.NotContains(t, stderr, "simulated")
}

// A service that does not answer within a second has nothing completed.
func TestCompletionDoesNotWait(t *testing.T) {
	t.Parallel()
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { assert.NoError(t, deaf.Close()) }()
	assert.Empty(t, completed(t, environment{"HTTP_ADDR": deaf.Addr().String()}, "price", ""))
}
