package cmd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
)

// errOtherRun says that another process does with the database what one alone may do.
var errOtherRun = errors.New("another run works with the database: wait until it has ended")

// exclusive has this process alone do what other processes would do as well with a database on
// PostgreSQL, until it calls release. It waits for one that was killed to count as ended.
func exclusive(ctx context.Context, db *store.Store, log *slog.Logger) (release func() error, err error) {
	owner := uuid.NewString()
	for began := time.Now(); ; {
		held, err := table.TryAcquire(ctx, db, owner)
		switch {
		case err != nil:
			return nil, err
		case held:
			return table.NewLease(db, owner, log).Close, nil
		case time.Since(began) > leasePatience:
			return nil, errOtherRun
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(leasePatience / 20):
		}
	}
}
