package schema_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

func TestRawResponseIsKeptByteForByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := schema.RawResponse(rapid.OneOf(rapid.SliceOf(rapid.Byte()),
			rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(t, "raw"))
		encoded, err := json.Marshal(raw)
		require.NoError(t, err)
		require.True(t, utf8.Valid(encoded))
		require.LessOrEqual(t, len(encoded), len(raw)*4/3+20)
		var back schema.RawResponse
		require.NoError(t, json.Unmarshal(encoded, &back))
		require.True(t, bytes.Equal(raw, back), "%q became %q", raw, back)
	})
}

func TestRawResponseForms(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{"price":"115730.07"}`: `"{\"price\":\"115730.07\"}"`,
		"ünïcødé 🎈\uFFFD":       `"ünïcødé 🎈�"`,
		"\xff":                  `{"base64":"/w=="}`,
		"\xed\xa0\x80":          `{"base64":"7aCA"}`, // a surrogate is not UTF-8
		"":                      `""`,
	} {
		encoded, err := json.Marshal(schema.RawResponse(raw))
		require.NoError(t, err)
		assert.Equal(t, want, string(encoded))
	}
	for _, bad := range []string{`5`, `[]`, `{"base64":5}`, `{"base64":"%"}`, `true`} {
		var raw schema.RawResponse
		assert.Error(t, json.Unmarshal([]byte(bad), &raw), bad)
	}
}

// Whatever the bytes of the longest answer are, its event is less than half of
// what Kafka takes by default.
func TestLongestAnswerFitsAMessage(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"\x00", "\x1b", "<", `"`, `\`, "\u2028", "\xff", "a", "é", "\"a"} {
		raw := []byte(strings.Repeat(unit, schema.MaxRawResponse/len(unit)))
		event := schema.Event{ID: "id", Source: "source", Payload: schema.QuoteStored{
			QuoteFetched: schema.QuoteFetched{
				Quote:       schema.Quote{Provider: "finnhub", Symbol: "AAPL", RequestID: "req_1"},
				RawResponse: raw, ReceivedAt: mustTime(t, "2025-06-15T14:30:00Z"),
			},
			RawResponseID: "1",
		}}
		headers, value, err := event.Encode()
		require.NoError(t, err)
		assert.Less(t, len(value), 512<<10, "%q", unit)
		decoded, err := schema.DecodeEvent(headers, value)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(raw, decoded.Payload.(schema.QuoteStored).RawResponse), "%q", unit)
		assertFits(t, compiled(t, event.Payload.EventType()), value)
	}
}

func TestRawResponseIsBounded(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, schema.MaxRawResponse + 1} {
		quote := schema.QuoteFetched{
			Quote:       schema.Quote{Provider: "finnhub", Symbol: "AAPL"},
			RawResponse: make([]byte, size), ReceivedAt: mustTime(t, "2025-06-15T14:30:00Z"),
		}
		assert.ErrorContains(t, quote.Validate(), "raw_response", "%d bytes", size)
	}
}

func TestReasonIsBounded(t *testing.T) {
	t.Parallel()
	failed := schema.QuoteFailed{
		Quote: schema.Quote{Provider: "finnhub", Symbol: "AAPL", RequestID: "r"},
		Code:  schema.CodeTimeout, Reason: strings.Repeat("x", schema.MaxReason), FailedAt: mustTime(t, "2025-06-15T14:30:00Z"),
	}
	assert.NoError(t, failed.Validate())
	failed.Reason += "x"
	assert.ErrorContains(t, failed.Validate(), "reason")
	assert.ErrorContains(t, schema.QuoteRejected{Reason: failed.Reason}.Validate(), "reason")
}

func TestCutReason(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringN(0, 800, -1), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 800), func(b []byte) string { return string(b) })).Draw(t, "text")
		cut := schema.CutReason(text)
		require.True(t, utf8.ValidString(cut))
		require.LessOrEqual(t, len(cut), schema.MaxReason)
		require.NotContains(t, cut, "\x00")
		if utf8.ValidString(text) && !strings.Contains(text, "\x00") && len(text) <= schema.MaxReason {
			require.Equal(t, text, cut)
		}
		if len(text) > 3*schema.MaxReason {
			require.Greater(t, len(cut), schema.MaxReason-2*utf8.UTFMax)
		}
	})
}

func TestUnchangedNeedsAPrice(t *testing.T) {
	t.Parallel()
	at := mustTime(t, "2025-06-15T14:30:00Z")
	unchanged := schema.QuoteUnchanged{
		Quote: schema.Quote{Provider: "finnhub", Symbol: "AAPL"}, RawResponseID: "1",
		Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at,
	}
	assert.NoError(t, unchanged.Validate())
	unchanged.Price = schema.MustDecimal("999999999999999999").Add(schema.MustDecimal("1"))
	assert.ErrorContains(t, unchanged.Validate(), "price")
	unchanged.Price = schema.Decimal{}.Sub(unchanged.Price)
	assert.ErrorContains(t, unchanged.Validate(), "price")
}

func TestPollingJobBounds(t *testing.T) {
	t.Parallel()
	good := schema.PollingJobCreated{
		JobID: "poll_1", Symbols: []schema.Symbol{"AAPL"}, Interval: schema.MinPollingInterval,
		Provider: "finnhub", CreatedAt: mustTime(t, "2025-06-15T14:30:00Z"),
	}
	require.NoError(t, good.Validate())
	for name, spoil := range map[string]func(*schema.PollingJobCreated){
		"job_id":     func(j *schema.PollingJobCreated) { j.JobID = "" },
		"symbols":    func(j *schema.PollingJobCreated) { j.Symbols = nil },
		"symbols: ":  func(j *schema.PollingJobCreated) { j.Symbols = make([]schema.Symbol, schema.MaxJobSymbols+1) },
		"symbol \"a": func(j *schema.PollingJobCreated) { j.Symbols = []schema.Symbol{"AAPL", "a?"} },
		"interval":   func(j *schema.PollingJobCreated) { j.Interval = 0 },
		"interval: ": func(j *schema.PollingJobCreated) { j.Interval = schema.MaxPollingInterval + 1 },
		"provider":   func(j *schema.PollingJobCreated) { j.Provider = "" },
		"created_at": func(j *schema.PollingJobCreated) { j.CreatedAt = schema.Time{} },
	} {
		bad := good
		spoil(&bad)
		assert.ErrorContains(t, bad.Validate(), name)
	}
}
