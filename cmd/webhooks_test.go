package cmd_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheWebhooksDocument runs a service with the settings of docs/webhooks.md. Its receiver
// is down at first, and gets what the document shows.
func TestTheWebhooksDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/webhooks.md")
	require.NoError(t, err)
	block := func(language string) string {
		found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(string(text))
		require.NotNil(t, found, language)
		return found[1]
	}
	type request struct {
		header http.Header
		body   []byte
	}
	requests, failed := make(chan request, 10), make(chan struct{}, 10)
	down := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.Equal(t, "/alerts", r.URL.Path)
		select {
		case <-down:
			requests <- request{r.Header, body}
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
			select {
			case failed <- struct{}{}:
			default: // one is enough
			}
		}
	}))
	t.Cleanup(receiver.Close)

	dir := t.TempDir()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "webhook.secret"), []byte(secret), 0o600))
	settings := strings.NewReplacer("http://127.0.0.1:9000", receiver.URL, "webhook.secret", filepath.Join(dir, "webhook.secret")).Replace(block("yaml"))
	file := filepath.Join(dir, "pricemill.yaml")
	require.NoError(t, os.WriteFile(file, []byte(settings), 0o600))
	p := start(t, environment{"CONFIG_FILE": file})

	line := regexp.MustCompile(`printf '(.*)' \| bin/pricemill (.*)`).FindStringSubmatch(string(text))
	require.NotNil(t, line)
	require.Equal(t, "ingest -", line[2])
	prices := filepath.Join(dir, "prices.csv")
	require.NoError(t, os.WriteFile(prices, []byte(strings.ReplaceAll(line[1], `\n`, "\n")), 0o600))
	ingested(t, p.env, prices)
	wait := func(c <-chan struct{}) {
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			require.Fail(t, "no request came")
		}
	}
	wait(failed)
	p.eventually("/readyz", http.StatusOK) // a receiver that is down makes nothing else wait
	close(down)
	var got request
	select {
	case got = <-requests:
	case <-time.After(time.Minute):
		require.Fail(t, "the alert was not posted again")
	}
	verifier, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, verifier.Verify(got.body, got.header))
	var want, shown map[string]any
	require.NoError(t, json.Unmarshal([]byte(block("json")), &want))
	require.NoError(t, json.Unmarshal(got.body, &shown))
	shown["id"] = "…"
	assert.Equal(t, want, shown)
	p.eventuallyHolds("/metrics", `pricemill_webhook_events_posted_total{webhook="alert-webhook"} 1`)
	assert.Empty(t, requests)
	status, stdout, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, stdout+stderr)
}
