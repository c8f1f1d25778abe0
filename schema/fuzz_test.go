package schema_test

import (
	"errors"
	"math/big"
	"testing"

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
