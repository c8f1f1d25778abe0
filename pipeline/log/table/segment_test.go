package table

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// unpacked returns the records of segments, which must be numbered from first.
func unpacked(t testing.TB, first int64, segments ...store.Segment) []entry {
	t.Helper()
	var entries []entry
	for _, s := range segments {
		require.NoError(t, unpack(s, func(number int64, e entry) error {
			require.Equal(t, first+int64(len(entries)), number)
			entries = append(entries, e)
			return nil
		}))
		require.Equal(t, first+int64(len(entries))-1, s.Last)
	}
	return entries
}

// golden are the records of the files in testdata, which were written when their codec
// was new, and must decode forever.
func golden() []entry {
	at := time.UnixMilli(1_709_294_400_123).UTC()
	entries := []entry{
		{at: at, key: []byte("simulated/AAPL"), headers: store.EncodeHeaders([]schema.Header{{Key: "ce_type", Value: []byte("test")}, {Key: "null"}}), value: []byte(`{"price":"1.5"}`)},
		{at: time.UnixMilli(-1).UTC()},
		{at: at.Add(time.Hour), key: []byte{}, headers: []byte{}, value: []byte{}},
	}
	for i := range 20 {
		entries = append(entries, entry{at: at, key: []byte("simulated/AAPL"), value: fmt.Appendf(nil, `{"symbol":"AAPL","price":"%d"}`, i)})
	}
	return entries
}

func TestGoldenSegments(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/segment-*.json")
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var s store.Segment
		require.NoError(t, json.Unmarshal(text, &s))
		assert.Equal(t, file, fmt.Sprintf("testdata/segment-%d.json", s.Codec))
		assert.Equal(t, golden(), unpacked(t, 1_000_000, s), file)
	}
}

func TestPackCutsAndCompresses(t *testing.T) {
	t.Parallel()
	assert.Empty(t, pack(1, 2, 3, nil))
	one := pack(1, 2, 7, []entry{{at: time.UnixMilli(5), value: []byte("x")}})
	require.Len(t, one, 1)
	assert.Equal(t, store.Segment{Epoch: 1, Part: 2, First: 7, Last: 7, Newest: 5, Codec: plain, Checksum: one[0].Checksum, Body: one[0].Body}, one[0])

	var entries []entry
	for i := range 5000 {
		entries = append(entries, entry{at: time.UnixMilli(int64(1000 - i)).UTC(), key: []byte("k"), value: fmt.Appendf(nil, "%d%s", i, strings.Repeat("x", 300))})
	}
	segments := pack(1, 2, 100, entries)
	assert.Greater(t, len(segments), 5)
	first := int64(100)
	for _, s := range segments {
		assert.EqualValues(t, compressed, s.Codec)
		assert.Equal(t, first, s.First)
		assert.Equal(t, 1000-(first-100), s.Newest, "that of its first record")
		first = s.Last + 1
	}
	assert.Equal(t, entries, unpacked(t, 100, segments...))
}

// sealed is a segment whose checksum is right, whatever its body is.
func sealed(s store.Segment) store.Segment {
	s.Checksum = checksum(s)
	return s
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	body := appendEntry(nil, entry{value: []byte("x")})
	bomb := binary.AppendUvarint(nil, 1<<31)
	for name, s := range map[string]store.Segment{
		"fewer records than numbers": {First: 1, Last: 2, Codec: plain, Body: body},
		"more records than numbers":  {First: 1, Last: 1, Codec: plain, Body: append(body, body...)},
		"numbers without end":        {First: 1, Last: 1<<38 - 1, Codec: plain, Body: body},
		"numbers that go back":       {First: 3, Last: 1, Codec: plain, Body: body},
		"a length beyond the end":    {First: 1, Last: 1, Codec: plain, Body: []byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0}},
		"a block that is no block":   {First: 1, Last: 1, Codec: compressed, Body: []byte{1, 2, 3}},
		"a block that claims 2 GiB":  {First: 1, Last: 1, Codec: compressed, Body: bomb},
		"a block of nothing":         {First: 1, Last: 1, Codec: compressed, Body: nil},
	} {
		err := unpack(sealed(s), func(int64, entry) error { return nil })
		assert.ErrorIs(t, err, ErrDamaged, name)
	}
	s := sealed(store.Segment{First: 1, Last: 1, Codec: 3, Body: body})
	assert.ErrorIs(t, unpack(s, nil), ErrUnknownFormat)
	cause := errors.New("cause")
	s = sealed(store.Segment{First: 1, Last: 1, Codec: plain, Body: body})
	assert.Equal(t, cause, unpack(s, func(int64, entry) error { return cause }))
}

// FuzzUnpack: whatever a body is, unpacking it neither panics nor makes more of it than
// there is, and says what is wrong with it.
func FuzzUnpack(f *testing.F) {
	for _, s := range pack(1, 2, 1, golden()) {
		f.Add(s.Codec, s.First, s.Last, s.Body)
		body, err := s2.Decode(nil, s.Body)
		require.NoError(f, err)
		f.Add(int64(plain), s.First, s.Last, body)
	}
	f.Add(int64(compressed), int64(1), int64(1), binary.AppendUvarint(nil, 1<<32-1))
	f.Add(int64(7), int64(1), int64(1), []byte{})
	f.Fuzz(func(t *testing.T, codec, first, last int64, body []byte) {
		s := sealed(store.Segment{First: first, Last: last, Codec: codec, Body: body})
		bytes, records := 0, 0
		err := unpack(s, func(_ int64, e entry) error {
			records++
			bytes += len(e.key) + len(e.headers) + len(e.value)
			if e.headers != nil {
				_, _ = store.DecodeHeaders(e.headers) // may fail, not panic
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnknownFormat) {
			t.Errorf("%v", err)
		}
		most := len(body)
		if codec == compressed {
			most = maxUnpacked
		}
		if bytes > most || 4*records > most {
			t.Errorf("%d records with %d bytes of %d", records, bytes, len(body))
		}
		s.Checksum++
		if err := unpack(s, func(int64, entry) error { return nil }); !errors.Is(err, ErrDamaged) {
			t.Errorf("with a wrong checksum: %v", err)
		}
	})
}

// FuzzSegments: what is packed is unpacked.
func FuzzSegments(f *testing.F) {
	f.Add(int64(1_709_294_400_123), []byte("key"), []byte("headers"), []byte("value"), uint16(3), byte(0))
	f.Add(int64(-1), []byte{}, []byte{}, []byte(strings.Repeat("x", 1000)), uint16(999), byte(5))
	f.Fuzz(func(t *testing.T, millis int64, key, headers, value []byte, n uint16, nulls byte) {
		e := entry{time.UnixMilli(millis).UTC(), key, headers, value}
		for i, part := range [...]*[]byte{&e.key, &e.headers, &e.value} {
			if nulls>>i&1 == 1 {
				*part = nil
			} else if *part == nil {
				*part = []byte{}
			}
		}
		entries := make([]entry, n%2000+1)
		for i := range entries {
			entries[i] = e
		}
		segments := pack(3, 5, 42, entries)
		assert.Equal(t, entries, unpacked(t, 42, segments...))
		for _, s := range segments {
			assert.Equal(t, millis, s.Newest)
		}
	})
}
