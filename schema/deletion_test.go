package schema_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// What takes the place of a deleted record can be read on every topic, forever.
func TestARecordDeletedDecodesForever(t *testing.T) {
	t.Parallel()
	headers := []schema.Header{{Key: "ce_id", Value: []byte("d/price-events/0/7")}, {Key: "ce_source", Value: []byte("pricemill/delete-data")},
		{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_type", Value: []byte("log.record.deleted.v1")},
		{Key: "ce_time", Value: []byte("2026-06-15T14:31:00.000000Z")}, {Key: "ce_subject", Value: []byte("d")},
		{Key: "content-type", Value: []byte("application/json")}}
	value := `{"deletion_id":"d","deleted_at":"2026-06-15T14:31:00.000000Z"}`
	event, err := schema.DecodeEvent(headers, []byte(value))
	require.NoError(t, err)
	want := schema.RecordDeleted{DeletionID: "d", DeletedAt: schema.NewTime(time.Date(2026, 6, 15, 14, 31, 0, 0, time.UTC))}
	assert.Equal(t, want, event.Payload)
	assert.True(t, schema.IsRecordDeleted(headers))
	encoded, written, err := event.Encode()
	require.NoError(t, err)
	assert.Equal(t, headers, encoded)
	assert.Equal(t, value, string(written))
	assert.NotContains(t, schema.EventTypes(), want.EventType())
	assert.NotContains(t, schema.Topics(), schema.Topic(""))
	require.Error(t, schema.RecordDeleted{}.Validate())
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Unix(1, 0))
	quote := schema.Quote{Provider: "p", Symbol: "A/B"}
	want := schema.Subject{Provider: "p", Symbol: "A/B"}
	price, err := schema.ParseDecimal("1")
	require.NoError(t, err)
	for _, payload := range []schema.Payload{
		schema.FetchRequested{Quote: schema.Quote{Provider: "p", Symbol: "A/B", RequestID: "r"}, RequestedAt: at, Deadline: at},
		schema.QuoteFetched{Quote: quote, RawResponse: []byte("x"), ReceivedAt: at},
		schema.PriceObserved{Symbol: "A/B", Source: "p", Price: price, Timestamp: at, ReceivedAt: at},
		schema.PriceRetracted{Correction: schema.Correction{FactID: "f", Symbol: "A/B", Source: "p", Timestamp: at, Reason: "r"}, RetractedAt: at},
	} {
		headers, value, err := schema.Event{ID: "i", Source: "s", Payload: payload}.Encode()
		require.NoError(t, err)
		subjects, unread := schema.SubjectsOf(payload.Topic(), nil, headers, value)
		assert.False(t, unread)
		assert.Equal(t, []schema.Subject{want}, subjects, "%T", payload)
		assert.False(t, schema.IsRecordDeleted(headers))
	}
	command, value, err := schema.Event{ID: "i", Source: "s", Payload: schema.StreamStarted{StreamID: "p/A", Provider: "p",
		Symbols: []schema.Symbol{"A"}, StartedAt: at}}.Encode()
	require.NoError(t, err)
	subjects, unread := schema.SubjectsOf(schema.PollingJobs, []byte("p/A"), command, value)
	assert.Empty(t, subjects, "what users ask for is theirs")
	assert.False(t, unread)

	for name, record := range map[string]struct{ key, subject, value string }{
		"key":     {key: "p/A/B"},
		"subject": {subject: "p/A/B"},
		"value":   {value: `{"provider":"p","symbol":"A/B"}`},
		"source":  {value: `{"source":"p","symbol":"A/B","price":"NaN"}`},
	} {
		subjects, unread := schema.SubjectsOf(schema.RawQuotes, []byte(record.key), []schema.Header{{Key: "ce_subject", Value: []byte(record.subject)}}, []byte(record.value))
		assert.True(t, unread, name)
		assert.Equal(t, []schema.Subject{want}, subjects, name)
	}
	for name, record := range map[string]struct{ key, value string }{
		"key":              {key: "p/\x00"},
		"value":            {value: `{"provider":"p","symbol":"A%B"}`},
		"no symbol":        {value: `{"source":"p"}`},
		"symbol of number": {value: `{"symbol":5,"provider":"p"}`},
	} {
		subjects, unread := schema.SubjectsOf(schema.RawQuotes, []byte(record.key), nil, []byte(record.value))
		assert.True(t, unread, name)
		assert.Equal(t, []schema.Subject{{Provider: "p"}}, subjects, "%s: all that is known is the provider", name)
	}
	assert.True(t, schema.Subject{Provider: "p"}.Holds(schema.Subject{Provider: "p"}))
	assert.False(t, want.Holds(schema.Subject{Provider: "p"}))
	subjects, unread = schema.SubjectsOf(schema.RawQuotes, []byte("nothing"), nil, []byte("{"))
	assert.True(t, unread)
	assert.Empty(t, subjects)

	assert.True(t, schema.Subject{Provider: "p"}.Holds(want))
	assert.True(t, want.Holds(want))
	assert.False(t, want.Holds(schema.Subject{Provider: "p", Symbol: "A"}))
	assert.False(t, schema.Subject{Provider: "q"}.Holds(want))
	assert.Equal(t, "p/A/B", want.String())
	assert.Equal(t, "p", schema.Subject{Provider: "p"}.String())
}
