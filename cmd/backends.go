package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/embedded"
	"github.com/pricemill/pricemill/pipeline/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// backends are the log and the database.
type backends struct {
	store    *store.Store
	broker   *kafka.Broker
	embedded *embedded.Broker // nil where the log is elsewhere
	// addresses are those of the brokers.
	addresses []string
}

// batchGrace is how long the end of a session waits for batches under way. With
// what else a stop has to wait for, it stays below ten seconds.
const batchGrace = 3 * time.Second

// access says how a command uses the embedded broker.
type access int

const (
	// exclusive: the command runs the broker, or fails because another does.
	exclusive access = iota
	// beside: the command uses the broker of a process that runs, if one does.
	beside
)

// What lies in the data directory of the embedded default.
const (
	databaseFile = "pricemill.db"
	brokerDir    = "broker"
)

// checkPatience bounds how long a start waits for a look through the database. One
// that takes longer goes on, and /readyz says what it finds.
const checkPatience = 5 * time.Second

// open opens the log and the database.
func open(ctx context.Context, c config, how access, log *slog.Logger) (*backends, error) {
	b := &backends{}
	if err := b.connect(ctx, c, how, log); err != nil {
		return nil, errors.Join(err, b.close())
	}
	engine, err := openEngine(ctx, c)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	if how == exclusive { // others come for a moment, and meet damage where they read
		checking, cancel := context.WithTimeout(ctx, checkPatience)
		err = engine.Check(checking)
		cancel()
		if err != nil {
			return nil, errors.Join(err, engine.Close(), b.close())
		}
	}
	if b.store, err = store.Open(ctx, engine); err != nil {
		return nil, errors.Join(err, engine.Close(), b.close())
	}
	return b, nil
}

// connect opens the log.
func (b *backends) connect(ctx context.Context, c config, how access, log *slog.Logger) error {
	var err error
	if b.addresses, err = b.openLog(ctx, c, how, log); err != nil {
		return err
	}
	b.broker, err = kafka.New(ctx, b.brokerConfig(c, log))
	return err
}

func (b *backends) brokerConfig(c config, log *slog.Logger) kafka.Config {
	return kafka.Config{Brokers: b.addresses, Security: c.Security, Partitions: c.Partitions, Replication: c.Replication,
		Names: c.Topics, InstanceID: c.InstanceID, SessionTimeout: c.SessionTimeout, AnswerTimeout: c.KafkaTimeout,
		Logger: log, Grace: batchGrace}
}

// openEngine is where a setting becomes an engine.
func openEngine(ctx context.Context, c config) (store.Engine, error) {
	if c.DatabaseURL == "" {
		if err := os.MkdirAll(c.DataDir, 0o750); err != nil {
			return nil, fmt.Errorf("making the data directory: %w", err)
		}
		var options []sqlite.Option
		if c.Expendable {
			options = append(options, sqlite.Expendable)
		}
		return sqlite.Open(filepath.Join(c.DataDir, databaseFile), options...)
	}
	return postgres.Open(ctx, postgres.Config{URL: c.DatabaseURL, StatementTimeout: c.DatabaseTimeout})
}

// openLog returns the addresses of the brokers, and starts the embedded one
// where there are no others.
func (b *backends) openLog(ctx context.Context, c config, how access, log *slog.Logger) ([]string, error) {
	if len(c.Brokers) > 0 {
		return c.Brokers, nil
	}
	if err := os.MkdirAll(c.DataDir, 0o750); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	dir := filepath.Join(c.DataDir, brokerDir)
	var err error
	b.embedded, err = embedded.Open(ctx, embedded.Config{Dir: dir, Logger: log})
	switch {
	case err == nil:
		return []string{b.embedded.Addr()}, nil
	case errors.Is(err, embedded.ErrLocked) && how == beside:
		address, err := embedded.Address(dir)
		return []string{address}, err
	case errors.Is(err, embedded.ErrLocked):
		return nil, fmt.Errorf("another pricemill runs on %s: stop it, or choose another DATA_DIR: %w", c.DataDir, err)
	}
	return nil, err
}

// close closes in the reverse order of opening.
func (b *backends) close() error {
	var errs []error
	if b.store != nil {
		errs = append(errs, b.store.Close())
	}
	if b.broker != nil {
		errs = append(errs, b.broker.Close())
	}
	if b.embedded != nil {
		errs = append(errs, b.embedded.Close())
	}
	return errors.Join(errs...)
}

// topology prepares the topics of all registered events.
func (b *backends) topology(ctx context.Context) (*pipeline.Topology, error) {
	return pipeline.NewTopology(ctx, b.store, b.broker, schema.Topics(), kafka.Partition)
}

// lookup is topology for those who come beside a service: it changes nothing.
func (b *backends) lookup(ctx context.Context) (*pipeline.Topology, error) {
	return pipeline.LookupTopology(ctx, b.store, b.broker, schema.Topics(), kafka.Partition)
}
