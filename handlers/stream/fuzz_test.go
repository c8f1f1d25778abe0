package stream

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a row says of a stream is read, or the error names the stream; and what is
// read is what was meant.
func FuzzStored(f *testing.F) {
	for _, seed := range [][2]string{{`["A","BRK.B"]`, `{"A":1}`}, {`[]`, `{}`}, {`null`, `null`}, {``, ``}, {`[1]`, `{"A":1.5}`}, {`["A"]`, `{"A":9223372036854775808}`}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, symbols, sequences string) {
		list, p, err := row{ID: "stream-1", Symbols: symbols, Sequences: sequences}.read()
		shown, shownErr := stored{Stream: Stream{ID: "stream-1"}, SymbolsJSON: symbols}.read()
		if err != nil {
			require.ErrorContains(t, err, "stream-1")
			return
		}
		require.NoError(t, shownErr)
		require.Equal(t, list, shown.Symbols)
		written, err := json.Marshal(p.clone().sequences)
		require.NoError(t, err)
		_, again, err := row{Symbols: symbols, Sequences: string(written)}.read()
		require.NoError(t, err)
		require.Equal(t, len(p.sequences), len(again.sequences))
		for symbol, n := range p.sequences {
			require.Equal(t, n, again.sequences[symbol])
		}
	})
}
