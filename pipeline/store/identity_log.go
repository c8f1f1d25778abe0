package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// TableLog is what a database records whose log is a table of its own. Elsewhere it
// records the id of a Kafka cluster.
const TableLog = "table"

// MoveUnderWay is what a database records until a move into it is finished: it belongs to
// no log yet, and nothing may work with it.
const MoveUnderWay = "move"

// RefillUnderWay is what a database records until it is filled again from the log on Kafka.
const RefillUnderWay = "refill"

// RestoreUnderWay is what a database records that was restored from a backup, until it has all that
// the log on Kafka has beyond the backup.
const RestoreUnderWay = "restore"

// DeletionUnderWay is what a database records, whose log is a table of its own, while data of a
// provider are deleted: nothing else may work with it.
const DeletionUnderWay = "deletion"

// ErrOtherLog is wrapped where a database belongs to another log than the one at hand.
var ErrOtherLog = errors.New("the database belongs to another log")

// RecordedLog returns the log that a database belongs to; empty where none is recorded.
// used reports whether it knows topics. It writes nothing, and the tables may be of any
// version, or absent.
func RecordedLog(ctx context.Context, engine Engine) (log string, used bool, err error) {
	for _, table := range []string{"instance", "topics"} {
		columns, err := engine.Columns(ctx, engine.Reader(), table)
		if err != nil {
			return "", false, fmt.Errorf("looking for the log of the database: %w", err)
		}
		for _, column := range columns {
			switch {
			case table == "instance" && column.Name == "log":
				err = engine.Reader().GetContext(ctx, &log, `SELECT log FROM instance`)
			case table == "topics" && column.Name == "epoch":
				err = engine.Reader().GetContext(ctx, &used, `SELECT EXISTS (SELECT 1 FROM topics)`)
			}
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return "", false, fmt.Errorf("looking for the log of the database: %w", err)
			}
		}
	}
	return log, used, nil
}

// RecordLog records the log that the database belongs to. The error wraps ErrOtherLog
// where another process has recorded another one meanwhile.
func (s *Store) RecordLog(ctx context.Context, log string) error {
	var recorded string
	if err := s.Get(ctx, &recorded, `SELECT log FROM instance`); err != nil {
		return fmt.Errorf("reading the log of the database: %w", err)
	}
	if recorded == log {
		return nil
	}
	err := s.Write(ctx, func(tx *Tx) error {
		changed, err := tx.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = '' OR log = $1`, log)
		if err == nil && changed == 0 {
			err = ErrOtherLog
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("recording the log of the database: %w", err)
	}
	return nil
}
