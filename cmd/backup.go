package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

func newBackup(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy the SQLite database, log included, to a new directory",
		Long: `Copy the SQLite database, log included, as of one moment to a new directory,
which can serve as the DATA_DIR of another "pricemill serve". The service may
keep running. Every record of the copied log is read back before the directory
gets its final name, so a directory of that name is a complete backup.

Back up PostgreSQL and Kafka with their own tools.`,
		Example: "  pricemill backup /var/backups/pricemill-1\n  pricemill serve --data-dir /var/backups/pricemill-1",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			return a.backup(c.Context(), cfg, args[0])
		},
	}
}

func (a *app) backup(ctx context.Context, c config, target string) (err error) {
	var wrong faults
	if c.DatabaseURL != "" {
		wrong.add("database_url", "backup copies SQLite; of PostgreSQL, pg_dump and base backups make copies")
	}
	if len(c.Brokers) > 0 {
		wrong.add("kafka_bootstrap_servers", "backup copies SQLite; a cluster's copies are its replicas and mirrors")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %w", errUsage, errors.Join(wrong...))
	}
	if target, err = filepath.Abs(target); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := refuseContent(target); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, databaseFile)); err != nil {
		return fmt.Errorf("there is nothing to copy: %w", err)
	}
	// Next to the target, so that it can be given its name in one step.
	unfinished, err := os.MkdirTemp(filepath.Dir(target), filepath.Base(target)+".unfinished-")
	if err != nil {
		return fmt.Errorf("making a directory for the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(unfinished))
		}
	}()
	if err := copyDatabase(ctx, c.DataDir, unfinished); err != nil {
		return err
	}
	original := c.DataDir
	c.DataDir = unfinished
	if err := checkBackup(ctx, c); err != nil {
		return fmt.Errorf("reading the backup back: %w", err)
	}
	if err := publish(unfinished, target); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s: log and database of %s\n", target, original)
	return err
}

// refuseContent lets only a directory through that does not exist or is empty.
func refuseContent(target string) error {
	entries, err := os.ReadDir(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	case len(entries) > 0:
		return fmt.Errorf("%w: %s is not empty: a backup needs a directory of its own", errUsage, target)
	}
	return nil
}

// copyDatabase copies the database of a data directory, which holds the log too, as of one
// moment. Others continue writing meanwhile.
func copyDatabase(ctx context.Context, from, to string) (err error) {
	engine, err := sqlite.Open(filepath.Join(from, databaseFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	return engine.Backup(ctx, filepath.Join(to, databaseFile))
}

// checkBackup reads every page and every record of the copy, and looks whether it holds all that
// the stages have applied. The tables stay as they are, of whatever version.
func checkBackup(ctx context.Context, c config) (err error) {
	eng, err := openEngine(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()
	if err := eng.Check(ctx); err != nil {
		return err
	}
	if _, err := checkLog(ctx, c, eng, store.TableLog); err != nil {
		return err // its log is elsewhere, and not in the copy
	}
	log := table.Open(table.Config{Store: store.Reader(eng)})
	defer func() { err = errors.Join(err, log.Close()) }()
	for _, topic := range schema.Topics() {
		ranges, err := log.Offsets(ctx, topic)
		if errors.Is(err, table.ErrUnknownTopic) {
			continue // of a version that did not have it
		}
		if err != nil {
			return err
		}
		for part, held := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			if err := log.Read(ctx, tp, held.Oldest, held.End, func([]pipeline.Record) error { return nil }); err != nil {
				return err
			}
		}
	}
	stages, err := operator.Status(ctx, store.Reader(eng), log)
	if err != nil {
		return err
	}
	for _, s := range stages {
		if s.Lag < 0 {
			return fmt.Errorf("stage %s has applied %s/%d up to offset %d, and the log ends at %d",
				s.Stage, s.Topic, s.Partition, s.Position, s.End)
		}
	}
	return nil
}

// publish makes a directory durable and then gives it its name.
func publish(unfinished, target string) error {
	err := filepath.WalkDir(unfinished, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
	if err == nil {
		if err = os.Remove(target); errors.Is(err, fs.ErrNotExist) { // it is empty, if it is there
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(unfinished, target)
	}
	if err == nil {
		err = syncPath(filepath.Dir(target))
	}
	if err != nil {
		return fmt.Errorf("finishing the backup: %w", err)
	}
	return nil
}

// syncPath makes a file, or the names in a directory, durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
