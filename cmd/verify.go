package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/deletion"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// verification is what the flags of verify say.
type verification struct {
	projections []string
	without     []string
	wait        time.Duration
	differences int
	output      string
}

func newVerify(a *app) *cobra.Command {
	var v verification
	c := &cobra.Command{
		Use:   "verify",
		Short: "Verify tables, positions and outbox against the log",
		Long: `Rebuild each projection from the log into scratch tables and compare them with
the live ones, value by value; then check everything else that is stored against
the log. The service may be running or not. The scratch tables are removed at
the end.

All plugins that the installation runs are checked, whatever PLUGINS says here.
A plugin that this binary does not have cannot be checked, unless --without
leaves it out.

The exit status is 0 if everything matches, and 1 if something differs or could
not be checked; the first differences are printed. See docs/verify.md.`,
		Example: "  pricemill verify\n  pricemill verify --projection moving-averages -o json",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.verify(c.Context(), v)
		},
	}
	flags := c.Flags()
	flags.StringArrayVar(&v.projections, "projection", nil, "prove this `projection` alone; may be given several times")
	flags.StringArrayVar(&v.without, "without", nil, "leave out the projection or stage of this `name`, which the binary does not have; may be given several times")
	flags.DurationVar(&v.wait, "wait", 30*time.Second, "how long events in the outbox may wait for a relay")
	flags.IntVar(&v.differences, "differences", 20, "how many `differences` to show of each check")
	outputFlag(c, &v.output)
	return c
}

// verdict is what verify prints.
type verdict struct {
	OK     bool             `json:"ok"`
	Checks []*audit.Finding `json:"checks"`
	// Lost and Doubled are effects that are missing, and such as are there once
	// too often.
	Lost    int64 `json:"lost"`
	Doubled int64 `json:"doubled"`
	// Behind is how many records of the log the stages had not come to.
	Behind  int64   `json:"behind"`
	Seconds float64 `json:"seconds"`
}

// errVerify says that not all holds; what does not is printed by then.
var errVerify = errors.New("not all of it holds")

func (a *app) verify(ctx context.Context, v verification) error {
	if v.wait < 0 || v.differences < 0 {
		return fmt.Errorf("%w: --wait and --differences must not be negative", errUsage)
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	cfg.Roles, cfg.Expendable = roles{Handlers: true, Projections: true}, true
	log := a.loggerAt(cfg, slog.LevelWarn)
	if _, err := build(cfg, log); err != nil {
		return err // before anything is opened
	}
	began := time.Now()
	var found verdict
	err = a.withBackendsOf(ctx, cfg, reading, func(ctx context.Context, b *backends) error {
		there, err := installed(ctx, b.store)
		if err != nil {
			return err
		}
		m, err := build(cfg.switchedOn(there), log)
		if err != nil {
			return err
		}
		wanted, err := v.wanted(m.projections)
		if err != nil {
			return err
		}
		lacked, err := v.lacked(there)
		if err != nil {
			return err
		}
		if found.Checks, err = a.findings(ctx, b, m, wanted, v, log); len(v.projections) == 0 {
			found.Checks = append(found.Checks, lacked...)
		}
		return err
	})
	if err != nil {
		return err
	}
	found.sumUp(began)
	if err := a.print(v.output, found, found.table); err != nil {
		return err
	}
	if !found.OK {
		return errVerify
	}
	return nil
}

// wanted are the projections that are named, or all.
func (v verification) wanted(all []pipeline.Projection) ([]pipeline.Projection, error) {
	if len(v.projections) == 0 {
		return all, nil
	}
	var known []string
	for _, p := range all {
		known = append(known, p.Name())
	}
	for _, name := range v.projections {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w: there is no projection %q; %s", errUsage, name, names.Hint(name, known))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(p pipeline.Projection) bool { return !slices.Contains(v.projections, p.Name()) }), nil
}

// lacked are findings about what this binary does not have and --without does not
// leave out.
func (v verification) lacked(there installation) (found []*audit.Finding, err error) {
	folds, stages := there.lacks()
	known := slices.Concat(folds, stages)
	for _, name := range v.without {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w: --without: there is no %q that this binary lacks; %s", errUsage, name, names.Hint(name, known))
		}
	}
	for i, name := range known {
		kind := "projection "
		if i >= len(folds) {
			kind = "stage "
		}
		f := audit.NewFinding(kind+name, v.differences)
		if slices.Contains(v.without, name) {
			f.NotChecked("it is left out: this binary does not have it")
		} else {
			f.Inconclusive("this binary does not have it: verify with the binary that does, or leave it out with --without %s", name)
		}
		found = append(found, f)
	}
	return found, nil
}

// cleanUp bounds what is left to do once verify is asked to stop.
const cleanUp = 30 * time.Second

// findings looks at everything.
func (a *app) findings(ctx context.Context, b *backends, m *modules, wanted []pipeline.Projection, v verification,
	log *slog.Logger) (found []*audit.Finding, err error) {
	if err := b.store.Check(ctx); err != nil {
		return nil, err
	}
	topics, err := b.lookup(ctx)
	if err != nil {
		return nil, err
	}
	scratch, err := projections.TakeScratch(ctx, b.store, m.projections)
	if err != nil {
		return nil, err
	}
	defer func() {
		// Also after Ctrl-C.
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		err = errors.Join(err, scratch.Release(cleaning))
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case lost := <-scratch.Lost():
			cancel(lost)
		case <-done:
		}
	}()
	bar := a.progress()
	defer bar.end()
	r := proving{b: b, m: m, v: v, topics: topics, scratch: scratch, log: log, bar: bar, began: time.Now()}
	found, err = r.run(ctx, wanted)
	return found, reason(ctx, err)
}

// proving is one run of verify.
type proving struct {
	b       *backends
	m       *modules
	v       verification
	topics  *topics.Set
	scratch *projections.Scratch
	log     *slog.Logger
	bar     *progress
	began   time.Time
}

func (r proving) run(ctx context.Context, wanted []pipeline.Projection) ([]*audit.Finding, error) {
	chains, err := store.Chains(ctx, r.b.store)
	if err != nil {
		return nil, err
	}
	config := projections.CompareConfig{Store: r.b.store, Broker: r.b.broker, Topics: r.topics, Log: r.log,
		Progress: r.bar.add, Beside: !r.b.alone, Most: r.v.differences}
	var comparisons []*projections.Comparison
	for _, p := range wanted {
		r.bar.describe("filling " + p.Name())
		comparison, err := r.scratch.Compare(ctx, config, p)
		if err != nil {
			return nil, err
		}
		if err := comparison.Fill(ctx); err != nil {
			return nil, err
		}
		comparisons = append(comparisons, comparison)
	}
	if len(r.v.projections) > 0 {
		return r.compare(ctx, comparisons, func(*store.Snapshot) ([]*audit.Finding, error) { return nil, nil })
	}
	outbox, err := r.drained(ctx, chains)
	if err != nil {
		return nil, err
	}
	return r.compare(ctx, comparisons, func(view *store.Snapshot) ([]*audit.Finding, error) {
		found, err := r.audit(ctx, view)
		return append([]*audit.Finding{outbox}, found...), err
	})
}

// drained waits until what was in the outbox when verify began is in the log.
func (r proving) drained(ctx context.Context, before []store.Chain) (*audit.Finding, error) {
	r.bar.describe("waiting for the relay")
	f := audit.NewFinding("outbox", r.v.differences)
	n, err := engine.AwaitSent(ctx, r.b.store, before, r.v.wait-time.Since(r.began))
	if n > 0 {
		f.Add(n, 0, 0, fmt.Sprintf("%d events wait for a relay, and have for %v: is a service running, and what does its /readyz say?",
			n, time.Since(r.began).Round(time.Millisecond)))
	}
	return f, err
}

// compare looks at everything as of one moment: at what the projections serve, and at
// the others.
func (r proving) compare(ctx context.Context, comparisons []*projections.Comparison,
	others func(*store.Snapshot) ([]*audit.Finding, error)) ([]*audit.Finding, error) {
	// A second round, so that little is left to do while the snapshot is open.
	for _, c := range comparisons {
		if err := c.Fill(ctx); err != nil {
			return nil, err
		}
	}
	view, err := r.b.store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	r.bar.describe("comparing")
	var proofs []*audit.Finding
	for _, c := range comparisons {
		finding, err := c.Prove(ctx, view)
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, finding)
	}
	r.bar.describe("looking through the log")
	found, err := others(view)
	return append(found, proofs...), err
}

// audit holds everything else against the log.
func (r proving) audit(ctx context.Context, view *store.Snapshot) ([]*audit.Finding, error) {
	folds, err := projections.Stages(ctx, view, r.m.projections)
	if err != nil {
		return nil, err
	}
	return audit.Run(ctx, audit.Config{View: view, Broker: r.b.broker, Topics: r.topics, Remaining: r.remaining,
		Stages: append(slices.Clone(r.m.stages), folds...), Repeatable: func(source string) bool { return source == commandSource },
		Progress: r.bar.add, Most: r.v.differences})
}

// remaining counts what is left of data that were deleted.
func (r proving) remaining(ctx context.Context, q store.Querier, of schema.Subject) (map[string]int64, error) {
	there, err := r.b.store.Tables(ctx)
	if err != nil {
		return nil, err
	}
	return deletion.Remaining(ctx, q, of, r.m.dataKeepers(), there)
}

// reason is why ctx was ended, if that is where the error comes from.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func (v *verdict) sumUp(began time.Time) {
	v.OK = true
	for _, f := range v.Checks {
		v.OK = v.OK && f.State == audit.Holds
		v.Lost += f.Lost
		v.Doubled += f.Doubled
		v.Behind += f.Counts[audit.CountBehind]
	}
	v.Seconds = time.Since(began).Seconds()
}

// table prints a line for each check, and then what does not hold.
func (v *verdict) table(w io.Writer) {
	fmt.Fprintln(w, "CHECK\tSTATE\tCOUNTED\tDIFFERENCES\tLOST\tDOUBLED")
	for _, f := range v.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\n", f.Name, f.State, f.Counted(), f.Found, f.Lost, f.Doubled)
	}
	v.notes(w)
}

// notes prints what does not hold, and what was not checked.
func (v *verdict) notes(w io.Writer) {
	for _, f := range v.Checks {
		if len(f.Unproven)+len(f.Differences)+len(f.Limits) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s:\n", f.Name)
		for _, text := range f.Unproven {
			fmt.Fprintf(w, "  not proven: %s\n", text)
		}
		for _, text := range f.Differences {
			fmt.Fprintf(w, "  %s\n", text)
		}
		if more := f.Found - int64(len(f.Differences)); more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
		for _, text := range f.Limits {
			fmt.Fprintf(w, "  limit: %s\n", text)
		}
	}
}

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct{ bar *progressbar.ProgressBar }

func (a *app) progress() *progress {
	if !isTerminal(a.stderr) {
		return &progress{}
	}
	return &progress{progressbar.NewOptions64(-1, progressbar.OptionSetWriter(a.stderr), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())}
}

func (p *progress) describe(text string) {
	if p.bar != nil {
		p.bar.Describe(text)
	}
}

func (p *progress) add(records int) {
	if p.bar != nil {
		_ = p.bar.Add(records) // a bar that cannot be drawn is no reason to stop
	}
}

func (p *progress) end() {
	if p.bar != nil {
		_ = errors.Join(p.bar.Exit(), p.bar.Clear())
	}
}
