package cmd_test

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/tracetest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	clientTrace = "0af7651916cd43dd8448eb211c80319c"
	clientSpan  = "b7ad6b7169203331"
)

// TestOnePollIsOneTrace: a client's trace goes from its command through all stages to the
// average and the push, as docs/traces.md shows it.
func TestOnePollIsOneTrace(t *testing.T) {
	t.Parallel()
	for log, newStack := range map[string]func(testing.TB, environment) environment{"table": newStack, "Kafka": newKafkaStack} {
		t.Run(log, func(t *testing.T) {
			t.Parallel()
			testOnePoll(t, newStack)
		})
	}
}

func testOnePoll(t *testing.T, newStack func(testing.TB, environment) environment) {
	collector := tracetest.New(t)
	p := start(t, newStack(t, environment{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20secret",
		"OTEL_SERVICE_NAME": "prices", "OTEL_TRACES_SAMPLER": "parentbased_always_off", "ACCESS_LOG": "1"}))
	p.eventually("/readyz", http.StatusOK)
	pushed := p.follow(t, "/api/v1/prices/stream?symbols=AAPL&events=price")

	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/prices/poll", strings.NewReader(`{"symbols":["AAPL"],"interval":60}`))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", "00-"+clientTrace+"-"+clientSpan+"-01")
	accepted := p.send(request)
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
	assert.Regexp(t, "^00-"+clientTrace+"-[0-9a-f]{16}-01$", accepted.header.Get("Traceparent"))
	for line := ""; line != "event: price"; {
		require.True(t, pushed.Scan(), "the stream ended")
		line = pushed.Text()
	}

	page, err := os.ReadFile("../docs/traces.md")
	require.NoError(t, err)
	shown := regexp.MustCompile(`(?m)^Traceparent: (.*)$`).FindSubmatch(page)[1]
	assert.Len(t, accepted.header.Get("Traceparent"), len(shown))
	assert.Equal(t, string(shown[:36]), accepted.header.Get("Traceparent")[:36])
	assert.Contains(t, string(page), "-H 'traceparent: "+request.Header.Get("Traceparent")+"'")
	want := regexp.MustCompile("(?s)```text\n(POST .*?)```").FindSubmatch(page)[1]
	var spans []tracetest.Span
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		spans = collector.Trace(clientTrace)
		assert.Equal(c, string(want), tracetest.Tree(spans))
	}, 20*time.Second, 50*time.Millisecond)

	byID := map[string]tracetest.Span{}
	for _, s := range collector.Spans() {
		byID[s.ID] = s
	}
	for _, s := range spans {
		assert.Empty(t, s.Failed, s.Name)
		assert.LessOrEqual(t, s.Start, s.End, s.Name)
		if parent, known := byID[s.Parent]; known {
			assert.LessOrEqual(t, parent.Start, s.Start, "%s begins after %s", s.Name, parent.Name)
		} else {
			assert.Equal(t, clientSpan, s.Parent, s.Name)
			assert.Equal(t, "SERVER", s.Kind)
			assert.Equal(t, "202", s.Attributes["http.response.status_code"])
		}
	}
	// The transaction of each batch is a trace of its own, linked both ways.
	batches := 0
	for _, s := range collector.Spans() {
		if stage, is := strings.CutSuffix(s.Name, " batch"); is {
			batches++
			assert.NotEqual(t, clientTrace, s.TraceID)
			assert.Empty(t, s.Parent)
			require.NotEmpty(t, s.Links, s.Name)
			for _, id := range s.Links {
				assert.Equal(t, stage, byID[id].Name)
				assert.Equal(t, clientTrace, byID[id].TraceID)
				assert.Contains(t, byID[id].Links, s.ID)
			}
		}
	}
	assert.GreaterOrEqual(t, batches, 8)

	headers, service := collector.Last()
	assert.Equal(t, "a secret", headers.Get("X-Key"))
	assert.Equal(t, "prices", service)
	for _, line := range p.logs.all("request") {
		traced := line["path"] == "/api/v1/prices/poll"
		assert.Equal(t, traced, line["trace_id"] == clientTrace, line)
	}
	assert.NotContains(t, p.logs.String(), "a secret")
	request, err = http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/metrics", nil)
	require.NoError(t, err)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	metrics := p.send(request).body
	assert.Regexp(t, `pricemill_http_request_seconds_bucket\{route="/api/v1/prices/poll",le="[^"]*"\} 1 # \{trace_id="`+clientTrace+`"\}`, metrics)
	assert.Regexp(t, `pricemill_stage_transaction_seconds_bucket\{stage="normalize",le="[^"]*"\} \d+ # \{trace_id="[0-9a-f]{32}"\}`, metrics)
	assert.Regexp(t, `pricemill_fetch_answer_seconds_bucket\{provider="simulated",le="[^"]*"\} 1 # \{trace_id="`+clientTrace+`"\}`, metrics)
}

// follow opens a stream of events, and returns once it has begun.
func (p *program) follow(t testing.TB, path string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	t.Cleanup(func() { cancel(); _ = response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	lines := bufio.NewScanner(response.Body)
	for line := ""; line != "event: snapshot"; {
		require.True(t, lines.Scan(), "the stream ended")
		line = lines.Text()
	}
	return lines
}

// TestWithoutACollectorNothingIsTraced: by default no record, answer or log has a trace,
// even of a client that has one.
func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"ACCESS_LOG": "1"})
	p.eventually("/readyz", http.StatusOK)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/api/v1/prices/latest?symbol=AAPL", nil)
	require.NoError(t, err)
	request.Header.Set("Traceparent", "00-"+clientTrace+"-"+clientSpan+"-01")
	answered := p.send(request)
	require.Equal(t, http.StatusOK, answered.status, answered.body)
	assert.Empty(t, answered.header.Get("Traceparent"))
	assert.NotContains(t, p.logs.String(), clientTrace)
	broker := connect(t, p.env)
	records := 0
	for _, topic := range schema.Topics() {
		ranges, err := broker.Offsets(t.Context(), topic)
		require.NoError(t, err)
		for partition, held := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(partition)}
			require.NoError(t, broker.Read(t.Context(), tp, held.Oldest, held.End, func(some []pipeline.Record) error {
				for _, r := range some {
					records++
					for _, h := range r.Headers {
						assert.NotEqual(t, "traceparent", h.Key, "a record of %s", topic)
					}
				}
				return nil
			}))
		}
	}
	assert.GreaterOrEqual(t, records, 4, "a request, an answer, the same stored, a price")
}

// TestTracingSettings: what is wrong is said, and secrets are not.
func TestTracingSettings(t *testing.T) {
	t.Parallel()
	for want, env := range map[string]environment{
		`OTEL_EXPORTER_OTLP_ENDPOINT: not a URL such as`:                                               {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
		`OTEL_EXPORTER_OTLP_ENDPOINT: it must have no user`:                                            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:canary@collector"},
		`OTEL_EXPORTER_OTLP_HEADERS are secret: http://collector:4318: want https`:                     {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "key=canary"},
		`OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" is not http/protobuf`:                                     {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
		`OTEL_EXPORTER_OTLP_HEADERS: header 2 is not key=value`:                                        {"OTEL_EXPORTER_OTLP_HEADERS": "a=b,canary"},
		`OTEL_TRACES_SAMPLER: "parentbased_alwayson": there is no such sampler; did you mean`:          {"OTEL_TRACES_SAMPLER": "parentbased_alwayson"},
		`OTEL_TRACES_SAMPLER_ARG: not the argument of this sampler: want a share from 0 to 1, not "2"`: {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
		`OTEL_TRACES_SAMPLER_ARG: not the argument of this sampler: always_on takes none`:              {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
	} {
		status, _, stderr := run(t, env, "config")
		assert.Equal(t, 2, status, want)
		assert.Contains(t, stderr, want)
		assert.NotContains(t, stderr, "canary")
	}
	page, err := os.ReadFile("../docs/traces.md")
	require.NoError(t, err)
	status, stdout, stderr := run(t, environment{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "config")
	require.Zero(t, status, stderr)
	shown := regexp.MustCompile(`(?m)^OTEL.*\n`).FindAllString(regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, ""), -1)
	assert.Contains(t, string(page), "pricemill config | grep ^OTEL\n```\n\n```text\n"+strings.Join(shown, "")+"```\n")
	status, stdout, stderr = run(t, environment{"OTEL_EXPORTER_OTLP_HEADERS": "key=canary"}, "config")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `OTEL_EXPORTER_OTLP_HEADERS +\*\*\* +environment`, stdout)
	assert.NotContains(t, stdout+stderr, "canary")
}
