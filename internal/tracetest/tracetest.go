// Package tracetest is a collector of traces, for tests.
package tracetest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector takes spans by OTLP over HTTP, as collectors do. It is safe for concurrent
// use.
type Collector struct {
	// URL is its base URL.
	URL string

	mu      sync.Mutex
	spans   []Span
	headers http.Header
	service string
}

// Span is one as it came. IDs are in hex.
type Span struct {
	Name, TraceID, ID, Parent string
	Kind                      string // such as SERVER
	// Links are the ids of the spans that it is linked to.
	Links      []string
	Attributes map[string]string
	// Failed is why it failed; empty if it did not.
	Failed     string
	Start, End uint64 // in nanoseconds since 1970
}

// New listens until the test ends.
func New(t testing.TB) *Collector {
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			assert.NoError(t, err, "a post to the collector")
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *Collector) take(r *http.Request) error {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return fmt.Errorf("%s %s of %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzip, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return err
		}
		if body, err = io.ReadAll(unzip); err != nil {
			return err
		}
	}
	var data tracepb.TracesData // on the wire the same as an ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &data); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = r.Header
	for _, resource := range data.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, read(s))
			}
		}
	}
	return nil
}

func read(s *tracepb.Span) Span {
	span := Span{Name: s.GetName(), TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
		Parent: hex.EncodeToString(s.GetParentSpanId()), Kind: strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"),
		Attributes: map[string]string{}, Start: s.GetStartTimeUnixNano(), End: s.GetEndTimeUnixNano()}
	for _, link := range s.GetLinks() {
		span.Links = append(span.Links, hex.EncodeToString(link.GetSpanId()))
	}
	for _, a := range s.GetAttributes() {
		span.Attributes[a.GetKey()] = a.GetValue().GetStringValue()
		if span.Attributes[a.GetKey()] == "" {
			span.Attributes[a.GetKey()] = fmt.Sprint(a.GetValue().GetIntValue())
		}
	}
	if s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		span.Failed = cmp.Or(s.GetStatus().GetMessage(), "failed")
	}
	return span
}

// Spans are those that came, in the order in which they began.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(slices.Values(c.spans), func(a, b Span) int { return cmp.Compare(a.Start, b.Start) })
}

// Trace are the spans of one trace.
func (c *Collector) Trace(id string) []Span {
	return slices.DeleteFunc(c.Spans(), func(s Span) bool { return s.TraceID != id })
}

// Last are the headers of the last post, and the name of the service that it came from.
func (c *Collector) Last() (headers http.Header, service string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers, c.service
}

// Tree draws spans under their parents, siblings by name: one line each, two spaces for
// each level. Siblings of one name are one line.
func Tree(spans []Span) string {
	known := map[string]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	var text strings.Builder
	var draw func(under []Span, depth int)
	draw = func(under []Span, depth int) {
		byName := map[string][]Span{}
		for _, s := range under {
			byName[s.Name] = append(byName[s.Name], s)
		}
		names := make([]string, 0, len(byName))
		for name := range byName {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			text.WriteString(strings.Repeat("  ", depth) + name + "\n")
			var below []Span
			for _, s := range spans {
				if slices.ContainsFunc(byName[name], func(p Span) bool { return p.ID == s.Parent }) {
					below = append(below, s)
				}
			}
			draw(below, depth+1)
		}
	}
	var roots []Span
	for _, s := range spans {
		if !known[s.Parent] {
			roots = append(roots, s)
		}
	}
	draw(roots, 0)
	return text.String()
}
