package cmd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/schema"
)

// scratchName begins the names of all that a benchmark makes.
const scratchName = "pricemill_bench_"

// removeTimeout bounds the removal of what was made. A second interrupt ends the
// process at once, and leaves it behind.
const removeTimeout = 30 * time.Second

// refuseData returns an error where others would suffer from the load.
func (m *measurement) refuseData(ctx context.Context) error {
	if m.config.DatabaseURL == "" || m.besideData {
		return nil
	}
	table, err := postgres.TableWithData(ctx, postgres.Config{URL: m.config.DatabaseURL})
	if err != nil {
		return err
	}
	if table != "" {
		return fmt.Errorf("%w: the database holds data, in table %s and maybe others: a benchmark would load what others use; "+
			"name another one by DATABASE_URL, or say --beside-data: the data are left alone", errUsage, table)
	}
	return nil
}

// withScratch calls f with settings that lead to an empty log and an empty
// database, and removes both.
func (m *measurement) withScratch(ctx context.Context, f func(context.Context, config) error) (err error) {
	c := m.config
	var made []func(context.Context) error
	defer func() {
		removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		for i := range made {
			err = errors.Join(err, made[len(made)-1-i](removing))
		}
	}()
	name := scratchName + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	if c.DatabaseURL == "" {
		beside, err := filepath.Abs(c.DataDir)
		if err != nil {
			return fmt.Errorf("finding DATA_DIR: %w", err)
		}
		if c.DataDir, err = os.MkdirTemp(filepath.Dir(beside), "."+name+"_"); err != nil {
			return fmt.Errorf("making a directory next to DATA_DIR: %w", err)
		}
		made = append(made, func(context.Context) error { return os.RemoveAll(c.DataDir) })
	}
	if c.DatabaseURL != "" {
		scratch, err := postgres.NewScratch(ctx, postgres.Config{URL: c.DatabaseURL}, name)
		if err != nil {
			return err
		}
		made = append(made, scratch.Drop)
		c.DatabaseURL = scratch.URL
	}
	// After the user's own prefixes, which may be all that a cluster allows.
	c.GroupPrefix += "." + name
	c.nameTopics(strings.TrimSuffix(c.Topics[schema.RawQuotes], string(schema.RawQuotes))+name+".", "")
	if len(c.Brokers) > 0 {
		made = append(made, func(ctx context.Context) error { return m.removeTopics(ctx, c) })
	}
	return f(ctx, c)
}

// removeTopics removes what a run left in a cluster.
func (m *measurement) removeTopics(ctx context.Context, c config) (err error) {
	var b backends
	if _, err := b.connect(ctx, c, m.log); err != nil {
		return fmt.Errorf("removing topics %s*: %w", c.Topics[schema.RawQuotes], err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	return errors.Join(b.kafka.DeleteTopics(ctx, schema.Topics()), b.kafka.DeleteGroups(ctx, c.GroupPrefix+"."))
}

// withService calls f while a service with these settings runs and is ready.
func (m *measurement) withService(ctx context.Context, c config, f func(context.Context, *service) error) (err error) {
	s, err := openService(ctx, c, nil, m.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	group, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return s.run(running) })
	group.Go(func() error {
		defer stop()
		if err := s.awaitReady(ctx); err != nil {
			return err
		}
		return f(ctx, s)
	})
	defer stop()
	return group.Wait()
}

func (s *service) url() string { return "http://" + s.listener.Addr().String() }

// awaitReady asks /readyz until the answer is yes.
func (s *service) awaitReady(ctx context.Context) error {
	client := newLoopback(1)
	defer client.CloseIdleConnections()
	for {
		_, err := fetch(ctx, client, http.MethodGet, s.url()+"/readyz", "", http.StatusOK)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the service: %w; it said: %w", ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}
