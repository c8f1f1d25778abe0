package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/tracetest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// traced is a rig whose stage records spans, and ended sends them.
func traced(t *testing.T, h pipeline.Handler) (r *Rig, collector *tracetest.Collector, ended func()) {
	t.Helper()
	collector = tracetest.New(t)
	base, err := url.Parse(collector.URL)
	require.NoError(t, err)
	tracer, err := tracing.New(tracing.Config{Endpoint: base, ServiceName: "test", Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	r = NewRig(t, h)
	r.Stage.tracer = tracer
	return r, collector, func() { require.NoError(t, tracer.Close(t.Context())) }
}

// parentOf is a traceparent that is sampled, or not.
func parentOf(n int, flag string) string { return fmt.Sprintf("00-%032x-%016x-%s", n, n, flag) }

// carrying has a record carry a trace.
func carrying(traceparent string) func(*pipeline.Record) {
	return func(r *pipeline.Record) {
		r.Headers = append(r.Headers, schema.Header{Key: "traceparent", Value: []byte(traceparent)})
	}
}

func (r *Rig) given() []schema.Event {
	r.T.Helper()
	rows, err := r.DB.ReadOutbox(r.T.Context(), 10_000, 1<<30, store.Behind{Epoch: r.Epoch(schema.QuoteOutcomes), Part: 1})
	require.NoError(r.T, err)
	events := make([]schema.Event, len(rows))
	for i, row := range rows {
		headers, err := store.DecodeHeaders(row.Headers)
		require.NoError(r.T, err)
		events[i], err = schema.DecodeEvent(headers, row.Payload)
		require.NoError(r.T, err)
	}
	return events
}

// Of a batch, records that are sampled have spans, under which their events continue, and
// the batch is linked to them. Ids of events are the same as without.
func TestABatchIsLinkedToItsRecords(t *testing.T) {
	t.Parallel()
	r, collector, ended := traced(t, &Recorder{})
	plain := NewRig(t, &Recorder{})
	for _, rig := range []*Rig{r, plain} {
		rig.Append(1, 0, carrying(parentOf(1, "01")))
		rig.Append(1, 0, nil)
		rig.Append(1, 0, carrying(parentOf(3, "00")))
		rig.Append(1, 0, carrying(parentOf(4, "01")))
		rig.Append(1, 0, func(r *pipeline.Record) { // of a rebuild: its trace has ended
			carrying(parentOf(5, "01"))(r)
			r.Timestamp = time.Now().Add(-2 * time.Hour)
		})
		rig.assign()
		require.NoError(t, rig.Deliver(t.Context(), rig.LogOf(1)...))
	}
	ended()
	events, without := r.given(), plain.given()
	require.Len(t, events, 5)
	for i := range events {
		assert.Equal(t, without[i].ID, events[i].ID)
	}
	byID, byName := map[string]tracetest.Span{}, map[string][]tracetest.Span{}
	for _, s := range collector.Spans() {
		byID[s.ID] = s
		byName[s.Name] = append(byName[s.Name], s)
		assert.Empty(t, s.Failed)
	}
	require.Len(t, byName, 3)
	require.Len(t, byName["test"], 2)
	require.Len(t, byName["publish quote-outcomes"], 2)
	require.Len(t, byName["test batch"], 1)
	batch := byName["test batch"][0]
	assert.Len(t, batch.Links, 2)
	assert.Equal(t, "5", batch.Attributes["messaging.batch.message_count"])
	for i, n := range map[int]int{0: 1, 3: 4} {
		span := byID[strings.Split(events[i].Traceparent, "-")[2]]
		assert.Equal(t, "publish quote-outcomes", span.Name)
		process := byID[span.Parent]
		assert.Equal(t, []string{"test", "CONSUMER", fmt.Sprintf("%016x", n), fmt.Sprintf("%032x", n)}, []string{process.Name, process.Kind, process.Parent, process.TraceID})
		assert.Equal(t, fmt.Sprint(i), process.Attributes["messaging.kafka.offset"])
		assert.Contains(t, batch.Links, process.ID)
		assert.Equal(t, []string{batch.ID}, process.Links)
		assert.Equal(t, span.TraceID, process.TraceID)
	}
	assert.Empty(t, events[1].Traceparent)
	assert.Equal(t, parentOf(3, "00"), events[2].Traceparent, "carried on as it came")
	assert.Empty(t, events[4].Traceparent)
}

// A batch that is tried again has one span for each record; what was rolled back failed.
func TestABatchThatIsTriedAgainIsOneSpan(t *testing.T) {
	t.Parallel()
	tries := 0
	recorder := &Recorder{}
	r, collector, ended := traced(t, handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
		events, err := recorder.Handle(ctx, tx, in)
		if tries++; tries == 1 {
			return nil, pipeline.RetryAfter(time.Nanosecond, errors.New("not yet"))
		}
		return events, err
	}))
	r.Append(1, 0, carrying(parentOf(1, "01")))
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	ended()
	var names []string
	for _, s := range collector.Spans() {
		names = append(names, s.Name)
		assert.Empty(t, s.Failed, s.Name)
	}
	assert.Equal(t, []string{"test", "test batch", "publish quote-outcomes"}, names)
	assert.Equal(t, 2, tries)
}

// The trace of a dead letter says so.
func TestTheTraceOfADeadLetter(t *testing.T) {
	t.Parallel()
	r, collector, ended := traced(t, &picky{refuses: "2"})
	r.Append(1, 0, carrying(parentOf(1, "01")))
	r.Append(1, 0, carrying(parentOf(2, "01")))
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	ended()
	letters := 0
	for _, s := range collector.Spans() {
		if s.Name == "dead letter" {
			letters++
			assert.Equal(t, fmt.Sprintf("%032x", 2), s.TraceID)
			assert.Contains(t, s.Failed, "2 is refused")
		}
	}
	assert.Equal(t, 1, letters)
	assert.Len(t, r.letters(), 1)
}

// A batch of more than maxTraced records has spans for so many.
func TestTheSpansOfABatchAreBounded(t *testing.T) {
	t.Parallel()
	r, collector, ended := traced(t, &Recorder{})
	const n = maxTraced + 10
	for i := range n {
		r.Append(1, 0, carrying(parentOf(i+1, "01")))
	}
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	ended()
	count := map[string]int{}
	for _, s := range collector.Spans() {
		count[s.Name]++
		if s.Name == "test batch" {
			assert.Len(t, s.Links, maxTraced)
			assert.Equal(t, fmt.Sprint(n), s.Attributes["pricemill.batch.sampled"])
		}
	}
	assert.Equal(t, map[string]int{"test": maxTraced, "publish quote-outcomes": maxTraced, "test batch": 1}, count)
	for i, event := range r.given() {
		assert.Equal(t, fmt.Sprintf("%032x", i+1), strings.Split(event.Traceparent, "-")[1], "its trace is carried on")
	}
}

// What Append sends is under the trace of its events, which stay as they were.
func TestAppendedEventsHaveSpans(t *testing.T) {
	t.Parallel()
	r, collector, ended := traced(t, &Recorder{})
	appender := NewAppender(&forgetful{Memory: r.Broker}, r.Stage.topics)
	appender.tracer = r.Stage.tracer
	events := []schema.Event{{ID: "a", Source: "test", Traceparent: parentOf(1, "01"), Payload: PriceNo("S1", 1)},
		{ID: "b", Source: "test", Payload: PriceNo("S1", 2)}}
	require.NoError(t, appender.Append(t.Context(), events))
	ended()
	assert.Equal(t, parentOf(1, "01"), events[0].Traceparent)
	spans := collector.Spans()
	require.Len(t, spans, 1)
	assert.Equal(t, []string{"publish price-events", "PRODUCER", fmt.Sprintf("%016x", 1)}, []string{spans[0].Name, spans[0].Kind, spans[0].Parent})
	first, err := schema.DecodeEvent(r.LogOf(1)[0].Headers, r.LogOf(1)[0].Value)
	require.NoError(t, err)
	assert.Equal(t, "00-"+spans[0].TraceID+"-"+spans[0].ID+"-01", first.Traceparent)
}
