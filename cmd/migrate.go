package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
)

func newMigrate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Run database migrations",
		Long: `Run the database migrations of this version and print what was done. The service
does the same when it starts. Only the database is needed. Several may run at
once: one migrates, the others wait.

Tables of projections that another version or other settings built are not
changed; "pricemill serve" rebuilds them from the log.

On SQLite, stop the service first: tables must not change while a process uses
them.`,
		Example: "  pricemill migrate",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			return a.migrate(c.Context(), cfg)
		},
	}
}

func (a *app) migrate(ctx context.Context, c config) (err error) {
	m, err := build(c, a.logger(c))
	if err != nil {
		return err
	}
	if c.DatabaseURL == "" {
		release, err := holdDir(c.DataDir)
		if errors.Is(err, errLocked) {
			return fmt.Errorf("pricemill runs on %s, and brought its tables up to date when it started; "+
				"stop it to bring them up to date with this version: %w", c.DataDir, err)
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	engine, err := openEngine(ctx, c)
	if err != nil {
		return err
	}
	recorded, _, err := store.RecordedLog(ctx, engine)
	if err == nil {
		err = underWay(recorded)
	}
	if err != nil {
		return errors.Join(err, engine.Close())
	}
	db, err := store.Open(ctx, engine)
	if err != nil {
		return errors.Join(err, engine.Close())
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	versions := db.Migration()
	fmt.Fprintf(a.stdout, "tables of the pipeline: version %d, was %d\n", versions.To, versions.From)
	if err := m.createTables(ctx, db); err != nil {
		return err
	}
	for _, p := range m.projections {
		made, err := projections.OpenFirst(ctx, db, p)
		if err != nil {
			return err
		}
		state := "there"
		if made {
			state = "made"
		}
		fmt.Fprintf(a.stdout, "tables of %s: %s\n", p.Name(), state)
	}
	return nil
}
