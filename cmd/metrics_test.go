package cmd_test

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documentedMetric is a row of docs/metrics.md.
var documentedMetric = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\| ([^|]*)\\|")

// metric is what a row, or /metrics, says of a name.
type metric struct {
	kind   string
	labels string // sorted, separated by commas
}

// TestMetricsAreDocumented: docs/metrics.md and /metrics have the same names, types and
// labels, on either log.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]metric{}
	for _, row := range documentedMetric.FindAllStringSubmatch(string(page), -1) {
		var labels []string
		for label := range strings.SplitSeq(row[3], ",") {
			if label = strings.Trim(label, " `"); label != "" {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		documented[row[1]] = metric{row[2], strings.Join(labels, ",")}
	}

	exposed := map[string]metric{}
	// A provider with limits, which is asked in vain, and a Redis that does not answer.
	settings := environment{"METRICS_LAST_PRICES": "10", "REDIS_URL": "redis://127.0.0.1:1", "DEFAULT_PROVIDER": "simulated",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", // which does not answer
		"FINNHUB_API_KEY":             "key", "FINNHUB_BASE_URL": "http://127.0.0.1:1", "PLUGINS": "price-webhook,price-files"}
	for _, env := range []environment{newStack(t, settings), newKafkaStack(t, settings)} {
		p := start(t, env)
		p.eventually("/api/v1/prices/latest?symbol=ACME", http.StatusOK)
		require.GreaterOrEqual(t, p.get("/api/v1/prices/latest?symbol=ACME&provider=finnhub").status, http.StatusInternalServerError)
		require.Equal(t, http.StatusAccepted, p.do(http.MethodPost, "/api/v1/backfills",
			`{"provider":"simulated","symbol":"ACME","from":"2025-06-15T12:00:00Z","to":"2025-06-15T12:00:10Z"}`).status)
		p.eventuallyHolds("/metrics", `pricemill_backfill_prices_total{kind="appended",provider="simulated"} 20`)
		awaitDrained(t, env)
		parser := expfmt.NewTextParser(model.UTF8Validation)
		text := p.eventuallyHolds("/metrics", `pricemill_fetch_breaker_state{provider="finnhub"}`).body
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		require.NoError(t, err)
		for name, family := range families {
			if strings.HasPrefix(name, "pricemill_") || strings.HasPrefix(name, "go_sql_") {
				exposed[name] = metricOf(family)
			}
		}
		p.stopped()
	}
	assert.Equal(t, documented, exposed)
}

// metricOf is what a family says of itself.
func metricOf(family *dto.MetricFamily) metric {
	var labels []string
	for _, label := range family.GetMetric()[0].GetLabel() {
		labels = append(labels, label.GetName())
	}
	slices.Sort(labels)
	return metric{strings.ToLower(family.GetType().String()), strings.Join(labels, ",")}
}

// TestRequestsAreCounted: by route, whatever the path; what has no route, and methods
// that there are not, share one name.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	p := start(t, newStack(t, nil))
	p.eventually("/api/v1/prices/latest?symbol=ACME", http.StatusOK)
	p.get("/api/v1/prices/poll/no-such-job")
	p.get("/api/v1/nothing/1")
	p.get("/api/v1/nothing/2")
	text := p.eventuallyHolds("/metrics", `pricemill_provider_last_receipt_timestamp_seconds{provider="simulated"} `).body
	for _, line := range []string{
		`pricemill_http_requests_total{method="GET",route="/api/v1/prices/latest",status="200"} 1`,
		`pricemill_http_requests_total{method="GET",route="/api/v1/prices/poll/{job_id}",status="404"} 1`,
		`pricemill_http_requests_total{method="GET",route="other",status="404"} 2`,
		`pricemill_http_request_seconds_count{route="/api/v1/prices/latest"} 1`,
	} {
		assert.Contains(t, text, line)
	}
	assert.NotContains(t, text, "nothing")
	assert.NotContains(t, text, "no-such-job")
}
