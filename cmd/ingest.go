package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/handlers/ingest"
	"github.com/pricemill/pricemill/handlers/provider/csv"
	"github.com/pricemill/pricemill/handlers/rawstore"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// ingestion is what the flags of ingest say.
type ingestion struct {
	provider     string
	options      map[string]string
	skipBad      bool
	work, noWait bool
	dryRun       bool
	corrects     bool
	adjustments  bool
	// recorded and adjusted are of a file of adjustments, as far as it was read.
	recorded []schema.AdjustmentRecorded
	adjusted ingest.AdjustmentSummary
	reason   string
	output   string
	file     string
	stdin    io.Reader
}

func newIngest(a *app) *cobra.Command {
	var i ingestion
	var options func() map[string]string // the flags that are for the provider
	c := &cobra.Command{
		Use:   "ingest FILE",
		Short: "Import quotes from a file through the pipeline",
		Long: `Import quotes from a file through the same pipeline, and end when the last price
and average that follow from them are committed. Each quote has an identity: a
trade, or a row's symbol, time and price, and how many equal rows of the file
come before it. What was ingested before is recognised and skipped, so importing
a file twice, or again after a failure, changes nothing.

Provider csv, the default, reads separated values. Files of many services are
known by their first line, and are read as they were downloaded; what is assumed
is printed. Where a file does not say of which symbol its prices are, add
--symbol. --dry-run shows the first rows as they would be taken, and takes none.
Presets are
` + wrap(csv.PresetNames(), helpColumns) + `.

Provider coinbase reads frames of the WebSocket feed, one a line: as they came,
or as {"frame": "…", "received_at": "SECONDS"}. Frames of trades are quotes.
FILE may be compressed by gzip, zip, zstd or bzip2; - is standard input.

Where a service runs, it does the work. Without one, this process does it
itself; on Kafka it waits for a service, unless --work lets it take part.

With --corrects the prices of the file are the right ones of prices that are
stored: of the same symbol, provider and time. It reports how many were
corrected and how many were right. A line without such a price is a bad line.

With --adjustments the file has splits and dividends: a line each of symbol,
date, kind (split, dividend, factor) and value, under a line with these names.

It stops at the first line that should hold a quote and does not; what comes
before that line is ingested. The exit status is 1 then, and also where a stage
has halted, or where no line holds a quote, whatever the flags. A file whose
quotes were all ingested before is no failure.`,
		Example: `  pricemill ingest --provider coinbase session.jsonl.gz
  pricemill ingest --dry-run --symbol BTCUSDT BTCUSDT-1h-2025-01-01.zip
  pricemill ingest --symbol AAPL --price-column "Adj Close" AAPL.csv
  pricemill ingest --decimal , --thousands . --time-zone Europe/Berlin de.csv
  pricemill ingest --corrects --reason "a dividend" AAPL-adjusted.csv
  pricemill ingest --adjustments splits.csv
  zcat prices.csv.gz | pricemill ingest --skip-bad-rows -o json -`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			i.options = options()
			i.file, i.stdin = args[0], c.InOrStdin()
			return a.ingest(c.Context(), i)
		},
	}
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringVar(&i.provider, "provider", string(csv.Name), "provider whose quotes the file holds")
	flags.BoolVar(&i.dryRun, "dry-run", false, "show the first rows as they would be taken, and end")
	flags.BoolVar(&i.skipBad, "skip-bad-rows", false, "report lines that are wrong, count them, and continue")
	flags.BoolVar(&i.corrects, "corrects", false, "correct stored prices of the same symbol and time")
	flags.BoolVar(&i.adjustments, "adjustments", false, "record the splits and dividends of the file")
	flags.StringVar(&i.reason, "reason", "", "why, for --corrects and --adjustments (default: the name of the file)")
	flags.BoolVar(&i.work, "work", false, "do the work in this process, even on Kafka")
	flags.BoolVar(&i.noWait, "no-wait", false, "end when all is in the log; do no work")
	outputFlag(c, &i.output)
	options = fileFlags(c)
	return c
}

// wrap lists words in lines of a width.
func wrap(words []string, width int) string {
	var text strings.Builder
	column := 0
	for i, word := range words {
		if i < len(words)-1 {
			word += ","
		}
		switch {
		case column > 0 && column+1+len(word) > width:
			text.WriteByte('\n')
			column = 0
		case column > 0:
			text.WriteByte(' ')
			column++
		}
		text.WriteString(word)
		column += len(word)
	}
	return text.String()
}

// fileFlags are the options of files of csv as flags, and those of them that were
// set.
func fileFlags(c *cobra.Command) func() map[string]string {
	flags := c.Flags()
	for _, o := range csv.Options() {
		if o.Switch {
			flags.Bool(o.Name, false, "csv: "+o.Doc)
		} else {
			flags.String(o.Name, o.Default, "csv: "+o.Doc)
		}
	}
	return func() map[string]string {
		set := map[string]string{}
		for _, o := range csv.Options() {
			if flag := flags.Lookup(o.Name); flag.Changed {
				set[o.Name] = flag.Value.String()
			}
		}
		return set
	}
}

func (a *app) ingest(ctx context.Context, i ingestion) error {
	if i.work && i.noWait {
		return fmt.Errorf("%w: --work and --no-wait exclude each other", errUsage)
	}
	if err := i.checkCorrects(); err != nil {
		return err
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	c.Roles = roles{Handlers: true, Projections: true, Relay: true}
	log := a.loggerAt(c, slog.LevelWarn)
	m, err := build(c, log)
	if err != nil {
		return err
	}
	summary, err := a.ingestFile(ctx, i, c, m, log)
	if summary == nil {
		return err
	}
	if s := summary.adjustments; s != nil {
		return errors.Join(err, a.print(i.output, s, func(w io.Writer) { printAdjustments(w, *s) }))
	}
	if s := summary.corrections; s != nil {
		return errors.Join(err, a.print(i.output, s, func(w io.Writer) { printCorrections(w, *s) }))
	}
	return errors.Join(err, a.print(i.output, summary.Summary, func(w io.Writer) {
		fmt.Fprintln(w, "LINES\tQUOTES\tPASSED OVER\tBAD\tREPEATED\tNEW")
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\n", summary.Lines, summary.Quotes, summary.PassedOver, summary.Bad,
			summary.Repeated, summary.New)
	}))
}

// ingestFile returns a summary, also next to an error, unless the fault is found
// before anything begins.
func (a *app) ingestFile(ctx context.Context, i ingestion, c config, m *modules, log *slog.Logger) (_ *ingested, err error) {
	reader, err := m.fileReader(schema.Provider(i.provider))
	if i.adjustments {
		_, err = m.anyProvider(schema.Provider(i.provider))
	}
	if err != nil {
		return nil, err
	}
	file, closeFile, err := a.openFile(i)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeFile()) }()
	cfg := ingest.Config{Reader: reader, Options: i.options, File: file, SkipBad: i.skipBad,
		Report: reportBad(log), Note: reportNotes(log), Now: time.Now}
	if i.dryRun {
		return nil, a.preview(i, cfg)
	}
	var source *ingest.Source
	if i.adjustments {
		if err := i.readAdjustments(c, file, cfg.Report); err != nil {
			return nil, asUsage(i.file, err)
		}
	} else {
		if source, err = ingest.Open(cfg); err != nil {
			return nil, asUsage(i.file, err)
		}
		defer source.Close()
	}
	b, err := open(ctx, c, working, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	summary, err := i.run(ctx, c, b, m, source, log)
	if err == nil && summary.taken() == 0 {
		err = fmt.Errorf("%w: it has %d lines, %d of them bad and %d without a quote; are --provider and its options those of this file?",
			errNothingTaken, summary.Lines, summary.Bad, summary.PassedOver)
	}
	if err != nil {
		err = asUsage(i.file, err)
	}
	reportCounts(log, summary.Summary)
	return &summary, err
}

// errNothingTaken says that a file was read to its end and no quote was found.
var errNothingTaken = errors.New("no line holds a quote")

// asUsage says which file it was, and whether the flags are at fault.
func asUsage(file string, err error) error {
	if errors.Is(err, pipeline.ErrOption) {
		return fmt.Errorf("%w: %s: %w", errUsage, file, err)
	}
	return fmt.Errorf("ingesting %s: %w", file, err)
}

// fileReader finds a provider that reads files.
func (m *modules) fileReader(name schema.Provider) (pipeline.FileReader, error) {
	if reader, ok := m.providers[name].(pipeline.FileReader); ok {
		return reader, nil
	}
	var able []schema.Provider
	for _, other := range m.known.names() {
		if _, ok := m.providers[other].(pipeline.FileReader); ok {
			able = append(able, other)
		}
	}
	problem := "there is no provider %q"
	switch _, known := m.providers[name]; {
	case name == "":
		return nil, fmt.Errorf("%w: --provider is empty: it is one of %q", errUsage, able)
	case known:
		problem = "provider %q reads no files, as others do"
	}
	return nil, fmt.Errorf("%w: "+problem+"; %s", errUsage, name, names.Hint(string(name), able))
}

// anyProvider finds a provider.
func (m *modules) anyProvider(name schema.Provider) (pipeline.Provider, error) {
	if p, known := m.providers[name]; known {
		return p, nil
	}
	return nil, fmt.Errorf("%w: there is no provider %q; %s", errUsage, name, names.Hint(string(name), m.known.names()))
}

// run brings the file through the chain.
func (i ingestion) run(ctx context.Context, c config, b *backends, m *modules, source *ingest.Source, log *slog.Logger) (ingested, error) {
	topics, err := b.topics(ctx)
	if err != nil {
		return ingested{}, err
	}
	sink := ingest.Sink{
		Known:  func(ctx context.Context, ids []string) ([]string, error) { return rawstore.Known(ctx, b.store, ids) },
		Append: engine.NewAppender(b.broker, topics).Append,
	}
	if i.noWait {
		summary, err := source.Run(ctx, sink)
		return ingested{Summary: summary}, err
	}
	if !b.alone && (b.kafka == nil || !i.work) {
		return i.feed(ctx, b, m, source, sink, log)
	}
	if err := m.openProjections(ctx, c, b, log); err != nil {
		return ingested{}, err
	}
	// No more than the file needs: no job polls in the meantime.
	serving := func(ctx context.Context) ([]engine.StageSpec, error) {
		return projections.Serving(ctx, b.store, m.projections)
	}
	stages, err := m.passed(ctx, i.brings(), serving)
	if err != nil {
		return ingested{}, err
	}
	isFold := func(s engine.StageSpec) bool { _, fold := s.Handler.(projections.Fold); return fold }
	work := engine.Config{Stages: slices.DeleteFunc(stages, isFold), Registry: m.registry}
	work.Changing = func(ctx context.Context) ([]engine.StageSpec, error) {
		stages, err := m.passed(ctx, i.brings(), serving)
		return slices.DeleteFunc(stages, func(s engine.StageSpec) bool { return !isFold(s) }), err
	}
	runtime, err := newRuntimeOf(ctx, c, b, topics, work, log)
	if err != nil {
		return ingested{}, err
	}
	var summary ingested
	err = whileRunning(ctx, runtime, func(ctx context.Context) error {
		var err error
		summary, err = i.feed(ctx, b, m, source, sink, log)
		return err
	})
	return summary, err
}

// quoteFetched is what a line becomes.
var quoteFetched = schema.QuoteFetched{}.EventType()

// brings is the type of the events of the file.
func (i ingestion) brings() schema.EventType {
	if i.adjustments {
		return adjustmentRecorded
	}
	return quoteFetched
}

// passed are the stages that the events of a file pass: handlers, and of the folds
// those that they pass. A file does not wait for handlers that deliver.
func (m *modules) passed(ctx context.Context, brings schema.EventType, folds func(context.Context) ([]engine.StageSpec, error)) ([]engine.StageSpec, error) {
	those, err := folds(ctx)
	here := slices.DeleteFunc(slices.Clone(m.stages), func(s engine.StageSpec) bool { return m.delivering[s.Name] })
	return engine.Downstream(append(here, those...), brings), err
}

// feed sends the file, and waits for all that follows from it.
func (i ingestion) feed(ctx context.Context, b *backends, m *modules, source *ingest.Source, sink ingest.Sink, log *slog.Logger) (ingested, error) {
	look := noticeIdle(log)
	// Another generation may serve from one look to the next.
	fed := func(ctx context.Context) ([]engine.StageSpec, error) {
		return projections.Fed(ctx, b.store, m.projections)
	}
	applied := func(ctx context.Context) error {
		return engine.CatchUpChanging(ctx, b.store, b.broker, func(ctx context.Context) ([]engine.StageSpec, error) { return m.passed(ctx, i.brings(), fed) }, look)
	}
	if i.adjustments {
		return i.adjust(ctx, b, sink, applied)
	}
	if i.corrects {
		return i.correct(ctx, b, source, sink, applied)
	}
	// Those that take quotes themselves.
	takers := slices.DeleteFunc(slices.Clone(m.stages), func(s engine.StageSpec) bool { return !slices.Contains(s.Consumes, quoteFetched) })
	sink.Stored = func(ctx context.Context) error { return engine.CatchUp(ctx, b.store, b.broker, takers, look) }
	summary, err := source.Run(ctx, sink)
	if ctx.Err() != nil || errors.Is(err, engine.ErrHalted) {
		return ingested{Summary: summary}, err
	}
	// Also where the file is at fault: what comes before the fault is applied.
	return ingested{Summary: summary}, errors.Join(err, applied(ctx))
}

// whileRunning calls f while the pipeline runs, and ends with it.
func whileRunning(ctx context.Context, r *engine.Runtime, f func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group.Go(func() error { return r.Run(running, nil) })
	group.Go(func() error { defer stop(); return f(ctx) })
	return group.Wait()
}

// idleAfter is how long nothing may move before a warning says so.
const idleAfter = 5 * time.Second

// noticeIdle warns once that no process applies what was written.
func noticeIdle(log *slog.Logger) func(behind int64) {
	var last int64
	var since time.Time
	said := false
	return func(behind int64) {
		if behind != last || behind == 0 {
			last, since = behind, time.Now()
		}
		if !said && behind > 0 && time.Since(since) > idleAfter {
			said = true
			log.Warn("no process applies what was written: waiting for a pricemill serve; --work would do it here, --no-wait would not wait",
				"behind", behind)
		}
	}
}
