package store

import (
	"context"
	"fmt"

	"github.com/pressly/goose/v3"
)

// Migration says which version the tables that belong to no projection had, and
// which they have now. 0 is a database without any.
type Migration struct{ From, To int64 }

// Migrate applies what is missing. The engines call it, each under a lock of
// its own, so that the versions are those of this call and no one else's.
func Migrate(ctx context.Context, provider *goose.Provider) (m Migration, err error) {
	if m.From, err = provider.GetDBVersion(ctx); err != nil {
		return m, fmt.Errorf("asking for the version of the tables: %w", err)
	}
	if _, err = provider.Up(ctx); err != nil {
		return m, fmt.Errorf("applying the migrations: %w", err)
	}
	if m.To, err = provider.GetDBVersion(ctx); err != nil {
		return m, fmt.Errorf("asking for the version of the tables: %w", err)
	}
	return m, nil
}
