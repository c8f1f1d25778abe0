package deletion

import (
	"context"
	"maps"
	"slices"
)

// rewritten are the tables that may hold bytes of the data. PostgreSQL keeps those of rows that
// were deleted or changed at any time, so a table counts also where no row is left to delete, as
// that of the dead letters after the last one was discarded.
func (d *deleting) rewritten(ctx context.Context) ([]string, error) {
	rows, err := d.rowsOf(ctx, d.counted.Jobs, d.counted.Refilled)
	if err != nil {
		return nil, err
	}
	there, err := d.Store.Tables(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{"deletions": true}
	for _, t := range Treatments {
		if t.Kind != Kept && slices.Contains(there, t.Table) {
			names[t.Table] = true
		}
	}
	for _, r := range rows.rules {
		names[r.table] = true
	}
	for _, counts := range []map[string]int64{d.counted.Rows, d.counted.Cleared, d.counted.Emptied} {
		for name := range counts {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}
