// Package tracing records spans by OpenTelemetry and sends them to a collector by OTLP
// over HTTP. It is the only package that knows OpenTelemetry.
//
// A nil *[Tracer] records nothing, which is the default: its methods may be called, and
// return at once. Code that is called for each record asks for nil first, and then does
// nothing at all.
//
// A trace travels as a traceparent of the W3C, in HTTP headers, in the context of a
// request, in [schema.Event] and so on the log. Only traces that are sampled are carried
// on the log: a record without a traceparent begins none, so nothing is lost by it, and
// records stay as small as they were.
package tracing
