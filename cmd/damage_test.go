package cmd_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestADamagedDatabase: a start refuses a file that is damaged anywhere, and commands
// that meet the damage fail; each says how to restore. PostgreSQL checks its own
// pages.
func TestADamagedDatabase(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"DATABASE_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""})
	p.eventually("/readyz", http.StatusOK)
	fillPrices(t, p.env, 1000)
	p.stopped()
	// A page that holds a record of the log alone is zeros to the log, which checks them
	// when it reads: see TestADamagedLog.
	db := openTables(t, p.env)
	var root int
	require.NoError(t, db.Get(t.Context(), &root, `SELECT rootpage FROM sqlite_schema WHERE name = 'processed_prices'`))
	require.NoError(t, db.Close())
	file := filepath.Join(p.env["DATA_DIR"], "pricemill.db")
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	zeros := append([]byte{}, whole...)
	clear(zeros[(root-1)*4096:][:4096])
	for name, harmed := range map[string][]byte{"4 kB of zeros": zeros, "half of the file": whole[:len(whole)/2]} {
		require.NoError(t, os.WriteFile(file, harmed, 0o600))
		commands := [][]string{{"serve"}, {"verify"}, {"backup", filepath.Join(t.TempDir(), "copy")}}
		if name == "half of the file" {
			commands = append(commands, []string{"stages", "list"}, []string{"migrate"})
		}
		for _, args := range commands {
			status, _, stderr := run(t, p.env, args...)
			assert.Equal(t, 1, status, "%s: %v", name, args)
			for _, says := range []string{"pricemill.db is damaged", `"pricemill backup"`, `"A damaged database" in docs/operations-reference.md`} {
				assert.Contains(t, stderr, says, "%s: %v", name, args)
			}
		}
	}
	require.NoError(t, os.WriteFile(file, whole, 0o600))
	proven(t, p.env)
}
