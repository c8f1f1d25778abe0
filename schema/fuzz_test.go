package schema_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// Whatever ParseDecimal accepts is what math/big reads in it, and prints as
// text that reads back the same.
func FuzzParseDecimal(f *testing.F) {
	for _, seed := range []string{"185.75", "-1.304e-05", "1e17", "999999999999999999.999999999999999999", "NaN", "0x1", "1.", "1e999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := schema.ParseDecimal(text)
		if err != nil {
			require.ErrorIs(t, err, schema.ErrDecimal)
			return
		}
		want, ok := new(big.Rat).SetString(text)
		require.True(t, ok, "%q is no number to math/big", text)
		assertEqual(t, want, d)
		again, err := schema.ParseDecimal(d.String())
		require.NoError(t, err)
		require.Equal(t, d.String(), again.String())
	})
}

// Whatever DecodeEvent accepts can be encoded, and that decodes to the same.
func FuzzDecodeEvent(f *testing.F) {
	for _, file := range goldenFiles(f, "*") {
		g := readGolden(f, file)
		contentType, eventType := "", ""
		for _, h := range g.Headers {
			switch h[0] {
			case "content-type":
				contentType = h[1]
			case "ce_type":
				eventType = h[1]
			}
		}
		f.Add(contentType, eventType, []byte(g.Value))
	}
	f.Fuzz(func(t *testing.T, contentType, eventType string, value []byte) {
		headers := with(binaryHeaders(schema.EventType(eventType)), "content-type", contentType)
		event, err := schema.DecodeEvent(headers, value)
		if err != nil {
			for _, typed := range []error{schema.ErrEnvelope, schema.ErrUnknownType, schema.ErrPayload} {
				if errors.Is(err, typed) {
					return
				}
			}
			t.Fatalf("untyped error: %v", err)
		}
		headers, value, err = event.Encode()
		require.NoError(t, err)
		decoded, err := schema.DecodeEvent(headers, value)
		require.NoError(t, err)
		_, again, err := decoded.Encode()
		require.NoError(t, err)
		require.Equal(t, string(value), string(again))
		require.Equal(t, event.ID, decoded.ID)
	})
}

// Whatever headers a record has, several of one name among them, it is an event
// that can be published again, or its error says what is wrong with it.
func FuzzEnvelope(f *testing.F) {
	for _, file := range goldenFiles(f, "*") {
		g := readGolden(f, file)
		pairs := ""
		for _, h := range g.Headers {
			pairs += h[0] + "\x00" + h[1] + "\x00"
		}
		f.Add(pairs, []byte(g.Value))
	}
	f.Add("ce_id\x00a\x00ce_id\x00b\x00CE_TYPE\x00x\x00\x00\x00traceparent\x00\xff\x00", []byte("{}"))
	f.Fuzz(func(t *testing.T, pairs string, value []byte) {
		var headers []schema.Header
		for fields := strings.Split(pairs, "\x00"); len(fields) > 1; fields = fields[2:] {
			headers = append(headers, schema.Header{Key: fields[0], Value: []byte(fields[1])})
		}
		event, err := schema.DecodeEvent(headers, value)
		if err != nil {
			require.True(t, errors.Is(err, schema.ErrEnvelope) || errors.Is(err, schema.ErrUnknownType) || errors.Is(err, schema.ErrPayload), "untyped error: %v", err)
			return
		}
		again, value, err := event.Encode()
		require.NoError(t, err)
		decoded, err := schema.DecodeEvent(again, value)
		require.NoError(t, err)
		require.Equal(t, []string{event.ID, event.Source, event.Traceparent}, []string{decoded.ID, decoded.Source, decoded.Traceparent})
		require.Equal(t, event.Payload.Key(), decoded.Payload.Key())
	})
}

// Whatever ParseTime accepts, the standard library reads as the same instant, cut
// to microseconds; and text, JSON and SQL give it back.
func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{"2025-06-15T14:30:00Z", "2025-06-15T14:30:00.123456789+05:30", "9999-12-31T23:59:59.999999999Z",
		"0000-01-01T00:00:00Z", "2025-06-15T14:30:00,5Z", "2025-06-15t14:30:00z", "2025-02-30T00:00:00Z", "2025-06-15T4:30:00Z", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := schema.ParseTime(text)
		if err != nil {
			require.LessOrEqual(t, len(err.Error()), 300, "an error repeats the text, however long")
			return
		}
		want, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		require.True(t, want.Truncate(time.Microsecond).Equal(parsed.Time), "%v is read as %v", want, parsed)
		if parsed.Validate() != nil {
			return // no event carries it
		}
		value, err := parsed.Value()
		require.NoError(t, err)
		require.Len(t, value, len("2006-01-02T15:04:05.000000Z"), "SQL sorts these as texts")
		var fromSQL, fromJSON schema.Time
		require.NoError(t, fromSQL.Scan(value))
		require.Equal(t, parsed, fromSQL)
		quoted, err := json.Marshal(parsed)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(quoted, &fromJSON))
		require.Equal(t, parsed, fromJSON)
	})
}

// Any answer comes back byte for byte, and its JSON form is at most a third longer.
func FuzzRawResponse(f *testing.F) {
	for _, seed := range []string{"", `{"c":185.75}`, "\x00\x01\x02", "\xff", "\u2028<&>", "ſ\U0001F4A9"} {
		f.Add([]byte(seed), seed)
	}
	f.Add([]byte{}, `{"base64":"AAE="}`)
	f.Add([]byte{}, `{"base64":"%"}`)
	f.Add([]byte{}, `{"base64":["A"]}`)
	f.Fuzz(func(t *testing.T, answer []byte, text string) {
		form, err := json.Marshal(schema.RawResponse(answer))
		require.NoError(t, err)
		require.LessOrEqual(t, len(form), (len(answer)+2)/3*4+len(`{"base64":""}`))
		var again schema.RawResponse
		require.NoError(t, json.Unmarshal(form, &again))
		require.Equal(t, string(answer), string(again))

		var read schema.RawResponse
		if json.Unmarshal([]byte(text), &read) == nil {
			form, err := json.Marshal(read)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(form, &again))
			require.Equal(t, string(read), string(again))
		}
	})
}

// A symbol that is accepted is one text, no matter who writes it, and fits a key.
func FuzzParseSymbol(f *testing.F) {
	for _, seed := range []string{"AAPL", " brk.b ", "ſ", "BINANCE:BTCUSDT", "^GSPC", "EURUSD=X", "A B", "A\n", strings.Repeat("A", 65), "币安人生USDT", "BCpC", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		symbol, err := schema.ParseSymbol(text)
		if err != nil {
			require.ErrorIs(t, err, schema.ErrSymbol)
			return
		}
		again, err := schema.ParseSymbol(string(symbol))
		require.NoError(t, err)
		require.Equal(t, symbol, again)
		require.True(t, utf8.RuneCountInString(string(symbol)) <= schema.MaxSymbolLength && strings.EqualFold(strings.TrimSpace(text), string(symbol)))
		require.NoError(t, symbol.Validate())
	})
}
