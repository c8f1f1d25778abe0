package postgres

import (
	"context"
	"fmt"
)

// Identity implements store.Engine. It is made of
//
//   - the system identifier of the cluster: another after a dump was restored
//     elsewhere, or an upgrade,
//   - the numbers of the database and of its table instance: others after a dump
//     was restored next to, or over, the original,
//   - the timeline: another after a standby was promoted, or a backup was
//     restored to a moment in the past.
//
// The timeline is read from the name of the file being written. The control data
// have it too, but only as of the last checkpoint: after a promotion they name
// the old one for minutes.
//
// A role that may not call pg_control_system gets 0 for the system identifier;
// the rest needs no privilege. Then a dump that was restored into another
// cluster is noticed unless all three numbers happen to be the same there. To
// grant or revoke that privilege later makes another identity: the stages halt
// as after a restore.
//
// Two copies of one data directory cannot be told apart, as long as neither is
// promoted.
func (e *Engine) Identity(ctx context.Context) (string, error) {
	var allowed bool
	err := e.reader.GetContext(ctx, &allowed, `SELECT has_function_privilege('pg_control_system()', 'EXECUTE')`)
	if err != nil {
		return "", fmt.Errorf("reading the identity of the database: %w", err)
	}
	// The privilege is checked even where CASE leaves the function out.
	system := "0"
	if allowed {
		system = "(SELECT system_identifier FROM pg_control_system())"
	}
	query := `SELECT concat_ws('.', ` + system + `,
		(SELECT oid FROM pg_database WHERE datname = current_database()),
		to_regclass('instance')::oid,
		('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int)`
	var id string
	if err := e.writer.GetContext(ctx, &id, query); err != nil {
		return "", fmt.Errorf("reading the identity of the database: %w", err)
	}
	e.guard.expected.Store(&identity{query, id})
	return id, nil
}
