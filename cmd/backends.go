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

	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// backends are the log and the database.
type backends struct {
	store  *store.Store
	broker eventLog
	// kafka is the broker where the log is Kafka, and nil where it is a table.
	kafka *kafka.Broker
	// alone says that no other process applied what is written when this one began, and
	// that this one may. Where the log is Kafka, that is not known.
	alone bool
	// keyedBySymbol is what KAFKA_PRICE_EVENTS_KEY says.
	keyedBySymbol bool
	// locked says that this process holds the lock of the data directory of SQLite: no
	// other process runs stages.
	locked bool
	// closers are closed in the reverse order.
	closers []func() error
}

// eventLog is a log that can also be followed, and searched by time.
type eventLog interface {
	log.Broker
	log.Follower
	// OffsetsAt returns, for each partition of a topic in their order, the offset of the
	// first record whose timestamp is at or after a moment, or the end of the partition
	// where there is none.
	OffsetsAt(ctx context.Context, topic schema.Topic, moment time.Time) ([]int64, error)
}

// batchGrace is how long the end of a session waits for batches under way. With
// what else a stop has to wait for, it stays below ten seconds.
const batchGrace = 3 * time.Second

// access says what a command does with a log that one process consumes.
type access int

const (
	// serving: the command consumes it. On SQLite it fails where another process does;
	// on PostgreSQL it stands by until that one ends.
	serving access = iota
	// working: the command consumes it, unless another process does.
	working
	// joining: as working, in an installation that is there.
	joining
	// reading: the command leaves consuming to others, and wants an installation too.
	reading
)

// begins reports whether the command may begin an installation.
func (a access) begins() bool { return a == serving || a == working }

// What is in the data directory.
const (
	databaseFile = "pricemill.db"
	// lockFile is locked by the process that consumes the log of that database.
	lockFile = "serve.lock"
	// formerBrokerDir is where versions before 0.1.0 kept their log.
	formerBrokerDir = "broker"
)

// checkPatience bounds how long a start waits for a look through the database. One
// that takes longer continues, and /readyz says what it finds.
const checkPatience = time.Second

// errLocked says that another process consumes the log.
var errLocked = errors.New("data directory is in use")

// errNothingYet keeps a command that reads from calling an installation empty, or whole,
// that is not there: its directory or database may be misspelt.
var errNothingYet = errors.New(`nothing has been written here yet; if this is the right place, start "pricemill serve" or "pricemill ingest" first`)

// open opens the log and the database.
func open(ctx context.Context, c config, how access, log *slog.Logger) (_ *backends, err error) {
	b := &backends{keyedBySymbol: c.KeyedBySymbol}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	recorded := store.TableLog
	if len(c.Brokers) > 0 {
		if recorded, err = b.connect(ctx, c, log); err != nil {
			return nil, err
		}
	}
	mustBe := !how.begins() && len(c.Brokers) == 0 // Kafka's topics are there without the database
	if mustBe && c.DatabaseURL == "" {             // opening would make the file
		if _, err := os.Stat(filepath.Join(c.DataDir, databaseFile)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: no database in %s", errNothingYet, c.DataDir)
		}
	}
	engine, err := openEngine(ctx, c)
	if err != nil {
		return nil, err
	}
	used, err := checkLog(ctx, c, engine, recorded)
	if err == nil && mustBe && !used {
		err = fmt.Errorf("%w: the database has no topic", errNothingYet)
	}
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	if c.DatabaseURL == "" {
		if err := b.lock(c, how); err != nil {
			return nil, errors.Join(err, engine.Close())
		}
	}
	if how == serving { // others come for a moment, and meet damage where they read
		checking, cancel := context.WithTimeout(ctx, checkPatience)
		err = engine.Check(checking)
		cancel()
		if err != nil {
			return nil, errors.Join(err, engine.Close())
		}
	}
	if b.store, err = store.Open(ctx, engine); err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	b.closers = append(b.closers, b.store.Close)
	if err := b.store.RecordLog(ctx, recorded); err != nil {
		return nil, err
	}
	if b.kafka != nil {
		return b, nil
	}
	return b, b.openTable(ctx, c, how, log)
}

// connect connects to Kafka, and returns the id of the cluster.
func (b *backends) connect(ctx context.Context, c config, log *slog.Logger) (cluster string, err error) {
	return b.connectTo(ctx, brokerConfig(c, log))
}

func (b *backends) connectTo(ctx context.Context, cfg kafka.Config) (cluster string, err error) {
	if b.kafka, err = kafka.New(ctx, cfg); err != nil {
		return "", err
	}
	b.broker = b.kafka
	b.closers = append(b.closers, b.kafka.Close)
	return b.kafka.ClusterID(ctx)
}

func brokerConfig(c config, log *slog.Logger) kafka.Config {
	return kafka.Config{Brokers: c.Brokers, Security: c.Security, Partitions: c.Partitions, Replication: c.Replication,
		Names: c.Topics, InstanceID: c.InstanceID, SessionTimeout: c.SessionTimeout, AnswerTimeout: c.KafkaTimeout,
		Logger: log, Grace: batchGrace}
}

// lock keeps two processes from consuming the log of one SQLite file.
func (b *backends) lock(c config, how access) error {
	if len(c.Brokers) == 0 && (how == reading || how == serving && !c.Roles.consume()) {
		taken, err := isLocked(c.DataDir)
		b.alone = how == reading && !taken
		return err
	}
	release, err := lockDir(c.DataDir)
	switch {
	case err == nil:
		b.alone, b.locked = len(c.Brokers) == 0, true
		b.closers = append(b.closers, release)
		return nil
	case errors.Is(err, errLocked) && how != serving:
		return nil
	case errors.Is(err, errLocked):
		return fmt.Errorf("another pricemill runs on %s: stop it, or choose another DATA_DIR: %w", c.DataDir, err)
	}
	return err
}

// lockDir locks a data directory until release is called, or the process ends, however
// it does: the lock is the kernel's.
func lockDir(dir string) (release func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookPatience)
	defer cancel()
	return take(dir, func(lock *flock.Flock) (bool, error) {
		taken, err := lock.TryLockContext(ctx, lookPatience/20)
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
		return taken, err
	})
}

// lookPatience is how long a process that wants the lock waits for those that only look
// whether it is free, and hold it for that moment.
const lookPatience = 500 * time.Millisecond

// holdDir keeps processes that consume away from a data directory until release is called.
// Any number may hold it at once.
func holdDir(dir string) (release func() error, err error) { return take(dir, (*flock.Flock).TryRLock) }

func take(dir string, try func(*flock.Flock) (bool, error)) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, lockFile))
	taken, err := try(lock)
	switch {
	case err != nil:
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, lock.Close()))
	case !taken:
		return nil, errors.Join(errLocked, lock.Close())
	}
	return lock.Close, nil
}

// isLocked reports whether a process has a data directory locked.
func isLocked(dir string) (bool, error) {
	release, err := holdDir(dir)
	if errors.Is(err, errLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, release()
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

// errMoveUnderWay says that a database is the target of a move that is not finished.
var errMoveUnderWay = errors.New("a move into this database is under way, or was interrupted: run \"pricemill move\" again until it says that it is finished")

// errRefillUnderWay says that a database is not filled again completely.
var errRefillUnderWay = errors.New("this database is being filled again from the log, or that was interrupted: run \"pricemill refill database\" until it says that the database can be used, or create an empty one where it says that it cannot be")

// errRestoreUnderWay says that a restored database lacks what the log has beyond the backup.
var errRestoreUnderWay = errors.New("this database was restored, and is being brought to the end of the log, or that was interrupted: run \"pricemill refill database --restored\" until it says that the database can be used")

// errLogRefillUnderWay says that the log of a database is not filled again completely.
var errLogRefillUnderWay = errors.New("the log is being filled again from this database, or that was interrupted: run \"pricemill refill log\" until it says that the log can be used")

// errDeletionUnderWay says that data are being deleted from a database.
var errDeletionUnderWay = errors.New("data are being deleted from this database, or that was interrupted: run \"pricemill delete-data\" again with the same flags until it says that they are deleted; \"pricemill deletions\" lists them")

// underWay refuses a database that is not complete, by the log that it records.
func underWay(recorded string) error {
	switch recorded {
	case store.MoveUnderWay:
		return errMoveUnderWay
	case store.RefillUnderWay:
		return errRefillUnderWay
	case store.RestoreUnderWay:
		return errRestoreUnderWay
	case store.LogRefillUnderWay:
		return errLogRefillUnderWay
	case store.DeletionUnderWay:
		return errDeletionUnderWay
	}
	return nil
}

// checkLog refuses a database that belongs to another log than the one that the settings
// name, before anything is written to either. used reports whether it knows topics.
func checkLog(ctx context.Context, c config, engine store.Engine, log string) (used bool, err error) {
	recorded, used, err := store.RecordedLog(ctx, engine)
	if err != nil {
		return false, err
	}
	if err := underWay(recorded); err != nil {
		return used, err
	}
	switch {
	case recorded == log, recorded == "" && !used:
		return used, nil
	case recorded == "" && log != store.TableLog:
		return used, nil // of a version that recorded none; topics that are others' are found out
	case recorded == "":
		return used, fmt.Errorf("%w: it was made by an earlier version, with a broker of its own in %s or with Kafka, and does not hold its log; "+
			"name the brokers by KAFKA_BOOTSTRAP_SERVERS, or choose another DATA_DIR or DATABASE_URL",
			store.ErrOtherLog, filepath.Join(c.DataDir, formerBrokerDir))
	case recorded == store.TableLog:
		return used, fmt.Errorf("%w: it holds its log itself, and KAFKA_BOOTSTRAP_SERVERS names the Kafka cluster %s; "+
			"unset KAFKA_BOOTSTRAP_SERVERS, or choose another database", store.ErrOtherLog, log)
	case log == store.TableLog:
		return used, fmt.Errorf("%w: its log is the Kafka cluster %s, and KAFKA_BOOTSTRAP_SERVERS is not set; set it, or choose another database",
			store.ErrOtherLog, recorded)
	}
	return used, fmt.Errorf("%w: its log is the Kafka cluster %s, and KAFKA_BOOTSTRAP_SERVERS names the cluster %s; "+
		"name the brokers of the former, or choose another database", store.ErrOtherLog, recorded, log)
}

// openTable opens the log that is in the database.
func (b *backends) openTable(ctx context.Context, c config, how access, log *slog.Logger) error {
	cfg := table.Config{Store: b.store, Partitions: c.Partitions, Partitioner: kafka.Partition, Grace: batchGrace, Logger: log}
	if c.DatabaseURL != "" {
		if err := b.lease(ctx, c, how, &cfg, log); err != nil {
			return err
		}
	}
	opened := table.Open(cfg)
	b.broker = opened
	b.closers = append(b.closers, opened.Close)
	return nil
}

// lease has one process at a time consume the log in PostgreSQL.
func (b *backends) lease(ctx context.Context, c config, how access, cfg *table.Config, log *slog.Logger) error {
	if how == reading || how == serving && !c.Roles.consume() {
		taken, err := table.Taken(ctx, b.store)
		b.alone = how == reading && !taken
		return err
	}
	owner := uuid.NewString()
	if how == working || how == joining {
		held, err := table.TryAcquire(ctx, b.store, owner)
		if err != nil || !held {
			return err
		}
		b.alone = true
	}
	lease := table.NewLease(b.store, owner, log)
	cfg.Consumer = lease
	b.closers = append(b.closers, lease.Close)
	return nil
}

// close closes in the reverse order of opening.
func (b *backends) close() error {
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	b.closers = nil
	return errors.Join(errs...)
}

// topics prepares the topics of all registered events.
func (b *backends) topics(ctx context.Context) (*topics.Set, error) {
	set, err := topics.New(ctx, b.store, b.broker, schema.Topics(), kafka.Partition)
	if err == nil && b.keyedBySymbol {
		set.KeyBySymbol()
	}
	return set, err
}

// lookup is topics for commands that run next to a service: it changes nothing.
func (b *backends) lookup(ctx context.Context) (*topics.Set, error) {
	return topics.Lookup(ctx, b.store, b.broker, schema.Topics(), kafka.Partition)
}
