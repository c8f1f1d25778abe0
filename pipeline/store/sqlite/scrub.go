package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
)

var _ store.Scrubber = (*Engine)(nil)

// errBusy says that the write-ahead log could not be emptied.
var errBusy = errors.New("another process has the database open: stop it")

// Scrub implements store.Scrubber: it writes the whole file again, whatever the tables, and
// empties the write-ahead log. The file needs as much room again meanwhile, twice.
func (e *Engine) Scrub(ctx context.Context, _ []string) error {
	// VACUUM makes its copy in a temporary database: not in memory.
	for _, statement := range []string{"PRAGMA temp_store = FILE", "VACUUM", "PRAGMA temp_store = MEMORY"} {
		if _, err := e.writer.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, e.damage.see(err))
		}
	}
	var busy, frames, moved int
	if err := e.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved); err != nil {
		return fmt.Errorf("emptying the write-ahead log: %w", e.damage.see(err))
	}
	if busy != 0 {
		return fmt.Errorf("emptying the write-ahead log: %w", errBusy)
	}
	return nil
}
