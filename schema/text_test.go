package schema_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// An id is passed on to what follows: one that no table and no event could hold is
// refused where it comes in.
func TestIDsAreShortPrintableTexts(t *testing.T) {
	t.Parallel()
	at := mustTime(t, "2025-06-15T14:30:00Z")
	jobs := func(id string) schema.Payload { return schema.PollingJobStopped{JobID: id, StoppedAt: at} }
	streams := func(id string) schema.Payload { return schema.StreamStopped{StreamID: id, StoppedAt: at} }
	for name, c := range map[string]struct {
		payload func(string) schema.Payload
		most    int
	}{"job": {jobs, schema.MaxJobID}, "stream": {streams, schema.MaxID}} {
		require.NoError(t, c.payload("a b.é𝄞").Validate(), name)
		require.NoError(t, c.payload(strings.Repeat("x", c.most)).Validate(), name)
		for _, bad := range []string{strings.Repeat("x", c.most+1), "a\x00b", "a\nb", "\x7f", "\u0085", "\xff"} {
			assert.ErrorIs(t, c.payload(bad).Validate(), schema.ErrText, "%s %q", name, bad)
		}
	}
	// The id of a job's request is an id whatever the job's is.
	request := schema.JobRequestID(strings.Repeat("j", schema.MaxJobID), schema.DeriveID("x"))
	require.NoError(t, schema.FetchRequested{Quote: schema.Quote{Provider: "p", Symbol: "A", RequestID: request}, RequestedAt: at, Deadline: at}.Validate())
}

func TestTheIDOfAnEventIsOne(t *testing.T) {
	t.Parallel()
	headers := binaryHeaders(priceType)
	for _, bad := range []string{"a\x00b", "\xff", strings.Repeat("x", schema.MaxID+1)} {
		_, err := schema.DecodeEvent(with(headers, "ce_id", bad), []byte(priceJSON))
		require.ErrorIs(t, err, schema.ErrEnvelope, "%q", bad)
		_, _, err = schema.Event{ID: bad, Source: "s", Payload: observed(t)}.Encode()
		require.ErrorIs(t, err, schema.ErrEnvelope, "%q", bad)
	}
}

// A trace context is carried on: one that cannot be one is dropped, the event stays.
func TestAnImpossibleTraceContextIsDropped(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"\x00": "", "é": "", strings.Repeat("0", 900_000): "",
	} {
		event, err := schema.DecodeEvent(append(binaryHeaders(priceType), schema.Header{Key: "traceparent", Value: []byte(text)}), []byte(priceJSON))
		require.NoError(t, err)
		assert.Equal(t, want, event.Traceparent)
	}
}
