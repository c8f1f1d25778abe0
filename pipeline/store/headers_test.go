package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestHeadersRoundTrip(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]schema.Header{
		"none":       nil,
		"some":       {{Key: "ce_id", Value: []byte("1")}, {Key: "x", Value: []byte{0, 255}}},
		"empty ones": {{Key: "", Value: []byte{}}},
		"null":       {{Key: "a", Value: nil}, {Key: "b", Value: []byte{}}, {Key: "a", Value: []byte("again")}},
		"long":       {{Key: "k", Value: make([]byte, 70000)}},
	} {
		got, err := store.DecodeHeaders(store.EncodeHeaders(headers))
		require.NoError(t, err, name)
		assert.Equal(t, headers, got, name)
	}
}

// What is in tables was packed by whatever version wrote it.
func TestHeadersOfVersion1(t *testing.T) {
	t.Parallel()
	got, err := store.DecodeHeaders([]byte("\x01\x05ce_id\x021x\x01e\x00"))
	require.NoError(t, err)
	assert.Equal(t, []schema.Header{{Key: "ce_id", Value: []byte("1x")}, {Key: "e", Value: []byte{}}}, got)
}

func FuzzDecodeHeaders(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 1, 'a', 0})
	f.Add([]byte{2, 1, 'a', 0, 1, 'a', 1})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Add(store.EncodeHeaders([]schema.Header{{Key: "a", Value: []byte("b")}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		headers, err := store.DecodeHeaders(data)
		if err != nil {
			require.ErrorIs(t, err, store.ErrHeaders)
			return
		}
		again, err := store.DecodeHeaders(store.EncodeHeaders(headers))
		require.NoError(t, err)
		require.Equal(t, headers, again)
	})
}
