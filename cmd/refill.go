package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

func newRefill(a *app) *cobra.Command {
	parent := &cobra.Command{Use: "refill", Short: "Fill a lost database, or a lost log, from the other one"}
	var v refilling
	database := &cobra.Command{
		Use:   "database",
		Short: "Fill an empty database from the log on Kafka",
		Long: `Fill an empty database from a log on Kafka that has all its records, after the
database was lost: raw answers, polling jobs, requests, streams, dead letters,
positions and read models, with the ids that they had. Nothing is written to the
log; events that the lost database had not sent yet are put into the outbox.

With --restored the database is not empty, but restored from a backup, and gets
what the log has beyond it.

Stop the service and what restarts it first: one that starts on the empty
database derives all events again, into the log. Use its settings, PLUGINS among
them: a stage that is not filled and has a consumer group on Kafka is named.

At the end all of it is checked against the log, as verify does. Until that
holds, no other command works with the database. Run an interrupted refill
again: it continues.

What only the database knew is lost: API keys, the counts of streams, spent
budgets of providers, rebuilds, and which dead letters were discarded.

The exit status is 0 where the database is complete. See docs/refill.md.`,
		Example: "  pricemill refill database\n  pricemill refill database --restored",
		Args:    exactArgs(0),
		RunE:    func(c *cobra.Command, _ []string) error { return a.refillDatabase(c.Context(), v) },
	}
	database.Flags().BoolVar(&v.restored, "restored", false, "the database was restored from a backup: bring it to the end of the log")
	database.Flags().BoolVar(&v.accept, "accept-differences", false, "finish although the check found differences, which are printed")
	database.Flags().StringSliceVar(&v.absent, "allow-missing-topic", nil, "create this `TOPIC`, which the installation never had, or take it as empty (a comma-separated list)")
	outputFlag(database, &v.output)
	parent.AddCommand(database, newRefillLog(a))
	return parent
}

// refilling is what the flags of refill say.
type refilling struct {
	accept bool
	// restored says that the database is not empty: it was restored from a backup.
	restored bool
	// absent are names on Kafka of topics that need not exist.
	absent []string
	output string
}

// refilled is what refill prints.
type refilled struct {
	// Start is "new", "restored" or "continued", or "finished" where nothing was left to do.
	Start string `json:"start"`
	refill.Result
	Tables []tableRows `json:"tables"`
	// NotFilled are the stages that have a consumer group on Kafka, and that these settings lack.
	NotFilled []string `json:"not_filled,omitempty"`
	// Checks are those of verify, but for the read models.
	Checks  []*audit.Finding `json:"checks"`
	Seconds float64          `json:"seconds"`
}

// tableRows is how many rows a table has.
type tableRows struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// The beginnings of a refill.
const (
	refillNew       = "new"
	refillRestored  = "restored"
	refillContinued = "continued"
	refillFinished  = "finished"
)

// errRefill says that the database was filled and is not what the log says.
var errRefill = errors.New("the database does not hold against the log, and no other command works with it; " +
	"--accept-differences has it used as it is")

func (a *app) refillDatabase(ctx context.Context, v refilling) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if len(c.Brokers) == 0 {
		return fmt.Errorf("%w: KAFKA_BOOTSTRAP_SERVERS is not set: without Kafka, the log is lost with the database; restore a backup", errUsage)
	}
	c.Roles = roles{Handlers: true, Projections: true}
	// Handlers would log again what they logged when it came about.
	m, err := build(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	began := time.Now()
	r := refiller{app: a, config: c, modules: m, log: a.loggerAt(c, slog.LevelWarn), backends: &backends{keyedBySymbol: c.KeyedBySymbol}}
	out, err := r.run(ctx, v)
	if err = errors.Join(err, r.backends.close()); out.Start == "" || err != nil && !errors.Is(err, errRefill) {
		return err
	}
	out.Seconds = time.Since(began).Seconds()
	return errors.Join(a.print(v.output, out, func(w io.Writer) { printRefill(w, out, err) }), err)
}

func printRefill(w io.Writer, r refilled, failed error) {
	if r.Start == refillFinished {
		fmt.Fprintln(w, "the database was filled before: nothing is left to do")
		return
	}
	fmt.Fprintln(w, "WHAT\tNAME\tCOUNT\tNOTE")
	for _, t := range r.Topics {
		fmt.Fprintf(w, "topic\t%s\t%d\t%d partitions\n", t.Topic, t.Records, t.Partitions)
	}
	for _, t := range r.Tables {
		fmt.Fprintf(w, "table\t%s\t%d\t\n", t.Table, t.Rows)
	}
	if r.Published > 0 {
		fmt.Fprintf(w, "outbox\tevents\t%d\tthe log lacks them, and a service will send them\n", r.Published)
	}
	for _, stage := range r.NotFilled {
		fmt.Fprintf(w, "warning\t%s\t\tnot filled: it has a consumer group on Kafka, and these settings lack it; switched on later, it begins at the start of the log\n", stage)
	}
	for _, b := range r.Breaks {
		fmt.Fprintf(w, "break\t%s\t%d\t%s on %s/%d: %s\n", b.Stage, b.Lost, b.Loses, b.Topic, b.Partition, b.Halted)
	}
	noteChecks(w, r.Checks)
	if failed == nil {
		if !allHold(r.Checks) {
			fmt.Fprintln(w, "\nthe database can be used; it does not hold against the log: the differences above were accepted")
			return
		}
		note := map[string]string{refillContinued: " (an interrupted refill, continued)"}[r.Start]
		fmt.Fprintf(w, "\nthe database holds all that the log has, and can be used%s\n", note)
	}
}

// allHold says whether there is nothing for --accept-differences to accept.
func allHold(checks []*audit.Finding) bool {
	return !slices.ContainsFunc(checks, func(f *audit.Finding) bool { return f.State != audit.Holds })
}

// noteChecks prints those that do not hold, or whose limits are to be known.
func noteChecks(w io.Writer, checks []*audit.Finding) {
	(&verdict{Checks: slices.DeleteFunc(slices.Clone(checks), func(f *audit.Finding) bool { return f.State == audit.Holds && len(f.Limits) == 0 })}).notes(w)
}

// refiller is one run of refill database.
type refiller struct {
	app      *app
	config   config
	modules  *modules
	log      *slog.Logger
	backends *backends
	bar      *progress
	mu       sync.Mutex
}

func (r *refiller) run(ctx context.Context, v refilling) (refilled, error) {
	cluster, err := r.backends.connect(ctx, r.config, r.log)
	if err != nil {
		return refilled{}, err
	}
	infos, err := r.source(ctx, v.absent)
	if err != nil {
		return refilled{}, err
	}
	if err := refill.CheckHeads(ctx, r.backends.broker, slices.Collect(maps.Keys(infos))); err != nil {
		return refilled{}, err
	}
	start, err := r.openDatabase(ctx, cluster, v.restored)
	if err != nil || start == refillFinished {
		return refilled{Start: start}, err
	}
	b := r.backends
	known, err := b.store.Topics(ctx)
	if err != nil {
		return refilled{}, err
	}
	newest := map[string]store.Topic{} // a restored database may know former ones
	for _, topic := range known {
		if topic.Epoch >= newest[topic.Name].Epoch {
			newest[topic.Name] = topic
		}
	}
	for name, topic := range newest {
		if infos[schema.Topic(name)].ID != topic.ID {
			if start == refillRestored {
				return refilled{}, errors.Join(b.store.Write(ctx, func(tx *store.Tx) error { return tx.AbandonRestore(ctx, cluster) }), fmt.Errorf("topic %s was created again since the backup was made, and has not all records: start the service, and run \"pricemill stages skip\"", name))
			}
			return refilled{}, fmt.Errorf("an interrupted refill has begun to fill this database from another log, whose topic %s had the id %s: "+
				"choose an empty database", topic.Name, topic.ID)
		}
	}
	set, err := b.topics(ctx)
	if err != nil {
		return refilled{}, err
	}
	out := refilled{Start: start}
	r.bar = r.app.progress()
	defer r.bar.end()
	record := store.MoveRecord{Log: cluster, BeganAt: schema.NewTime(time.Now())}
	stages, err := r.fill(ctx, set, v, &out)
	if err != nil && start == refillRestored && isUntouched(err) {
		err = errors.Join(err, b.store.Write(ctx, func(tx *store.Tx) error { return tx.AbandonRestore(ctx, cluster) }))
	}
	if err != nil {
		return refilled{}, err
	}
	if out.NotFilled, err = r.notFilled(ctx, stages); err != nil {
		return refilled{}, err
	}
	if err := r.check(ctx, set, stages, &out); err != nil {
		return refilled{}, err
	}
	if !v.accept && !allHold(out.Checks) {
		if out.DerivedTwice > 0 && !v.restored {
			return out, fmt.Errorf("%w. The log has %d events of stages twice: a service was started after the database was lost, or set back, and derived them again. "+
				"Another empty database does not help: continue with the one on which that service worked, if it is there; see docs/refill.md", errRefill, out.DerivedTwice)
		}
		return out, errRefill
	}
	if err := r.refuseConsumers(ctx); err != nil {
		return refilled{}, err
	}
	if v.restored {
		return out, b.store.Write(ctx, func(tx *store.Tx) error { return tx.FinishRestore(ctx, cluster) })
	}
	now := schema.NewTime(time.Now())
	record.FinishedAt = &now
	return out, b.store.Write(ctx, func(tx *store.Tx) error { return tx.FinishRefill(ctx, record) })
}

// isUntouched reports whether a restored database was refused as it is.
func isUntouched(err error) bool {
	return errors.Is(err, refill.ErrHalted) || errors.Is(err, refill.ErrBegun) || errors.Is(err, refill.ErrShorter)
}

// source describes the topics, and refuses a log that lacks one: a deleted topic would be taken
// for an empty one. A service creates all topics at its first start, whatever its plugins. Those
// whose names are in absent need not exist. It writes nothing.
func (r *refiller) source(ctx context.Context, absent []string) (map[schema.Topic]log.TopicInfo, error) {
	infos, err := r.backends.kafka.Topics(ctx, schema.Topics())
	if err != nil {
		return nil, err
	}
	if len(infos) == 0 {
		return nil, fmt.Errorf("there is nothing to fill the database from: the cluster has no topic %s; is KAFKA_TOPIC_PREFIX right?",
			r.config.Topics[schema.RawQuotes])
	}
	var missing, names []string
	for _, topic := range schema.Topics() {
		name := r.config.Topics[topic]
		names = append(names, name)
		if _, exists := infos[topic]; !exists && !slices.Contains(absent, name) {
			missing = append(missing, name)
		}
	}
	for _, name := range absent {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%w: --allow-missing-topic names %s, which is none of the topics: %s", errUsage, name, strings.Join(names, ", "))
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the log is not complete: the cluster lacks %s, and has other topics of the installation. If it was deleted, its records are lost: "+
			"restore it, or see docs/refill.md. If the installation never had it, as one of an earlier version, repeat the command with --allow-missing-topic %s",
			strings.Join(missing, ", "), strings.Join(missing, ","))
	}
	return infos, nil
}

// openDatabase opens a database that is empty, or restored, or that an interrupted refill left.
func (r *refiller) openDatabase(ctx context.Context, cluster string, restored bool) (start string, err error) {
	if err := r.refuseConsumers(ctx); err != nil {
		return "", err
	}
	db, err := openEngine(ctx, r.config)
	if err != nil {
		return "", err
	}
	if restored {
		start, err = startOfRestored(ctx, r.config, db, cluster)
	} else {
		start, err = startOf(ctx, r.config, db, cluster)
	}
	if err == nil && start != refillFinished && r.config.DatabaseURL == "" {
		err = r.backends.lock(r.config, serving)
	}
	if err != nil || start == refillFinished {
		return start, errors.Join(err, db.Close())
	}
	if restored {
		r.backends.store, err = store.Open(ctx, db)
	} else {
		r.backends.store, err = store.OpenToRefill(ctx, db)
	}
	if err != nil {
		return "", errors.Join(err, db.Close())
	}
	r.backends.closers = append(r.backends.closers, r.backends.store.Close)
	if restored {
		err = r.backends.store.Write(ctx, func(tx *store.Tx) error { return tx.BeginRestore(ctx, cluster) })
	} else { // one that had an identity, of a first start that was interrupted, is marked here
		err = r.backends.store.RecordLog(ctx, store.RefillUnderWay)
	}
	if err != nil {
		return "", err
	}
	return start, r.modules.createTables(ctx, r.backends.store)
}

// startOf says how a refill of a database begins, and refuses one that holds anything else.
func startOf(ctx context.Context, c config, db store.Engine, cluster string) (string, error) {
	recorded, used, err := store.RecordedLog(ctx, db)
	switch {
	case err != nil:
		return "", err
	case recorded == store.MoveUnderWay:
		return "", errMoveUnderWay
	case recorded == store.LogRefillUnderWay:
		return "", errLogRefillUnderWay
	case recorded == store.RestoreUnderWay:
		return "", errRestoreUnderWay
	case recorded == store.RefillUnderWay:
		return refillContinued, nil
	case recorded == "" && !used:
		return refillNew, nil
	case recorded == cluster:
		if move, there, err := store.RecordedMove(ctx, store.Reader(db)); err != nil || there && move.IsRefill() {
			return refillFinished, err
		}
	}
	return "", fmt.Errorf("%s is not empty: if a service began on it after the other one was lost, keep it, and create another empty one; "+
		"the refill of that one says if events were derived again, and then you need this one", nameOf(c))
}

// startOfRestored is startOf for a database that was restored from a backup.
func startOfRestored(ctx context.Context, c config, db store.Engine, cluster string) (string, error) {
	recorded, used, err := store.RecordedLog(ctx, db)
	switch {
	case err != nil:
		return "", err
	case recorded == store.RestoreUnderWay:
		return refillContinued, nil
	case recorded == cluster && used:
		return refillRestored, nil
	case recorded == "" && !used:
		return "", fmt.Errorf("%s is empty: restore the backup first, or fill it from the whole log, without --restored", nameOf(c))
	}
	_, err = checkLog(ctx, c, db, cluster)
	return "", err
}

// refuseConsumers refuses to work while a service consumes the log.
func (r *refiller) refuseConsumers(ctx context.Context) error {
	groups, err := r.backends.kafka.ActiveGroups(ctx, r.config.GroupPrefix+".")
	if err != nil {
		return err
	}
	if len(groups) > 0 {
		return fmt.Errorf("a service consumes the log: stop it first; one that was killed counts as running until its session expires (%s). Its groups: %s",
			r.config.SessionTimeout, strings.Join(groups, ", "))
	}
	return nil
}

func (r *refiller) step(what string) {
	r.bar.describe(what)
	r.log.Debug("refilling", "step", what)
}

func (r *refiller) read(records int) {
	r.mu.Lock() // partitions are read side by side
	defer r.mu.Unlock()
	r.bar.add(records)
}

// fill fills all tables, and returns the stages of the service.
func (r *refiller) fill(ctx context.Context, set *topics.Set, v refilling, out *refilled) ([]engine.StageSpec, error) {
	// The other projections look the prices up that a correction changes.
	var first, folds []engine.StageSpec
	for _, p := range r.modules.projections {
		fold, err := projections.Open(ctx, r.backends.store, p)
		if err != nil {
			return nil, err
		}
		if p.Name() == projections.PriceListName {
			first = append(first, fold)
		} else {
			folds = append(folds, fold)
		}
	}
	folds = append(first, folds...)
	delivered := map[string]map[pipeline.TopicPartition]int64{}
	for _, stage := range r.modules.stages {
		if r.modules.delivering[stage.Name] {
			var err error
			if delivered[stage.Name], err = r.backends.kafka.CommittedOffsets(ctx, r.config.GroupPrefix+"."+stage.Name, stage.Topics()); err != nil {
				return nil, err
			}
		}
	}
	var empty []schema.Topic
	for _, topic := range schema.Topics() {
		if slices.Contains(v.absent, r.config.Topics[topic]) {
			empty = append(empty, topic)
		}
	}
	var err error
	out.Result, err = refill.Run(ctx, refill.Config{Empty: empty, Restored: v.restored, Continued: out.Start == refillContinued, Store: r.backends.store, Broker: r.backends.broker, Topics: set,
		Handlers: r.modules.stages, Projections: folds, Delivered: delivered, Log: r.log, Step: r.step, Progress: r.read})
	return slices.Concat(r.modules.stages, folds), err
}

// notFilled names the stages of the consumer groups of the installation that are not among stages,
// projections without their generation. A webhook that PLUGINS lacks by mistake would post again
// once it is switched on.
func (r *refiller) notFilled(ctx context.Context, stages []engine.StageSpec) (names []string, err error) {
	prefix := r.config.GroupPrefix + "."
	groups, err := r.backends.kafka.Groups(ctx, prefix)
	if err != nil {
		return nil, err
	}
	filled := map[string]bool{}
	for _, stage := range stages {
		filled[withoutGeneration(stage.Name)] = true
	}
	for _, group := range groups {
		if name := withoutGeneration(strings.TrimPrefix(group, prefix)); !filled[name] && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// withoutGeneration is the name of the projection of a stage, and else the name of the stage.
func withoutGeneration(stage string) string {
	if at := strings.LastIndex(stage, ".g"); at > 0 {
		if _, err := strconv.Atoi(stage[at+len(".g"):]); err == nil {
			return stage[:at]
		}
	}
	return stage
}

// check holds the database against the log, and counts its rows.
func (r *refiller) check(ctx context.Context, set *topics.Set, stages []engine.StageSpec, out *refilled) error {
	r.step("checking")
	view, err := r.backends.store.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer view.Close()
	out.Checks, err = audit.Run(ctx, audit.Config{View: view, Broker: r.backends.broker, Topics: set, Stages: stages,
		Repeatable: func(source string) bool { return source == commandSource }, Progress: r.read, Most: shownDifferences})
	if err != nil {
		return err
	}
	tables, err := view.Tables(ctx)
	if err != nil {
		return err
	}
	for _, name := range tables {
		t := tableRows{Table: name}
		if err := view.Get(ctx, &t.Rows, "SELECT COUNT(*) FROM "+name); err != nil {
			return fmt.Errorf("counting the rows of %s: %w", name, err)
		}
		if t.Rows > 0 && !slices.Contains(ownTables, name) {
			out.Tables = append(out.Tables, t)
		}
	}
	return nil
}

// ownTables are those of which a database has its own rows, whatever the log says.
var ownTables = []string{"api_key_version", "chains", "generations", "goose_db_version", "instance", "leases", "moves", "retired_chains", "topics"}
