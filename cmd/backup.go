package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/embedded"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
)

func newBackup(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy log and database of the embedded default into a new directory",
		Long: `Copy log and database of the embedded default, as of one moment, into a new
directory, which another "pricemill serve" can have as its DATA_DIR. The service
may run meanwhile: writers wait while what the log got since the copy began is
copied, and go on while the database is. The copy is read back before it gets its
name, so a directory of that name is a whole backup.

PostgreSQL and Apache Kafka have means of their own.`,
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
		wrong.add("database_url", "backup copies the embedded default; of PostgreSQL, pg_dump and base backups make copies")
	}
	if len(c.Brokers) > 0 {
		wrong.add("kafka_bootstrap_servers", "backup copies the embedded default; a cluster's copies are its replicas and mirrors")
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
	// Beside the target, so that it can be given its name in one step.
	unfinished, err := os.MkdirTemp(filepath.Dir(target), filepath.Base(target)+".unfinished-")
	if err != nil {
		return fmt.Errorf("making a directory for the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(unfinished))
		}
	}()
	waited, err := copyEmbedded(ctx, c.DataDir, unfinished)
	if err != nil {
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
	_, err = fmt.Fprintf(a.stdout, "%s: log and database of %s; writers waited %v\n", target, original, waited)
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

// copyEmbedded copies a data directory. Database and log must be of one moment.
// Were the log older, it would lack what stages have applied, and they would
// halt. Were it newer, it would hold numbers of the chains that the copied
// database has not given out yet; it would give them out again, to other events,
// and these would be dropped as repeats. So the log is copied while nobody can
// commit: what the relay sends then was committed before. Most of the log is
// copied first, which leaves little to do while the others wait; waited is how
// long they did.
func copyEmbedded(ctx context.Context, from, to string) (waited time.Duration, err error) {
	log, err := embedded.NewCopier(filepath.Join(from, brokerDir), filepath.Join(to, brokerDir))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if err := log.Copy(ctx); err != nil {
		return 0, err
	}
	engine, err := sqlite.Open(filepath.Join(from, databaseFile))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	err = engine.Backup(ctx, filepath.Join(to, databaseFile), func() error {
		began := time.Now()
		defer func() { waited = time.Since(began).Round(time.Millisecond) }()
		return log.Copy(ctx)
	})
	return waited, err
}

// checkBackup starts a broker on the copy, which reads every record, reads every page
// of the database, and looks whether the log holds all that the stages have applied.
// The tables stay as they are, of whatever version.
func checkBackup(ctx context.Context, c config) (err error) {
	b := &backends{}
	defer func() { err = errors.Join(err, b.close()) }()
	// What the broker says of a batch that was cut off is no news here.
	if err := b.connect(ctx, c, exclusive, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	engine, err := openEngine(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	if err := engine.Check(ctx); err != nil {
		return err
	}
	stages, err := pipeline.Status(ctx, store.Reader(engine), b.broker)
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
