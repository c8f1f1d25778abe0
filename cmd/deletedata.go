package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/deletion"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/migrations"
)

// deletingData is what the flags of delete-data say.
type deletingData struct {
	provider, symbol string
	reason, by       string
	dryRun, yes      bool
	output           string
}

func newDeleteData(a *app) *cobra.Command {
	var v deletingData
	c := &cobra.Command{
		Use:   "delete-data --provider NAME",
		Short: "Delete all data of a provider, or of one symbol, permanently",
		Long: `Delete the data of a provider, or of one symbol of it, from a stopped
installation: answers, prices and all that follows from them, in the tables and
in the log, where an empty record takes the place of each. The files of the
database are written again, so that the bytes are gone. What was deleted, when,
why and by whom is recorded.

If the log is on Kafka, each topic that holds data of the provider is copied
without them, deleted, and written again from the copy, with all offsets and
timestamps as they were. It takes free space for two more copies of the largest.

Polling jobs, streams and backfills stay as they were asked for; those that
still ask for the data have to be stopped first. Copies elsewhere, such as
backups, are not touched, and listed.

Run an interrupted deletion again with the same flags: it continues. Until it
is finished, no other command works with the database.

See docs/deletion.md.`,
		Example: "  pricemill delete-data --provider coinbase --dry-run\n" +
			"  pricemill delete-data --provider coinbase --reason \"contract ended\" --yes\n" +
			"  pricemill delete-data --provider csv --symbol T --reason \"a request\" --yes",
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error { return a.deleteData(c.Context(), v) },
	}
	flags := c.Flags()
	flags.StringVar(&v.provider, "provider", "", "provider whose data are deleted")
	flags.StringVar(&v.symbol, "symbol", "", "delete only the data of this symbol")
	flags.StringVar(&v.reason, "reason", "", "why, for people; it is kept")
	flags.StringVar(&v.by, "by", "", "who asked for it; it is kept (default: user and host)")
	flags.BoolVar(&v.dryRun, "dry-run", false, "say what would be deleted, and change nothing")
	flags.BoolVar(&v.yes, "yes", false, "delete it")
	outputFlag(c, &v.output)
	return c
}

// subject is whose data are deleted.
func (v deletingData) subject() (schema.Subject, error) {
	s := schema.Subject{Provider: schema.Provider(v.provider)}
	switch {
	case v.provider == "":
		return s, fmt.Errorf("%w: --provider is required", errUsage)
	case s.Provider.Validate() != nil:
		return s, fmt.Errorf("%w: --provider: %w", errUsage, s.Provider.Validate())
	case v.dryRun == v.yes:
		return s, fmt.Errorf("%w: --dry-run says what would be deleted, and --yes deletes it: give one of them", errUsage)
	case v.yes && strings.TrimSpace(v.reason) == "":
		return s, fmt.Errorf("%w: --reason is required", errUsage)
	case v.symbol == "":
		return s, nil
	}
	var err error
	if s.Symbol, err = schema.ParseExactSymbol(v.symbol); err != nil {
		return s, fmt.Errorf("%w: --symbol: %w", errUsage, err)
	}
	if !pipeline.CaseSensitive(s.Provider) {
		s.Symbol = s.Symbol.Fold()
	}
	return s, nil
}

func (a *app) deleteData(ctx context.Context, v deletingData) error {
	subject, err := v.subject()
	if err != nil {
		return err
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	d := &dataDeleter{app: a, config: c, log: a.loggerAt(c, slog.LevelWarn)}
	var result deletion.Result
	if err = d.open(ctx, v.dryRun); err == nil {
		if v.by == "" {
			v.by = whoRuns()
		}
		result, err = d.run(ctx, subject, v)
	}
	if err = errors.Join(err, d.close()); err != nil {
		return err
	}
	result.Left = append(result.Left, elsewhere...)
	if len(c.Brokers) > 0 {
		result.Left = append(result.Left, elsewhereOfKafka)
	}
	return a.print(v.output, deletedData{v.dryRun, result}, func(w io.Writer) { printDeleted(w, subject, v.dryRun, result) })
}

// deletedData is what delete-data prints.
type deletedData struct {
	DryRun bool `json:"dry_run"`
	deletion.Result
}

// elsewhere is what no command reaches.
var elsewhere = []deletion.Left{
	{What: "copies of the database", Why: "backups, replicas, archives of write-ahead logs, snapshots of disks"},
	{What: "what was handed on", Why: "webhooks, files and streams of plugins, exports, logs of processes"},
}

// elsewhereOfKafka is what no command reaches of a log on Kafka.
var elsewhereOfKafka = deletion.Left{What: "copies of topics", Why: "MirrorMaker, tiered storage, backups; brokers delete former segments after file.delete.delay.ms"}

func printDeleted(w io.Writer, subject schema.Subject, dryRun bool, r deletion.Result) {
	fmt.Fprintln(w, "WHAT\tNAME\tCOUNT\tNOTE")
	for _, topic := range slices.Sorted(maps.Keys(r.Records)) {
		fmt.Fprintf(w, "records\t%s\t%d\tan empty record takes the place of each\n", topic, r.Records[topic])
	}
	for _, t := range r.Rewritten {
		fmt.Fprintf(w, "rewritten\t%s\t%d\tall records of the topic, %.1f MB; takes up to two more of it on each replica\n", t.Topic, t.Records, float64(t.Bytes)/1e6)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Rows)) {
		fmt.Fprintf(w, "rows\t%s\t%d\t\n", name, r.Rows[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Cleared)) {
		fmt.Fprintf(w, "cleared\t%s\t%d\trows stay, without data\n", name, r.Cleared[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Emptied)) {
		fmt.Fprintf(w, "emptied\t%s\t%d\tthe rows do not say whose data they hold\n", name, r.Emptied[name])
	}
	for _, stage := range r.Refilled {
		fmt.Fprintf(w, "refilled\t%s\t\tfrom the log, by the service\n", stage)
	}
	for _, l := range r.Left {
		count := ""
		if l.Count > 0 {
			count = fmt.Sprint(l.Count)
		}
		fmt.Fprintf(w, "not deleted\t%s\t%s\t%s\n", l.What, count, l.Why)
	}
	for _, asking := range r.Asking {
		fmt.Fprintf(w, "to be stopped\t%s\t\tit asks for the data\n", asking)
	}
	switch {
	case dryRun:
		fmt.Fprintln(w, "\nnothing was deleted")
	case r.Resumed:
		fmt.Fprintf(w, "\nthe data of %s are deleted, as deletion %s (interrupted, continued)\n", subject, r.DeletionID)
	default:
		fmt.Fprintf(w, "\nthe data of %s are deleted, as deletion %s\n", subject, r.DeletionID)
	}
}

// whoRuns is the user of this process, at its host.
func whoRuns() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// dataDeleter has what is open during a deletion.
type dataDeleter struct {
	app    *app
	config config
	log    *slog.Logger
	store  *store.Store
	// records is the log in the database, and cluster the id of the Kafka cluster that has it
	// otherwise.
	records  *table.Log
	cluster  string
	backends backends
	modules  *modules
	closers  []func() error
}

func (d *dataDeleter) close() error {
	var errs []error
	for _, f := range slices.Backward(d.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// longest is how long a statement may take that deletes.
const longest = 24 * time.Hour

// open opens the database. To look at it, next to what works there; to change it, alone.
func (d *dataDeleter) open(ctx context.Context, readOnly bool) error {
	expected := store.TableLog
	if len(d.config.Brokers) > 0 {
		var err error
		d.closers = append(d.closers, d.backends.close)
		if d.cluster, err = d.backends.connectTo(ctx, rewritingConfig(d.config, d.log)); err != nil {
			return err
		}
		expected = d.cluster
	}
	engine, err := d.openEngine(ctx, readOnly)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, engine.Close)
	recorded, _, err := store.RecordedLog(ctx, engine)
	switch {
	case err != nil:
		return err
	case recorded == "":
		return errNothingYet
	case recorded != store.DeletionUnderWay:
		if _, err := checkLog(ctx, d.config, engine, expected); err != nil {
			return err
		}
	}
	if readOnly {
		d.store = store.Reader(engine)
		err = checkTablesVersion(ctx, d.store)
	} else if d.store, err = store.Open(ctx, engine); err == nil {
		err = d.excludeOthers(ctx)
	}
	if err != nil {
		return err
	}
	if d.cluster == "" {
		d.records = table.Open(table.Config{Store: d.store, Logger: d.log})
		d.closers = append(d.closers, d.records.Close)
	}
	there, err := installed(ctx, d.store)
	if err != nil {
		return err
	}
	c := d.config.switchedOn(there)
	c.Roles = roles{Handlers: true, Projections: true}
	d.modules, err = build(c, d.log)
	return err
}

func (d *dataDeleter) openEngine(ctx context.Context, readOnly bool) (store.Engine, error) {
	if d.config.DatabaseURL != "" {
		return postgres.Open(ctx, postgres.Config{URL: d.config.DatabaseURL, StatementTimeout: longest, ReadOnly: readOnly})
	}
	path := filepath.Join(d.config.DataDir, databaseFile)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: no database in %s", errNothingYet, d.config.DataDir)
	}
	if readOnly {
		return sqlite.Open(path, sqlite.ReadOnly)
	}
	release, err := lockDir(d.config.DataDir)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("pricemill runs on %s: stop it first: %w", d.config.DataDir, err)
	}
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, release)
	return sqlite.Open(path)
}

// excludeOthers keeps services away from a database; on SQLite, the lock of its directory does.
func (d *dataDeleter) excludeOthers(ctx context.Context) error {
	switch {
	case d.cluster != "":
		return patiently(ctx, func() error { return refuseService(ctx, d.store, d.backends.kafka, d.config) })
	case d.config.DatabaseURL != "":
		release, err := exclusive(ctx, d.store, d.log)
		if err == nil {
			d.closers = append(d.closers, release)
		}
		return err
	}
	return nil
}

// rewritingConfig has the cluster take records of any size that it has.
func rewritingConfig(c config, logger *slog.Logger) kafka.Config {
	cfg := brokerConfig(c, logger)
	cfg.MaxMessageBytes = 64 << 20
	return cfg
}

// checkTablesVersion refuses tables of another version than this program's.
func checkTablesVersion(ctx context.Context, db *store.Store) error {
	view, err := db.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer view.Close()
	version, err := view.Version(ctx)
	if err == nil && version != migrations.Newest() {
		err = fmt.Errorf("the tables are of version %d, and those of this program of version %d: run pricemill migrate first", version, migrations.Newest())
	}
	return err
}

// dataKeepers are the modules that keep data of providers in tables of their own.
func (m *modules) dataKeepers() []pipeline.DataKeeper {
	var all []pipeline.DataKeeper
	for _, l := range m.active {
		if k, ok := l.module.(pipeline.DataKeeper); ok {
			all = append(all, k)
		}
	}
	return all
}

func (d *dataDeleter) run(ctx context.Context, subject schema.Subject, v deletingData) (deletion.Result, error) {
	bar := d.app.progress()
	defer bar.end()
	var turn sync.Mutex // partitions of topics are written side by side
	progress := func(records int) {
		turn.Lock()
		defer turn.Unlock()
		bar.add(records)
	}
	c := deletion.Config{Store: d.store, Table: d.records, Kafka: d.backends.kafka, Cluster: d.cluster, Groups: d.config.GroupPrefix + ".", Topics: d.topics, Subject: subject, Reason: v.reason, RequestedBy: v.by,
		Keepers: d.modules.dataKeepers(), TablesOf: d.modules.tablesOf, Now: time.Now, Progress: progress,
		Step: func(ctx context.Context, what string) error {
			bar.describe(what)
			d.log.Debug("deleting", "step", what)
			return ctx.Err()
		}}
	if v.dryRun {
		plan, err := deletion.NewPlan(ctx, c)
		return deletion.Result{Plan: plan}, err
	}
	return deletion.Run(ctx, c)
}

// topics are those of the log as they are now.
func (d *dataDeleter) topics(ctx context.Context) (*topics.Set, error) {
	var records log.Broker = d.records
	if d.cluster != "" {
		records = d.backends.kafka
	}
	set, err := topics.Lookup(ctx, d.store, records, schema.Topics(), kafka.Partition)
	if err == nil && d.config.KeyedBySymbol {
		set.KeyBySymbol()
	}
	return set, err
}

// tablesOf are the plain names of the tables of a projection; nil where there is none.
func (m *modules) tablesOf(projection string) []string {
	for _, p := range m.projections {
		if p.Name() == projection {
			return p.TableNames()
		}
	}
	return nil
}

func newDeletions(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "deletions",
		Short:   "List what was deleted by delete-data, when, why and by whom",
		Long:    "List the deletions of data, the last begun first. See docs/deletion.md.",
		Example: "  pricemill deletions\n  pricemill deletions -o json",
		Args:    exactArgs(0),
		RunE:    func(c *cobra.Command, _ []string) error { return a.deletions(c.Context(), output) },
	}
	outputFlag(c, &output)
	return c
}

// recordedDeletion is a deletion as it is listed.
type recordedDeletion struct {
	DeletionID  string                 `json:"deletion_id"`
	Provider    schema.Provider        `json:"provider"`
	Symbol      schema.Symbol          `json:"symbol,omitempty"`
	Reason      string                 `json:"reason"`
	RequestedBy string                 `json:"requested_by"`
	BeganAt     schema.Time            `json:"began_at"`
	FinishedAt  *schema.Time           `json:"finished_at,omitempty"`
	Records     map[schema.Topic]int64 `json:"records"`
	Rows        int64                  `json:"rows"`
}

func (a *app) deletions(ctx context.Context, output string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	d := &dataDeleter{app: a, config: c, log: a.loggerAt(c, slog.LevelWarn)}
	var all []recordedDeletion
	engine, err := d.openEngine(ctx, true)
	if err == nil {
		d.closers = append(d.closers, engine.Close)
		db := store.Reader(engine)
		if err = checkTablesVersion(ctx, db); err == nil {
			all, err = listDeletions(ctx, db)
		}
	}
	if err = errors.Join(err, d.close()); err != nil {
		return err
	}
	return a.print(output, all, func(w io.Writer) {
		fmt.Fprintln(w, "PROVIDER\tSYMBOL\tRECORDS\tROWS\tBY\tREASON\tFINISHED AT\tDELETION ID")
		for _, r := range all {
			finished, records, symbol := "not yet", int64(0), "all"
			if r.FinishedAt != nil {
				finished = r.FinishedAt.Text()
			}
			for _, n := range r.Records {
				records += n
			}
			if r.Symbol != "" {
				symbol = string(r.Symbol)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", r.Provider, symbol, records, r.Rows, r.RequestedBy, r.Reason, finished, r.DeletionID)
		}
	})
}

func listDeletions(ctx context.Context, db *store.Store) ([]recordedDeletion, error) {
	recorded, err := store.Deletions(ctx, db)
	if err != nil {
		return nil, err
	}
	all := make([]recordedDeletion, 0, len(recorded))
	for _, r := range slices.Backward(recorded) {
		records, rows, err := deletion.Summary(r)
		if err != nil {
			return nil, err
		}
		all = append(all, recordedDeletion{r.ID, r.Provider, r.Symbol, r.Reason, r.RequestedBy, r.BeganAt, r.FinishedAt, records, rows})
	}
	return all, nil
}
