package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/handlers/backfill"
	"github.com/pricemill/pricemill/handlers/normalize"
	"github.com/pricemill/pricemill/handlers/rawstore"
	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/logrecords"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

func newRefillLog(a *app) *cobra.Command {
	var v refilling
	c := &cobra.Command{
		Use:   "log",
		Short: "Fill lost topics on Kafka from the database",
		Long: `Fill topics on Kafka from the database after they were lost: all of them, with
the cluster, or some. Answers, prices, corrections, outcomes, requests and
polling jobs get records again, at the offsets that they had, with the ids that
they had. Where the database does not know what was there, an event log.gap.v1
says so, and every stage skips it. Positions stay; row ids stay.

Stop the service and what restarts it first. A lost topic must not exist, or be
empty. What was sent to Kafka and read by no stage is lost with it; it is
counted, and what follows from answers is made again.

At the end all read models are built from the new log and compared, as verify
does. Until that holds, no other command works with the database. Run an
interrupted run again: it continues.

The exit status is 0 where the log can be used. See docs/refill.md.`,
		Example: "  pricemill refill log\n  pricemill refill log -o json",
		Args:    exactArgs(0),
		RunE:    func(c *cobra.Command, _ []string) error { return a.refillLog(c.Context(), v) },
	}
	c.Flags().BoolVar(&v.accept, "accept-differences", false, "finish although the check found differences, which are printed")
	outputFlag(c, &v.output)
	return c
}

// refilledLog is what refill log prints.
type refilledLog struct {
	// Start is "new" or "continued", or "finished" where no topic is lost.
	Start  string               `json:"start"`
	Topics []refill.FilledTopic `json:"topics"`
	// Lost are, by topic, the events that were sent and that no stage had read. Those of them
	// that follow from answers are among Appended.
	Lost map[string]int64 `json:"lost,omitempty"`
	// Unplaced are events that the database knows and that have no place in the log.
	Unplaced int64 `json:"unplaced,omitempty"`
	// Checks are those of verify.
	Checks  []*audit.Finding `json:"checks"`
	Seconds float64          `json:"seconds"`
}

// errRefillLog says that the log was filled and is not what the database says.
var errRefillLog = errors.New("the new log and the database do not agree, and no other command works with the database; " +
	"--accept-differences has them used as they are")

func (a *app) refillLog(ctx context.Context, v refilling) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if len(c.Brokers) == 0 {
		return fmt.Errorf("%w: KAFKA_BOOTSTRAP_SERVERS is not set: without Kafka, the log is in the database", errUsage)
	}
	c.Roles = roles{Handlers: true, Projections: true}
	began := time.Now()
	r := logRefiller{app: a, config: c, log: a.loggerAt(c, slog.LevelWarn), backends: &backends{keyedBySymbol: c.KeyedBySymbol}, clusters: map[int32]*kafka.Broker{}}
	out, err := r.run(ctx, v)
	if err = errors.Join(err, r.backends.close()); out.Start == "" || err != nil && !errors.Is(err, errRefillLog) {
		return err
	}
	out.Seconds = time.Since(began).Seconds()
	return errors.Join(a.print(v.output, out, func(w io.Writer) { printRefilledLog(w, out, err) }), err)
}

func printRefilledLog(w io.Writer, r refilledLog, failed error) {
	if r.Start == refillFinished {
		fmt.Fprintln(w, "no topic is lost: nothing is left to do")
		return
	}
	fmt.Fprintln(w, "TOPIC\tPARTITIONS\tRECORDS\tGAPS\tAPPENDED\tNOT READ")
	for _, t := range r.Topics {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", t.Topic, t.Partitions, t.Records, t.Gaps, t.Appended, r.Lost[string(t.Topic)])
	}
	if r.Unplaced > 0 {
		fmt.Fprintf(w, "\n%d events that the database knows have no place in the log: they are not given again\n", r.Unplaced)
	}
	noteChecks(w, r.Checks)
	if failed == nil {
		if !allHold(r.Checks) {
			fmt.Fprintln(w, "\nthe log can be used; it does not agree with the database: the differences above were accepted")
			return
		}
		note := map[string]string{refillContinued: " (an interrupted run, continued)"}[r.Start]
		fmt.Fprintf(w, "\nevery read model follows from the new log, which can be used%s\n", note)
	}
}

// logRefiller is one run of refill log.
type logRefiller struct {
	app      *app
	config   config
	modules  *modules
	log      *slog.Logger
	backends *backends
	bar      *progress

	mu       sync.Mutex
	clusters map[int32]*kafka.Broker
}

func (r *logRefiller) run(ctx context.Context, v refilling) (out refilledLog, err error) {
	cluster, err := r.backends.connect(ctx, r.config, r.log)
	if err != nil {
		return out, err
	}
	if err := r.openDatabase(ctx); err != nil {
		return out, err
	}
	b := r.backends
	r.bar = r.app.progress()
	defer r.bar.end()
	var recorded string
	if err := b.store.Get(ctx, &recorded, `SELECT log FROM instance`); err != nil {
		return out, fmt.Errorf("reading the log of the database: %w", err)
	}
	begun := recorded == store.LogRefillUnderWay
	var run store.LogRefill
	begin := func() error {
		return b.store.Write(ctx, func(tx *store.Tx) (err error) {
			run, _, err = tx.BeginLogRefill(ctx, cluster, schema.NewTime(time.Now()))
			return err
		})
	}
	if begun {
		if err := begin(); err != nil {
			return out, err
		}
		if run.Cluster != cluster {
			return out, fmt.Errorf("an interrupted run has begun to fill the Kafka cluster %s, and KAFKA_BOOTSTRAP_SERVERS names the cluster %s", run.Cluster, cluster)
		}
	}
	out.Start = refillNew
	if begun {
		out.Start = refillContinued
	}
	if !run.Written {
		lost, spare, err := r.lost(ctx, run)
		if err != nil {
			return refilledLog{}, err
		}
		if len(lost) == 0 && !begun {
			return refilledLog{Start: refillFinished}, r.refuseHeadless(ctx)
		}
		if err := r.checkComplete(ctx, lost, spare); err != nil && !v.accept {
			return refilledLog{}, err
		}
		if !begun {
			if err := begin(); err != nil {
				return refilledLog{}, err
			}
		}
		if err := r.fill(ctx, run, lost, spare, &out); err != nil {
			return refilledLog{}, err
		}
	}
	// What this version has and the database did not know is created as at a start.
	if _, err := b.topics(ctx); err != nil {
		return refilledLog{}, err
	}
	r.step("checking")
	if out.Checks, err = r.app.findings(ctx, b, r.modules, r.modules.projections, verification{differences: shownDifferences}, r.log); err != nil {
		return refilledLog{}, err
	}
	// Events that were never sent wait until a service runs.
	out.Checks = slices.DeleteFunc(out.Checks, func(f *audit.Finding) bool { return f.Name == "outbox" })
	if !v.accept && !allHold(out.Checks) {
		return out, errRefillLog
	}
	return out, b.store.Write(ctx, func(tx *store.Tx) error { return tx.FinishLogRefill(ctx, schema.NewTime(time.Now())) })
}

// openDatabase opens the database that is whole, and builds all that it has.
func (r *logRefiller) openDatabase(ctx context.Context) error {
	db, err := openEngine(ctx, r.config)
	if err != nil {
		return err
	}
	recorded, used, err := store.RecordedLog(ctx, db)
	switch {
	case err != nil:
	case recorded == store.MoveUnderWay:
		err = errMoveUnderWay
	case recorded == store.RefillUnderWay:
		err = errRefillUnderWay
	case recorded == store.TableLog:
		err = fmt.Errorf("%w: it holds its log itself: that is lost and restored with it", store.ErrOtherLog)
	case !used:
		err = fmt.Errorf("there is nothing to fill the log from: %s knows no topic", nameOf(r.config))
	case r.config.DatabaseURL == "":
		err = r.backends.lock(r.config, serving)
	}
	if err == nil {
		r.backends.store, err = store.Open(ctx, db)
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	b := r.backends
	b.closers = append(b.closers, b.store.Close)
	if err := refuseService(ctx, b.store, b.kafka, r.config); err != nil {
		return err
	}
	if r.config.DatabaseURL != "" {
		release, err := exclusive(ctx, b.store, r.log)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, release)
	}
	there, err := installed(ctx, b.store)
	if err != nil {
		return err
	}
	if folds, stages := there.lacks(); len(folds)+len(stages) > 0 {
		return fmt.Errorf("this binary does not have %q: fill the log with the binary that does", append(folds, stages...))
	}
	// Handlers would log again what they logged when it came about.
	r.modules, err = build(r.config.switchedOn(there), slog.New(slog.DiscardHandler))
	return err
}

func (r *logRefiller) step(what string) {
	r.bar.describe(what)
	r.log.Debug("refilling", "step", what)
}

func (r *logRefiller) read(records int) {
	r.mu.Lock() // partitions are worked on side by side
	defer r.mu.Unlock()
	r.bar.add(records)
}

// dial connects to Kafka, where topics are then created with so many partitions.
func (r *logRefiller) dial(ctx context.Context, partitions int32) (*kafka.Broker, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if broker, there := r.clusters[partitions]; there {
		return broker, nil
	}
	cfg := brokerConfig(r.config, r.log)
	cfg.Partitions = partitions
	broker, err := kafka.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	r.clusters[partitions] = broker
	r.backends.closers = append(r.backends.closers, broker.Close)
	return broker, nil
}

// lost are the topics that the cluster lacks, or has only as empty ones of another id, in the order
// of the data's way. spare are incarnations that a service has registered since, and that no stage
// has come to.
func (r *logRefiller) lost(ctx context.Context, run store.LogRefill) (lost, spare []store.Topic, err error) {
	known, err := r.backends.store.Topics(ctx)
	if err != nil {
		return nil, nil, err
	}
	infos, err := r.backends.kafka.Topics(ctx, schema.Topics())
	if err != nil {
		return nil, nil, err
	}
	for _, name := range schema.Topics() {
		topic, newer, err := r.stood(ctx, known, name)
		if err != nil {
			return nil, nil, err
		}
		info, exists := infos[name]
		if topic.ID == "" || exists && info.ID == topic.ID {
			continue // it is of this version, and the next start creates it; or it is there
		}
		empty, err := r.isEmpty(ctx, name, exists)
		if err != nil {
			return nil, nil, err
		}
		switch ours := exists && run.Topics[string(name)] == info.ID; {
		case !empty && !ours:
			return nil, nil, fmt.Errorf("topic %s of the cluster has records, and is not the one that the database knows: a service was started after the loss, or the topic is another installation's. "+
				"Delete it if what it has is of no use, or continue with it by pricemill stages skip; see docs/refill.md", r.config.Topics[name])
		case topic.Renewed > 0:
			return nil, nil, fmt.Errorf("topic %s had lost its end before it was lost: its offsets were given twice, and cannot be given again; continue by pricemill stages skip", r.config.Topics[name])
		}
		lost, spare = append(lost, topic), append(spare, newer...)
	}
	for _, topic := range spare {
		var waits bool
		if err := r.backends.store.Get(ctx, &waits, `SELECT EXISTS (SELECT 1 FROM outbox WHERE epoch = $1)`, topic.Epoch); err != nil {
			return nil, nil, fmt.Errorf("looking for what waits for topic %s: %w", topic.Name, err)
		}
		if waits {
			return nil, nil, fmt.Errorf("a service was started after the loss, and events wait for the topic %s that it created: continue with it by pricemill stages skip; see docs/refill.md",
				r.config.Topics[schema.Topic(topic.Name)])
		}
	}
	return lost, spare, nil
}

// stood is the incarnation of a topic that stages have come to, or else the newest one, and those
// that are newer.
func (r *logRefiller) stood(ctx context.Context, known []store.Topic, name schema.Topic) (topic store.Topic, newer []store.Topic, err error) {
	incarnations := slices.DeleteFunc(slices.Clone(known), func(t store.Topic) bool { return t.Name != string(name) }) // by epoch
	for i := len(incarnations) - 1; i >= 0; i-- {
		var stands bool
		if err := r.backends.store.Get(ctx, &stands, `SELECT EXISTS (SELECT 1 FROM positions WHERE topic_id = $1)`, incarnations[i].ID); err != nil {
			return topic, nil, fmt.Errorf("asking who uses topic %s (%s): %w", name, incarnations[i].ID, err)
		}
		if stands {
			return incarnations[i], incarnations[i+1:], nil
		}
	}
	if len(incarnations) > 0 {
		topic = incarnations[len(incarnations)-1]
	}
	return topic, nil, nil
}

func (r *logRefiller) isEmpty(ctx context.Context, name schema.Topic, exists bool) (bool, error) {
	if !exists {
		return true, nil
	}
	ranges, err := r.backends.kafka.Offsets(ctx, name)
	if err != nil {
		return false, fmt.Errorf("asking for the ends of %s: %w", name, err)
	}
	return !slices.ContainsFunc(ranges, func(held log.OffsetRange) bool { return held.End > 0 }), nil
}

// refuseHeadless says which topics lack their oldest records: only a lost topic is filled.
func (r *logRefiller) refuseHeadless(ctx context.Context) error {
	infos, err := r.backends.kafka.Topics(ctx, schema.Topics())
	if err != nil {
		return err
	}
	var headless []string
	for _, name := range schema.Topics() {
		if _, exists := infos[name]; !exists {
			continue
		}
		ranges, err := r.backends.kafka.Offsets(ctx, name)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", name, err)
		}
		part := slices.IndexFunc(ranges, func(held log.OffsetRange) bool { return held.Oldest > 0 })
		if part >= 0 {
			headless = append(headless, fmt.Sprintf("%s/%d begins at offset %d", r.config.Topics[name], part, ranges[part].Oldest))
		}
	}
	if len(headless) > 0 {
		return fmt.Errorf("no topic is lost, but oldest records are: %s. Only whole topics are filled: delete these topics, and run the command again; "+
			"see docs/refill.md for what does not come back", strings.Join(headless, ", "))
	}
	return nil
}

// tablesOf are the stages and projections whose tables alone tell of some records of a topic.
var tablesOf = map[schema.Topic][]string{
	schema.PollingJobs:   {jobs.Name, adjustments.Name, stream.Name, backfill.Name},
	schema.RawQuotes:     {rawstore.Name},
	schema.QuoteOutcomes: {requests.Name},
}

// serving are the stages of the generations that serve.
func (r *logRefiller) serving(ctx context.Context) (map[string]bool, error) {
	var folds []struct {
		Projection string `db:"projection"`
		Number     int64  `db:"number"`
	}
	if err := r.backends.store.Select(ctx, &folds, `SELECT projection, number FROM generations WHERE active = 1`); err != nil {
		return nil, fmt.Errorf("reading which generations serve: %w", err)
	}
	serving := map[string]bool{}
	for _, f := range folds {
		serving[fmt.Sprintf("%s.g%d", f.Projection, f.Number)] = true
	}
	return serving, nil
}

// checkComplete refuses a database whose tables lack what other stages have read of a lost topic.
func (r *logRefiller) checkComplete(ctx context.Context, lost, spare []store.Topic) error {
	var reread string
	if err := r.backends.store.Get(ctx, &reread, `SELECT COALESCE(MIN(id), '') FROM renormalizations WHERE state = 'promoted'`); err != nil {
		return fmt.Errorf("reading which renormalizations serve: %w", err)
	}
	if reread != "" {
		return fmt.Errorf("%s serves: of answers that were read again, the database does not have the events as they were; --accept-differences gives what it has", reread)
	}
	positions, err := store.Positions(ctx, r.backends.store, "")
	if err != nil {
		return err
	}
	serving, err := r.serving(ctx)
	if err != nil {
		return err
	}
	for _, topic := range lost {
		furthest, read := map[int32]int64{}, map[string]map[int32]int64{}
		for stage := range serving {
			read[withoutGeneration(stage)] = map[int32]int64{}
		}
		for _, p := range positions {
			if p.Topic != topic.Name {
				continue
			}
			if p.TopicID != topic.ID && !slices.ContainsFunc(spare, func(s store.Topic) bool { return s.ID == p.TopicID }) {
				return fmt.Errorf("stage %s is in an earlier incarnation of topic %s: resolve that first; see docs/halts.md", p.Stage, topic.Name)
			}
			furthest[p.Part] = max(furthest[p.Part], p.Next)
			name := withoutGeneration(p.Stage)
			if name != p.Stage && !serving[p.Stage] {
				continue
			}
			if read[name] == nil {
				read[name] = map[int32]int64{}
			}
			read[name][p.Part] = max(read[name][p.Part], p.Next)
		}
		for _, name := range tablesOf[schema.Topic(topic.Name)] {
			positions, there := read[name]
			for part, next := range furthest {
				if there && positions[part] < next {
					return fmt.Errorf("%s is %d records behind on %s/%d, and no other table tells of them: what only other stages have read cannot be given again; "+
						"--accept-differences leaves gaps there", name, next-positions[part], topic.Name, part)
				}
			}
		}
	}
	return nil
}

// fill fills the lost topics.
func (r *logRefiller) fill(ctx context.Context, run store.LogRefill, lost, spare []store.Topic, out *refilledLog) error {
	b := r.backends
	err := b.store.Write(ctx, func(tx *store.Tx) error {
		for _, topic := range spare {
			if err := tx.ForgetTopic(ctx, topic); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.step("reading the database")
	layout, err := r.layout(ctx)
	if err != nil {
		return err
	}
	out.Topics, err = refill.FillLog(ctx, refill.LogConfig{Store: b.store, Run: run, Lost: lost, Lay: layout.Partitions, Records: layout,
		Cluster: func(ctx context.Context, partitions int32) (refill.Cluster, error) { return r.dial(ctx, partitions) }, Step: r.step, Progress: r.read})
	if err != nil {
		return err
	}
	out.Unplaced, out.Lost = layout.Unplaced, map[string]int64{}
	for _, topic := range lost {
		if n := layout.Unread(topic); n > 0 {
			out.Lost[topic.Name] = n
		}
	}
	return nil
}

// layout reads where the records of all topics are.
func (r *logRefiller) layout(ctx context.Context) (*logrecords.Layout, error) {
	known, err := r.backends.store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	topics := map[schema.Topic]store.Topic{}
	for _, topic := range known {
		if topics[schema.Topic(topic.Name)], _, err = r.stood(ctx, known, schema.Topic(topic.Name)); err != nil {
			return nil, err
		}
	}
	serving, err := r.serving(ctx)
	if err != nil {
		return nil, err
	}
	prices := ""
	for stage := range serving {
		if withoutGeneration(stage) == projections.PriceListName {
			prices = stage
		}
	}
	return logrecords.New(ctx, logrecords.Config{PriceStage: prices, View: r.backends.store, Topics: topics, Commands: commandSource, Partition: kafka.Partition, Progress: r.read,
		RecordKey: func(p schema.Payload) []byte {
			if r.config.KeyedBySymbol && p.Topic() == schema.PriceEvents {
				return []byte(schema.SymbolOfKey(p.Key()))
			}
			return []byte(p.Key())
		},
		NewNormalizer: func() logrecords.Normalizer {
			for _, stage := range r.modules.stages {
				if replay, ok := normalize.NewReplay(stage.Handler); ok {
					return replay
				}
			}
			return nil
		}})
}
