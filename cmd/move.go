package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/move"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/projections"
)

// moving is what the flags of move say.
type moving struct {
	database, brokers string
	dryRun            bool
	output            string
}

func newMove(a *app) *cobra.Command {
	var v moving
	c := &cobra.Command{
		Use:   "move",
		Short: "Move a stopped installation to PostgreSQL, and its log to Kafka",
		Long: `Move a stopped installation whose log is a table of its database, which the
settings name, to an empty PostgreSQL database, and its log to Kafka if
--to-kafka names brokers. Everything comes along: the log with its numbers, raw
answers, polling jobs, budgets, dead letters, positions and read models. All of
it is compared with the source, row by row and record by record, before the
target can be used.

The source is only read, so a log cannot move to Kafka within one database: name
another one, or another schema of it (?search_path=). Topics are created with as
many partitions as the log has, and named by KAFKA_TOPIC_PREFIX; how brokers are
reached is said by the other settings of Kafka.

Run an interrupted move again with the same flags: it continues, or starts over
if the source was used meanwhile. Until it is finished, no other command works
with the target.

The exit status is 0 where the target holds all that the source does.
See "Growing" in docs/operations-reference.md.`,
		Example: "  pricemill move --to-database postgres://pricemill@db/pricemill --dry-run\n" +
			"  pricemill move --to-database postgres://pricemill@db/pricemill\n" +
			"  pricemill move --to-database postgres://pricemill@db/b --to-kafka broker:9092",
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error { return a.move(c.Context(), v) },
	}
	flags := c.Flags()
	flags.StringVar(&v.database, "to-database", "", "the empty database, postgres://user:password@host/database; the variable PGPASSWORD can have the password")
	flags.StringVar(&v.brokers, "to-kafka", "", "brokers of the cluster that takes the log, comma-separated; empty: the log stays in the database")
	flags.BoolVar(&v.dryRun, "dry-run", false, "say what would be moved, and change nothing")
	outputFlag(c, &v.output)
	return c
}

// moved is what move prints.
type moved struct {
	// DryRun says that nothing was moved; the counts are then those of the source.
	DryRun bool   `json:"dry_run"`
	From   string `json:"from"`
	To     string `json:"to"`
	move.Result
	Seconds float64 `json:"seconds"`
}

// target is the configuration of the installation that is to be.
func (v moving) target(c config) (config, error) {
	c.DatabaseURL, c.Brokers = v.database, nil
	for broker := range strings.SplitSeq(v.brokers, ",") {
		if broker = strings.TrimSpace(broker); broker != "" {
			c.Brokers = append(c.Brokers, broker)
		}
	}
	switch {
	case v.database == "":
		return c, fmt.Errorf("%w: --to-database is required: the source is only read, so its log cannot move to Kafka within one database", errUsage)
	case !strings.HasPrefix(v.database, "postgres://") && !strings.HasPrefix(v.database, "postgresql://"):
		return c, fmt.Errorf("%w: --to-database: not a URL of PostgreSQL, which begins with postgres://", errUsage)
	}
	return c, nil
}

func (a *app) move(ctx context.Context, v moving) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	to, err := v.target(c)
	if err != nil {
		return err
	}
	if len(c.Brokers) > 0 {
		return fmt.Errorf("%w: KAFKA_BOOTSTRAP_SERVERS is set: the log of this installation is in Kafka already, and move takes one that is a table of its database", errUsage)
	}
	began := time.Now()
	m := &mover{app: a, from: c, to: to, log: a.loggerAt(c, slog.LevelWarn), clusters: map[int32]*kafka.Broker{}}
	err = m.open(ctx)
	var result move.Result
	if err == nil && v.dryRun {
		result, err = m.plan(ctx)
	} else if err == nil {
		result, err = m.run(ctx)
	}
	if err = errors.Join(err, m.close()); err != nil {
		return err
	}
	return a.print(v.output, moved{v.dryRun, nameOf(c), nameOf(to), result, time.Since(began).Seconds()}, func(w io.Writer) {
		printMove(w, v.dryRun, nameOf(to), result)
	})
}

// interruptions are what to add where a move was interrupted.
var interruptions = map[move.Start]string{move.Resumed: " (an interrupted move, continued)",
	move.Restarted: " (an interrupted move, started over, since the source was used)"}

func printMove(w io.Writer, dryRun bool, to string, r move.Result) {
	fmt.Fprintln(w, "WHAT\tNAME\tCOUNT\tNOTE")
	for _, t := range r.Topics {
		fmt.Fprintf(w, "topic\t%s\t%d\t%d partitions\n", t.Topic, t.Records, t.Partitions)
	}
	for _, t := range r.Tables {
		fmt.Fprintf(w, "table\t%s\t%d\t\n", t.Table, t.Rows)
	}
	for _, t := range r.Left {
		fmt.Fprintf(w, "stays\t%s\t%d\t%s\n", t.Table, t.Rows, t.Why)
	}
	switch {
	case r.Start == move.Finished:
		fmt.Fprintf(w, "\nthe move to %s was finished before: nothing is left to do\n", to)
	case dryRun:
		fmt.Fprintf(w, "\nnothing was moved; %s can take it%s\n", to, interruptions[r.Start])
	default:
		fmt.Fprintf(w, "\n%s is equal to the source, and can be used%s\n", to, interruptions[r.Start])
	}
}

// mover has all that is open during a move.
type mover struct {
	app      *app
	from, to config
	log      *slog.Logger
	bar      *progress

	// engine is the source's, source reads it, and records is the log in it.
	engine  store.Engine
	source  *store.Store
	records *table.Log
	target  store.Engine
	modules *modules
	served  *projections.Served
	// cluster is the id of the Kafka cluster, and clusters are the connections to it, by the
	// partitions of the topics that they create.
	cluster  string
	mu       sync.Mutex
	clusters map[int32]*kafka.Broker
	closers  []func() error
}

// nameOf is a database and a log, without passwords.
func nameOf(c config) string {
	name := "SQLite in " + c.DataDir
	if c.DatabaseURL != "" {
		name = postgres.Config{URL: c.DatabaseURL}.Name()
	}
	if len(c.Brokers) > 0 {
		name += " with Kafka at " + strings.Join(c.Brokers, ",")
	}
	return name
}

func (m *mover) close() error {
	var errs []error
	if m.bar != nil {
		m.bar.end()
	}
	for i := len(m.closers) - 1; i >= 0; i-- {
		errs = append(errs, m.closers[i]())
	}
	return errors.Join(errs...)
}

// open opens both sides without changing either.
func (m *mover) open(ctx context.Context) error {
	if err := m.openSource(ctx); err != nil {
		return fmt.Errorf("the source: %w", err)
	}
	if err := m.openTarget(ctx); err != nil {
		return fmt.Errorf("the target: %w", err)
	}
	return nil
}

func (m *mover) openSource(ctx context.Context) (err error) {
	if m.from.DatabaseURL != "" {
		m.engine, err = postgres.Open(ctx, postgres.Config{URL: m.from.DatabaseURL, StatementTimeout: m.from.DatabaseTimeout, ReadOnly: true})
	} else {
		m.engine, err = m.openFile()
	}
	if err != nil {
		return err
	}
	m.closers = append(m.closers, m.engine.Close)
	if _, err := checkLog(ctx, m.from, m.engine, store.TableLog); err != nil {
		return err
	}
	recorded, _, err := store.RecordedLog(ctx, m.engine)
	if err != nil {
		return err
	}
	if recorded == "" {
		return errors.New("there is nothing to move: no service has run on it")
	}
	m.source = store.Reader(m.engine)
	if m.from.DatabaseURL != "" {
		taken, err := table.Taken(ctx, m.source)
		if err != nil {
			return err
		}
		if taken {
			return errors.New("a service works on it: stop it first; one that was killed counts as working for some seconds")
		}
	}
	m.records = table.Open(table.Config{Store: m.source, Logger: m.log})
	m.closers = append(m.closers, m.records.Close)
	return m.buildModules(ctx)
}

// openFile keeps services away from a SQLite file, and opens it.
func (m *mover) openFile() (store.Engine, error) {
	path := filepath.Join(m.from.DataDir, databaseFile)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("there is nothing to move: %w", err)
	}
	release, err := lockDir(m.from.DataDir)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("pricemill runs on %s: stop it first: %w", m.from.DataDir, err)
	}
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, release)
	return sqlite.Open(path, sqlite.ReadOnly)
}

// buildModules builds all that the source has, whatever is switched on.
func (m *mover) buildModules(ctx context.Context) error {
	there, err := installed(ctx, m.source)
	if err != nil {
		return err
	}
	if folds, stages := there.lacks(); len(folds)+len(stages) > 0 {
		return fmt.Errorf("this binary does not have %q: move with the binary that does", append(folds, stages...))
	}
	c := m.from.switchedOn(there)
	c.Roles = roles{Handlers: true, Projections: true}
	if m.modules, err = build(c, m.log); err != nil {
		return err
	}
	m.served, err = projections.ServedBy(ctx, m.source, m.modules.projections)
	return err
}

// openTarget opens the database that is to be, and asks Kafka for its id.
func (m *mover) openTarget(ctx context.Context) (err error) {
	if m.target, err = openEngine(ctx, m.to); err != nil {
		return err
	}
	m.closers = append(m.closers, m.target.Close)
	if m.from.DatabaseURL != "" {
		if err := m.refuseSame(ctx); err != nil {
			return err
		}
	}
	m.cluster = store.TableLog
	if len(m.to.Brokers) > 0 {
		broker, err := m.dial(ctx, 0)
		if err != nil {
			return err
		}
		if m.cluster, err = broker.ClusterID(ctx); err != nil {
			return err
		}
	}
	recorded, used, err := store.RecordedLog(ctx, m.target)
	switch {
	case err != nil:
		return err
	case recorded == store.MoveUnderWay, recorded == "" && !used:
		return nil
	}
	move, there, err := store.RecordedMove(ctx, store.Reader(m.target))
	if err != nil {
		return err
	}
	if !there || move.FinishedAt == nil {
		return fmt.Errorf("%s is not empty, and no move has filled it: choose an empty database, or another schema of it (?search_path=)", nameOf(m.to))
	}
	return nil // the move says whether it was this one
}

// refuseSame refuses to move a database to itself.
func (m *mover) refuseSame(ctx context.Context) error {
	from, err := m.engine.Identity(ctx)
	if err != nil {
		return err
	}
	to, err := m.target.Identity(ctx)
	if err != nil {
		return err
	}
	if from == to {
		return errors.New("it is the source: a log cannot move within one database, since the source is never changed; " +
			"choose another database, or another schema of it (?search_path=)")
	}
	return nil
}

// dial connects to Kafka, where topics are then created with so many partitions.
func (m *mover) dial(ctx context.Context, partitions int32) (*kafka.Broker, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if broker, there := m.clusters[partitions]; there {
		return broker, nil
	}
	cfg := brokerConfig(m.to, m.log)
	cfg.Partitions = partitions
	broker, err := kafka.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	m.clusters[partitions] = broker
	m.closers = append(m.closers, broker.Close)
	return broker, nil
}

// config is what the move needs, with db as the target.
func (m *mover) config(db *store.Store) move.Config {
	c := move.Config{Source: m.source, Log: m.records, Target: db, TargetLog: m.cluster, Choice: m.served,
		Step: func(what string) {
			m.bar.describe(what)
			m.log.Debug("moving", "step", what)
		}, Progress: func(n int) {
			m.mu.Lock() // partitions are copied side by side
			defer m.mu.Unlock()
			m.bar.add(n)
		}}
	if len(m.to.Brokers) > 0 {
		c.Cluster = func(ctx context.Context, partitions int32) (move.Cluster, error) { return m.dial(ctx, partitions) }
	}
	return c
}

func (m *mover) run(ctx context.Context) (move.Result, error) {
	db, err := store.Open(ctx, m.target)
	if err != nil {
		return move.Result{}, err
	}
	if err := m.modules.createTables(ctx, db); err != nil {
		return move.Result{}, err
	}
	m.bar = m.app.progress()
	c := m.config(db)
	read := table.Open(table.Config{Store: db, Logger: m.log})
	m.closers = append(m.closers, read.Close)
	c.TargetTable = read
	return move.Run(ctx, c)
}

// plan says what would be moved.
func (m *mover) plan(ctx context.Context) (move.Result, error) {
	m.bar = m.app.progress()
	return move.Plan(ctx, m.config(store.Reader(m.target)))
}
