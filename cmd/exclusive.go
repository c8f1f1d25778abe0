package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
)

// errInUse is wrapped where a process works with what one alone may work with.
var errInUse = errors.New("another process works with the database: stop it, or wait until it has ended")

// leasePatience is longer than a process counts as working that was killed.
const leasePatience = 7 * time.Second

// patiently calls try again while it reports errInUse, for as long as a killed process may be the
// reason.
func patiently(ctx context.Context, try func() error) error {
	for began := time.Now(); ; {
		err := try()
		if !errors.Is(err, errInUse) || time.Since(began) > leasePatience {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(leasePatience / 20):
		}
	}
}

// exclusive has this process alone work with a database on PostgreSQL, among services whose log it
// has and commands that call this, until it calls release.
func exclusive(ctx context.Context, db *store.Store, log *slog.Logger) (release func() error, err error) {
	owner := uuid.NewString()
	err = patiently(ctx, func() error {
		held, err := table.TryAcquire(ctx, db, owner)
		if err == nil && !held {
			err = errInUse
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return table.NewLease(db, owner, log).Close, nil
}

// refuseService refuses to work while a service works with the database or the cluster.
func refuseService(ctx context.Context, db *store.Store, cluster *kafka.Broker, c config) error {
	var held bool
	err := db.Get(ctx, &held, `SELECT EXISTS (SELECT 1 FROM leases WHERE name = $1 AND expires_ms > `+db.NowMillis()+`)`, outbox.LeaseName)
	if err != nil {
		return fmt.Errorf("asking whether a service works with the database: %w", err)
	}
	groups, err := cluster.ActiveGroups(ctx, c.GroupPrefix+".")
	if err != nil {
		return err
	}
	if held || len(groups) > 0 {
		return fmt.Errorf("%w; one that was killed counts as running for some seconds, at most until its session expires (%s). Its groups: %s",
			errInUse, c.SessionTimeout, strings.Join(groups, ", "))
	}
	return nil
}
