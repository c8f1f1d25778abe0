package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
)

const (
	// maxQueue is how many spans wait for the collector at the most.
	maxQueue = 4096
	// exportDelay is how long a span waits for others to be sent with.
	exportDelay = time.Second
	// exportTimeout is how long a post may take, with its repeats; postTimeout is one of them.
	exportTimeout = 10 * time.Second
	postTimeout   = 5 * time.Second
)

// counting is a bounded queue to a collector, which counts what is lost. The processor
// of the SDK drops what its queue has no room for too, and does not say how much.
type counting struct {
	sdktrace.SpanProcessor
	waiting, sent, full, failed atomic.Int64
}

// newCounting sends spans by an exporter.
func newCounting(exporter sdktrace.SpanExporter, log *slog.Logger) *counting {
	c := &counting{}
	c.SpanProcessor = sdktrace.NewBatchSpanProcessor(&outlet{exporter, c, log, rate.Sometimes{First: 1, Interval: time.Minute}},
		sdktrace.WithMaxQueueSize(maxQueue), sdktrace.WithBatchTimeout(exportDelay), sdktrace.WithExportTimeout(exportTimeout))
	return c
}

// OnEnd implements sdktrace.SpanProcessor. No more wait than the queue of the SDK's
// processor takes, so that one drops nothing.
func (c *counting) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if c.waiting.Add(1) > maxQueue {
		c.waiting.Add(-1)
		c.full.Add(1)
		return
	}
	c.SpanProcessor.OnEnd(s)
}

// Counts are numbers of spans by outcome.
type Counts struct {
	// Sent were taken by the collector. QueueFull were dropped since too many waited for it,
	// and Failed since it did not take them.
	Sent, QueueFull, Failed int64
}

// Counts are those since the start.
func (t *Tracer) Counts() Counts {
	if t == nil {
		return Counts{}
	}
	return Counts{t.export.sent.Load(), t.export.full.Load(), t.export.failed.Load()}
}

// outlet is an exporter whose failures are counted and logged, and stop nothing.
type outlet struct {
	sdktrace.SpanExporter
	counts     *counting
	log        *slog.Logger
	complaints rate.Sometimes
}

// ExportSpans implements sdktrace.SpanExporter.
func (o *outlet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	n := int64(len(spans))
	defer o.counts.waiting.Add(-n)
	if err := o.SpanExporter.ExportSpans(ctx, spans); err != nil {
		o.counts.failed.Add(n)
		o.complaints.Do(func() {
			o.log.Warn("the collector of traces took no spans, which are dropped", "spans", n, "error", err)
		})
		return nil
	}
	o.counts.sent.Add(n)
	return nil
}

// client posts spans as OTLP/HTTP says. The exporter of OpenTelemetry does so too, and
// links gRPC into the program, which makes it 3 MB larger.
type client struct {
	endpoint string
	headers  map[string]string
	http     *http.Client
	// life ends what is under way, once abort is called.
	life  context.Context
	abort context.CancelFunc
}

var _ otlptrace.Client = (*client)(nil)

func newClient(base *url.URL, headers map[string]string) *client {
	life, abort := context.WithCancel(context.Background())
	return &client{life: life, abort: abort, endpoint: base.JoinPath("v1/traces").String(), headers: headers, http: &http.Client{Timeout: postTimeout,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the headers are secret
	}}
}

// Start implements otlptrace.Client.
func (*client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client: it posts once, and again while the collector
// says that it may, or cannot be reached.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// On the wire, TracesData is an ExportTraceServiceRequest, whose package has gRPC.
	text, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encoding spans: %w", err)
	}
	var body bytes.Buffer
	zip := gzip.NewWriter(&body)
	_, err = zip.Write(text)
	if err = errors.Join(err, zip.Close()); err != nil {
		return fmt.Errorf("compressing spans: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	_, err = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, c.post(ctx, body.Bytes()) },
		backoff.WithMaxElapsedTime(exportTimeout))
	return err
}

func (c *client) post(ctx context.Context, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	for key, value := range c.headers {
		request.Header.Set(key, value)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("Content-Encoding", "gzip")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()                      // it was read
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection can be used again
	switch status := response.StatusCode; status {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("the collector answered %s", response.Status)
	default:
		return backoff.Permanent(fmt.Errorf("the collector answered %s", response.Status))
	}
}
