package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/tracetest"
	"github.com/pricemill/pricemill/pipeline/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func newTracer(t *testing.T, endpoint string, change func(*tracing.Config)) *tracing.Tracer {
	t.Helper()
	base, err := url.Parse(endpoint)
	require.NoError(t, err)
	config := tracing.Config{Endpoint: base, ServiceName: "test", Version: "1", Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&config)
	}
	tracer, err := tracing.New(config)
	require.NoError(t, err)
	return tracer
}

// The default costs nothing: no allocation in what is called for each record.
func TestNilAllocatesNothing(t *testing.T) {
	ctx, span := (*tracing.Tracer)(nil).Start(t.Context(), "a", tracing.Internal, sampled)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = tracing.IDs(ctx)
		_ = tracing.IsSampled("")
		span.End(nil)
	}))
}

func TestNilRecordsNothing(t *testing.T) {
	t.Parallel()
	var tracer *tracing.Tracer
	ctx, span := tracer.Start(t.Context(), "a", tracing.Internal, sampled)
	assert.Equal(t, t.Context(), ctx)
	assert.Empty(t, span.Traceparent())
	_, span = tracer.StartLinked(ctx, "a", tracing.Internal, []tracing.Span{span})
	span.Name("b")
	span.Set(tracing.String("a", "b"))
	span.End(errors.New("bad"))
	tracing.Event(ctx, "retry", errors.New("bad"))
	assert.Empty(t, tracing.Traceparent(ctx))
	assert.Zero(t, tracer.Counts())
	require.NoError(t, tracer.Close(ctx))
}

func TestSpansReachTheCollector(t *testing.T) {
	t.Parallel()
	collector := tracetest.New(t)
	tracer := newTracer(t, collector.URL+"/", func(c *tracing.Config) { c.Headers = map[string]string{"key": "secret"} })
	ctx, root := tracer.Start(t.Context(), "root", tracing.Server, sampled, tracing.String("a", "b"), tracing.Int("n", int32(7)))
	_, child := tracer.StartAt(ctx, time.Unix(1, 0), "child", tracing.Client, "no traceparent")
	_, whole := tracer.StartLinked(ctx, "whole", tracing.Consumer, []tracing.Span{root, child})
	child.End(errors.New("bad"))
	root.End(nil)
	whole.End(nil)
	traceparent := root.Traceparent()
	require.NoError(t, tracer.Close(t.Context()))
	assert.Equal(t, tracing.Counts{Sent: 3}, tracer.Counts())

	byName := map[string]tracetest.Span{}
	for _, s := range collector.Spans() {
		byName[s.Name] = s
	}
	got := byName["root"]
	assert.Equal(t, "00-"+got.TraceID+"-"+got.ID+"-01", traceparent)
	assert.Equal(t, []string{"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "SERVER"}, []string{got.TraceID, got.Parent, got.Kind})
	assert.Equal(t, map[string]string{"a": "b", "n": "7"}, got.Attributes)
	assert.Equal(t, []string{byName["whole"].ID}, got.Links)
	assert.Equal(t, got.ID, byName["child"].Parent)
	assert.Equal(t, "bad", byName["child"].Failed)
	assert.Equal(t, uint64(time.Second), byName["child"].Start)
	assert.Empty(t, byName["whole"].Parent)
	assert.NotEqual(t, got.TraceID, byName["whole"].TraceID)
	assert.Equal(t, []string{got.ID, byName["child"].ID}, byName["whole"].Links)
	headers, service := collector.Last()
	assert.Equal(t, "secret", headers.Get("Key"))
	assert.Equal(t, "test", service)
}

func TestSampling(t *testing.T) {
	t.Parallel()
	unsampled := strings.TrimSuffix(sampled, "1") + "0"
	for name, test := range map[string]struct {
		argument                 string
		root, sampled, unsampled bool
	}{
		"always_on":                {"", true, true, true},
		"always_off":               {"", false, false, false},
		"traceidratio":             {"0", false, false, false},
		"parentbased_always_on":    {"", true, true, false},
		"parentbased_always_off":   {"", false, true, false},
		"parentbased_traceidratio": {"1", true, true, false},
	} {
		sampler, err := tracing.ParseSampler(name, test.argument)
		require.NoError(t, err)
		tracer := newTracer(t, tracetest.New(t).URL, func(c *tracing.Config) { c.Sampler = sampler })
		for parent, want := range map[string]bool{"": test.root, sampled: test.sampled, unsampled: test.unsampled} {
			ctx, span := tracer.Start(t.Context(), "a", tracing.Internal, parent)
			assert.Equal(t, want, span.Sampled(), "%s under %q", name, parent)
			assert.Equal(t, want, span.Traceparent() != "", name)
			assert.Equal(t, span.Traceparent(), tracing.Traceparent(ctx), name)
			assert.Equal(t, want, tracing.IsSampled(span.Traceparent()), name)
			_, whole := tracer.StartLinked(t.Context(), "a", tracing.Internal, []tracing.Span{span})
			assert.Equal(t, want || test.root, whole.Sampled(), "%s, linked to what is under %q", name, parent)
		}
		require.NoError(t, tracer.Close(t.Context()))
	}
	assert.Len(t, tracing.Samplers(), 6)
	for name, argument := range map[string]string{"always": "", "always_on": "1", "traceidratio": "NaN", "parentbased_traceidratio": "1.1"} {
		_, err := tracing.ParseSampler(name, argument)
		assert.Error(t, err, name)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	headers, err := tracing.ParseHeaders("authorization=Basic%20YTpi, x-scope = a=b,,")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"authorization": "Basic YTpi", "x-scope": "a=b"}, headers)
	for _, bad := range []string{"canary", "=canary", "a b=canary", "a=canary%0a", "a=%zcanary", "a:=canary"} {
		_, err := tracing.ParseHeaders("good=1," + bad)
		require.Error(t, err, bad)
		assert.NotContains(t, err.Error(), "canary")
		assert.Contains(t, err.Error(), "header 2")
	}
}

// What a collector refuses is dropped, counted and logged once, and it is asked again
// where it may be.
func TestACollectorThatRefuses(t *testing.T) {
	t.Parallel()
	var posts atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if posts.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	var log bytes.Buffer
	tracer := newTracer(t, server.URL, func(c *tracing.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	_, span := tracer.Start(t.Context(), "a", tracing.Internal, "")
	span.End(nil)
	require.NoError(t, tracer.Close(t.Context()))
	assert.Equal(t, tracing.Counts{Failed: 1}, tracer.Counts())
	assert.EqualValues(t, 2, posts.Load())
	assert.Contains(t, log.String(), "the collector answered 307")
	assert.Equal(t, 1, strings.Count(log.String(), "\n"))
}

// A collector that does not answer holds up no one: more spans than wait for it are
// dropped and counted, and a stop waits no longer than it is told.
func TestACollectorThatHangs(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	tracer := newTracer(t, server.URL, nil)
	const spans, waiting = 10_000, 4096
	began := time.Now()
	for i := range spans {
		_, span := tracer.Start(t.Context(), fmt.Sprint(i), tracing.Internal, "")
		span.End(nil)
	}
	assert.Less(t, time.Since(began), 5*time.Second, "a post takes as long")
	assert.Equal(t, tracing.Counts{QueueFull: spans - waiting}, tracer.Counts())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.Error(t, tracer.Close(ctx))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Equal(c, tracing.Counts{QueueFull: spans - waiting, Failed: waiting}, tracer.Counts())
	}, 20*time.Second, 10*time.Millisecond)
}

func TestLogsNameTheirTrace(t *testing.T) {
	t.Parallel()
	tracer := newTracer(t, tracetest.New(t).URL, nil)
	var text bytes.Buffer
	log := slog.New(tracing.LogHandler(slog.NewTextHandler(&text, nil))).With("stage", "x")
	ctx, span := tracer.Start(t.Context(), "a", tracing.Internal, sampled)
	log.InfoContext(ctx, "traced")
	log.InfoContext(t.Context(), "not traced")
	span.End(nil)
	require.NoError(t, tracer.Close(t.Context()))
	traceID, spanID := tracing.IDs(ctx)
	lines := strings.Split(text.String(), "\n")
	assert.Contains(t, lines[0], "msg=traced stage=x trace_id="+traceID+" span_id="+spanID)
	assert.NotContains(t, lines[1], "trace_id")
}
