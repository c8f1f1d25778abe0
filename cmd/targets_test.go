package cmd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/redistest"
)

// targetsPage is docs/targets.md, cut at its headings.
func targetsPage(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/targets.md")
	require.NoError(t, err)
	sections := map[string]string{}
	for section := range strings.SplitSeq(string(text), "\n## ") {
		title, body, _ := strings.Cut(section, "\n")
		sections[title] = body
	}
	return sections
}

// blockOf is the first block of a language in a section.
func blockOf(t *testing.T, section, language string) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(section)
	require.NotNil(t, found, language)
	return found[1]
}

// startTarget runs a service with settings, and ingests the prices of the page.
func startTarget(t *testing.T, settings, page string) *program {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "pricemill.yaml")
	require.NoError(t, os.WriteFile(file, []byte(settings), 0o600))
	p := start(t, environment{"CONFIG_FILE": file})
	line := regexp.MustCompile(`printf '(.*)' \| bin/pricemill ingest -`).FindStringSubmatch(page)
	require.NotNil(t, line)
	prices := filepath.Join(dir, "prices.csv")
	require.NoError(t, os.WriteFile(prices, []byte(strings.ReplaceAll(line[1], `\n`, "\n")), 0o600))
	ingested(t, p.env, prices)
	return p
}

// TestTheTargetsDocumentWritesFiles runs a service with the settings of docs/targets.md: the
// file that it writes has the line that the document shows.
func TestTheTargetsDocumentWritesFiles(t *testing.T) {
	t.Parallel()
	page := targetsPage(t)["Files"]
	dir := t.TempDir()
	p := startTarget(t, strings.Replace(blockOf(t, page, "yaml"), "dir: prices", "dir: "+dir, 1), page)
	p.eventuallyHolds("/metrics", `pricemill_target_events_sent_total{target="price-files"} 2`)
	p.eventually("/readyz", http.StatusOK)
	names, err := filepath.Glob(filepath.Join(dir, "prices-*-000001.jsonl"))
	require.NoError(t, err)
	require.Len(t, names, 1)
	text, err := os.ReadFile(names[0])
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	require.Len(t, lines, 2)
	var want, shown map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.Replace(blockOf(t, page, "json"), "{…}", `"…"`, 1)), &want))
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &shown))
	data, isObject := shown["data"].(map[string]any)
	require.True(t, isObject)
	assert.Equal(t, "AAPL", data["symbol"])
	for _, varies := range []string{"id", "source", "data", "position"} {
		require.NotEmpty(t, shown[varies], varies)
		shown[varies] = "…"
	}
	assert.Equal(t, want, shown)
	status, stdout, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, stdout+stderr)
}

// TestTheTargetsDocumentFillsAStream does so with Redis.
func TestTheTargetsDocumentFillsAStream(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	page := targetsPage(t)
	settings := strings.Replace(blockOf(t, page["Redis"], "yaml"), "redis://127.0.0.1:6379", server.URL(), 1)
	p := startTarget(t, settings, page["Files"])
	p.eventuallyHolds("/metrics", `pricemill_target_events_sent_total{target="redis-stream"} 2`)
	client := redis.NewClient(&redis.Options{Addr: server.Address()})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	command := strings.Fields(blockOf(t, page["Redis"], "sh"))
	require.Equal(t, []string{"redis-cli", "XLEN"}, command[:2])
	length, err := client.XLen(t.Context(), command[2]).Result()
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSpace(blockOf(t, page["Redis"], "text")), strconv.FormatInt(length, 10))
	entries, err := client.XRange(t.Context(), command[2], "-", "+").Result()
	require.NoError(t, err)
	for _, entry := range entries {
		for _, field := range []string{"id", "source", "type", "subject", "time", "data"} {
			assert.NotEmpty(t, entry.Values[field], field)
		}
		assert.Len(t, entry.Values, 6)
	}
}
