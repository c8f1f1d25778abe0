package embedded

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever lies where a broker records its address, it is an address that a broker
// recorded, or an error.
func FuzzHolder(f *testing.F) {
	for _, seed := range []string{"", "{}", "null", `{"version":1,"address":"127.0.0.1:1","pid":1}`, `{"version":2,"address":"127.0.0.1:1"}`,
		`{"version":1}`, `{"version":1,"address":"\u0000"}`, "\xff"} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, record []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, addressFile), record, 0o600))
		h, err := readHolder(dir)
		if err != nil {
			return
		}
		require.Equal(t, addressVersion, h.Version)
		require.NoError(t, writeHolder(dir, h))
		again, err := readHolder(dir)
		require.NoError(t, err)
		require.Equal(t, h, again)
	})
}
