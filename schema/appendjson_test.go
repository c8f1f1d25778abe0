package schema

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var awkwardTexts = []string{"", "a", `"\`, "\b\f\n\r\t\v\x00\x1f\x7f", "<>&", "äöü€😀", "\u2028\u2029", "\xff", "a\xffb", `{"p":1.50,"s":"x\"y"}`, "\ufffd"}

func assertAppendsString(t require.TestingT, text string) {
	want, err := json.Marshal(text)
	require.NoError(t, err)
	require.Equal(t, "x"+string(want), string(appendString([]byte("x"), text)))
	require.Equal(t, "x"+string(want), string(appendString([]byte("x"), []byte(text))))
	// RawResponse has rules of its own, said here once more.
	if object := `{"base64":"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"}`; !utf8.ValidString(text) || len(want) > len(object) {
		want = []byte(object)
	}
	got, err := RawResponse(text).MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	var read RawResponse
	require.NoError(t, json.Unmarshal(got, &read))
	require.Equal(t, text, string(read))
	if got[0] == '"' {
		require.True(t, read.unescape(got))
		require.Equal(t, text, string(read))
	}
}

func TestAppendsStringsAsEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, text := range awkwardTexts {
		assertAppendsString(t, text)
	}
	rapid.Check(t, func(t *rapid.T) { assertAppendsString(t, rapid.String().Draw(t, "text")) })
}

// What is appended by hand is what encoding/json writes.
func FuzzAppendJSON(f *testing.F) {
	for _, text := range awkwardTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { assertAppendsString(t, text) })
}

// TestPayloadsAppendAsEncodingJSON holds every payload that writes its own JSON against
// encoding/json, which goes by the tags of the struct.
func TestPayloadsAppendAsEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.SampledFrom(awkwardTexts), rapid.String())
		number := rapid.Custom(func(t *rapid.T) Decimal {
			return MustDecimal(rapid.StringMatching(`-?[0-9]{1,18}(\.[0-9]{1,18})?`).Draw(t, "number"))
		})
		at := rapid.Custom(func(t *rapid.T) Time {
			from, to := time.Date(minYear, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), maxTime.UnixMicro()
			return NewTime(time.UnixMicro(rapid.Int64Range(from, to).Draw(t, "time")))
		})
		quote := Quote{Provider(text.Draw(t, "provider")), Symbol(text.Draw(t, "symbol")), text.Draw(t, "request")}
		fetched := QuoteFetched{quote, RawResponse(text.Draw(t, "answer")), at.Draw(t, "received"), text.Draw(t, "definition")}
		for _, payload := range []Payload{
			fetched,
			QuoteStored{fetched, text.Draw(t, "id")},
			PriceObserved{Symbol: quote.Symbol, Price: number.Draw(t, "price"), Size: number.Draw(t, "size"), Timestamp: at.Draw(t, "timestamp"),
				Sequence: Sequence(rapid.Int64().Draw(t, "sequence")), Source: quote.Provider, RawResponseID: text.Draw(t, "id"),
				ReceivedAt: fetched.ReceivedAt, RequestID: quote.RequestID},
		} {
			want, err := json.Marshal(payload)
			require.NoError(t, err)
			got, err := encodePayload(payload)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		}
	})
}

// TestFieldersGiveTheirFields: by each name of a field, a pointer to that very field.
func TestFieldersGiveTheirFields(t *testing.T) {
	t.Parallel()
	found := 0
	for name, typ := range registry.types {
		target := reflect.New(typ.Type)
		known := fielderOf(target.Interface())
		if known == nil {
			continue
		}
		found++
		for _, field := range typ.flat {
			assert.Same(t, target.Elem().FieldByIndex(field.index).Addr().Interface(), known.field(field.name), "%s: %s", name, field.name)
		}
		assert.Nil(t, known.field("nothing"))
	}
	assert.Equal(t, 3, found)
}

// TestAStructThatEmbedsAPayloadIsItself: fields of its own are written and read.
func TestAStructThatEmbedsAPayloadIsItself(t *testing.T) {
	t.Parallel()
	type tagged struct {
		PriceObserved
		Tag string `json:"tag"`
	}
	at := NewTime(time.Unix(1, 0))
	want := tagged{PriceObserved{Symbol: "A", Price: MustDecimal("1"), Source: "p", Timestamp: at, ReceivedAt: at}, "x"}
	text, err := encodePayload(want)
	require.NoError(t, err)
	assert.Contains(t, string(text), `"tag":"x"`)
	var got tagged
	require.True(t, decodeFlat(text, flatFields(reflect.TypeFor[tagged]()), reflect.ValueOf(&got).Elem()))
	assert.Equal(t, want, got)
}

// TestShortDecimalsAreReadAsAllOthers: what parseShort reads is what ParseDecimal reads,
// in the same form.
func TestShortDecimalsAreReadAsAllOthers(t *testing.T) {
	t.Parallel()
	check := func(t require.TestingT, text string) {
		short, ok := parseShort([]byte(text))
		if !ok {
			return
		}
		want, err := ParseDecimal(text)
		require.NoError(t, err, text)
		require.Equal(t, want, short, text)
	}
	for text, read := range map[string]bool{
		"0": true, "-0": true, "0.0": true, "185.75": true, "-36.98": true, "100": true, "0.500": true, "999999999999999999": true,
		"9.99999999999999999": true, "": false, "-": false, ".5": false, "5.": false, "1e3": false, "+1": false, "1.2.3": false,
		`"1"`: false, "1234567890123456789": false, "9999999999999999999": false, "12345678901234567.89": false,
	} {
		_, ok := parseShort([]byte(text))
		assert.Equal(t, read, ok, text)
		check(t, text)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.StringMatching(`-?[0-9]{1,19}(\.[0-9]{0,19})?`).Draw(t, "text")) })
}

// TestTextOrderIsTimeOrder: of what Time writes.
func TestTextOrderIsTimeOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Int64Range(time.Date(minYear, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), maxTime.UnixMicro())
		a, b := NewTime(time.UnixMicro(at.Draw(t, "a"))), NewTime(time.UnixMicro(at.Draw(t, "b")))
		textA, err := a.MarshalText()
		require.NoError(t, err)
		textB, err := b.MarshalText()
		require.NoError(t, err)
		require.Equal(t, a.Format(sqlTime), string(textA))
		require.Equal(t, a.Compare(b) < 0, string(textA) < string(textB))
		read, err := ParseTime(string(textA))
		require.NoError(t, err)
		require.Equal(t, a, read)
	})
	_, err := NewTime(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)).MarshalJSON()
	require.Error(t, err)
}
