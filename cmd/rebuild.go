package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/projections"
)

// rebuilding is what the flags of rebuild say.
type rebuilding struct {
	promote    string
	skipPoison bool
	rate       int
}

// promotions are the values of --promote.
var promotions = []string{string(projections.PromoteManual), string(projections.PromoteIfEqual), string(projections.PromoteAuto)}

func newRebuild(a *app) *cobra.Command {
	var r rebuilding
	c := &cobra.Command{
		Use:   "rebuild PROJECTION",
		Short: "Rebuild a read model from the log, and swap it with the live one",
		Long: `Rebuild the tables of a projection from the log next to the live ones, compare
the two row by row, and swap them in one transaction, automatically or on
command. Readers see either the old or the new tables.

If a service is running, it does the work; otherwise this command does. Progress
is a bar on a terminal, and JSON lines elsewhere. Interrupting the command does
not cancel a rebuild that a service works on; one that this command works on is
continued by the next process that can. "pricemill rebuild cancel" cancels it.

The exit status is 1 if the rebuild failed, or should have been promoted and was
not. See docs/replay.md.`,
		Example: "  pricemill rebuild moving-averages --promote if-equal\n  pricemill rebuild list",
		Args:    rebuildArgs,
		RunE: func(c *cobra.Command, args []string) error {
			return a.rebuild(c.Context(), args[0], r)
		},
	}
	choiceFlag(c, &r.promote, "promote", "", promotions, "when it goes live: ")
	c.Flags().BoolVar(&r.skipPoison, "skip-poison", false, "skip records that cannot be applied")
	c.Flags().IntVar(&r.rate, "rate", 0, "maximum `records` per second; 0 for no limit")
	c.AddCommand(newRebuildList(a), newRebuildShow(a),
		newRebuildSwap(a, "promote", "Have a rebuild serve", rebuilds.Promote),
		newRebuildSwap(a, "rollback", "Have that serve again which a rebuild took the place of", rebuilds.RollBack),
		newRebuildCancel(a))
	return c
}

// rebuildArgs wants the name of a projection, and takes a word that is none for a
// misspelt projection or subcommand.
func rebuildArgs(c *cobra.Command, args []string) error {
	if err := exactArgs(1)(c, args); err != nil {
		return err
	}
	if known := projectionNames(); !slices.Contains(known, args[0]) {
		return unknownSubcommand(c, args[0], known...)
	}
	return nil
}

// errRebuild says that a rebuild did not come to what was asked for.
var errRebuild = errors.New("the rebuild is not what was asked for")

func (a *app) rebuild(ctx context.Context, name string, r rebuilding) error {
	order := projections.Order{Promote: projections.Promotion(r.promote), SkipPoison: r.skipPoison, RateLimit: r.rate}
	if r.rate < 0 {
		return fmt.Errorf("%w: --rate must not be negative", errUsage)
	}
	return a.withModules(ctx, func(ctx context.Context, b *backends, m *modules, log *slog.Logger) error {
		p, err := m.projection(name)
		if err != nil {
			return err
		}
		topics, err := b.lookup(ctx)
		if err != nil {
			return err
		}
		started, err := projections.NewRebuild(ctx, b.store, p, order)
		if err != nil {
			return err
		}
		rebuilder := m.rebuilder(b, topics, log)
		rebuilder.Beside, rebuilder.Alone = !b.alone, b.alone
		f := following{app: a, backends: b, rebuilder: rebuilder}
		return f.follow(ctx, started.ID)
	})
}

// withModules opens the backends, next to a service if there is one, and makes the
// modules: those that are switched on, and those that the installation runs.
func (a *app) withModules(ctx context.Context, f func(ctx context.Context, b *backends, m *modules, log *slog.Logger) error) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	cfg.Roles = roles{Handlers: true, Projections: true}
	log := a.loggerAt(cfg, slog.LevelWarn)
	if _, err := build(cfg, log); err != nil {
		return err // before anything is opened
	}
	return a.withBackendsOf(ctx, cfg, joining, func(ctx context.Context, b *backends) error {
		there, err := installed(ctx, b.store)
		if err != nil {
			return err
		}
		m, err := build(cfg.switchedOn(there), log)
		if err != nil {
			return err
		}
		return f(ctx, b, m, log)
	})
}

// following shows a rebuild until it has come to its end, and works on it where
// no one else does.
type following struct {
	app       *app
	backends  *backends
	rebuilder *projections.Rebuilder
	// quiet has no more shown than a bar on a terminal.
	quiet bool
}

const (
	followPoll = 200 * time.Millisecond
	// othersTurn is how long a service may take to begin with a rebuild.
	othersTurn = 3 * time.Second
)

func (f following) follow(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shown := f.app.newShown()
	shown.quiet = f.quiet
	defer shown.end()
	worked := make(chan error, 1)
	working := false
	running, err := engine.RunningStages(ctx, f.backends.store)
	if err != nil {
		return err
	}
	alone := f.backends.alone || len(running) == 0 // no service works on it
	idle := time.Now()
	for {
		r, err := projections.GetRebuild(ctx, f.backends.store, id)
		if err != nil {
			return err
		}
		shown.show(r)
		if r.Settled() {
			if working {
				err = <-worked
			}
			return errors.Join(err, outcome(r))
		}
		if r.Working {
			idle = time.Now()
		}
		if !working && (alone || time.Since(idle) > othersTurn) {
			working = true
			go func() { worked <- f.work(ctx, id) }()
		}
		select {
		case err := <-worked:
			if working = false; err != nil {
				return err
			}
			idle = time.Now() // it has ended, or someone else has begun
		case <-ctx.Done():
			if working {
				<-worked //nolint:errcheck // it ends because the context has
			}
			return ctx.Err()
		case <-time.After(followPoll):
		}
	}
}

func (f following) work(ctx context.Context, id string) error {
	_, err := f.rebuilder.Work(ctx, id)
	return err
}

// outcome is an error where a rebuild did not come to what was asked for.
func outcome(r projections.Rebuild) error {
	switch {
	case r.State == projections.RebuildFailed, r.State == projections.RebuildCancelled:
		return fmt.Errorf("%w: it is %s: %s", errRebuild, r.State, r.Error)
	case r.State == projections.RebuildReady && r.Promote != projections.PromoteManual:
		return fmt.Errorf("%w: it does not serve, since the proof found %d differences and %d limits: see pricemill rebuild show %s",
			errRebuild, r.Proof.Found, len(r.Proof.Limits), r.ID)
	}
	return nil
}

// shown shows a rebuild again and again.
type shown struct {
	app   *app
	bar   *progressbar.ProgressBar // nil where there is no terminal
	quiet bool
	// said is what the last line said, and when.
	said projections.Rebuild
	at   time.Time
}

// barWidth leaves room for a line of 80 columns: one that wraps is drawn below itself
// again and again.
const barWidth = 12

func (a *app) newShown() *shown {
	s := &shown{app: a}
	if isTerminal(a.stderr) {
		s.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(a.stderr), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("records"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(barWidth), progressbar.OptionClearOnFinish())
	}
	return s
}

func (s *shown) show(r projections.Rebuild) {
	if s.bar != nil {
		s.bar.Describe(string(r.State))
		if r.Total > 0 && s.bar.GetMax64() != r.Total {
			s.bar.ChangeMax64(r.Total)
		}
		_ = s.bar.Set64(r.Done) // a bar that cannot be drawn is no reason to stop
	}
	if s.quiet {
		return
	}
	if isTerminal(s.app.stdout) {
		if r.Settled() {
			s.end()
			_ = s.app.printRebuild(tableOutput, r) // as below
		}
		return
	}
	if changed := r.State != s.said.State || r.Settled(); changed || r.Done != s.said.Done && time.Since(s.at) >= time.Second {
		s.said, s.at = r, time.Now()
		_ = json.NewEncoder(s.app.stdout).Encode(r) // anyone who reads it may have gone
	}
}

func (s *shown) end() {
	if s.bar != nil {
		_ = errors.Join(s.bar.Exit(), s.bar.Clear())
		s.bar = nil
	}
}

func newRebuildList(a *app) *cobra.Command {
	var output string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "List rebuilds, newest first",
		Example: "  pricemill rebuild list\n  pricemill rebuild list -o json",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				all, err := projections.Rebuilds(ctx, b.store, limit)
				if err != nil {
					return err
				}
				return a.print(output, append([]projections.Rebuild{}, all...), func(w io.Writer) { rebuildTable(w, all...) })
			})
		},
	}
	outputFlag(c, &output)
	c.Flags().IntVar(&limit, "limit", 20, "maximum number of `rebuilds`")
	return c
}

func rebuildTable(w io.Writer, all ...projections.Rebuild) {
	fmt.Fprintln(w, "REBUILD\tPROJECTION\tGENERATION\tSTATE\tPROMOTE\tDONE\tTOTAL\tRATE\tDIFFERENCES\tERROR")
	for _, r := range all {
		differences := ""
		if r.Proof != nil {
			differences = strconv.FormatInt(r.Proof.Found, 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", r.ID, r.Projection, r.Generation, r.State, r.Promote, r.Done, r.Total, r.Rate,
			differences, r.Error)
	}
}

// printRebuild prints one rebuild with its proof.
func (a *app) printRebuild(output string, r projections.Rebuild) error {
	if err := a.print(output, r, func(w io.Writer) { rebuildTable(w, r) }); err != nil || output != tableOutput || r.Proof == nil {
		return err
	}
	return a.print(output, r, func(w io.Writer) {
		fmt.Fprintln(w, "\nTABLE\tROWS\tBY THE LOG\tMISSING\tEXTRA\tDIFFERING\tLARGEST DIFFERENCE\tHASH BY THE LOG")
		for _, t := range r.Proof.Tables {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", t.Table, t.Rows, t.Fresh, t.Missing, t.Extra, t.Differing, t.Largest, t.FreshHash)
		}
		for _, text := range slices.Concat(r.Proof.Differences, r.Proof.Unproven, r.Proof.Limits) {
			fmt.Fprintln(w, "  "+text)
		}
		if more := r.Proof.Found - int64(len(r.Proof.Differences)); more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
	})
}

func newRebuildShow(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "show REBUILD",
		Short:   "Show a rebuild and the result of its comparison",
		Example: "  pricemill rebuild show rebuild_abc12345",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				r, err := projections.GetRebuild(ctx, b.store, args[0])
				if err != nil {
					return err
				}
				return a.printRebuild(output, r)
			})
		},
	}
	outputFlag(c, &output)
	return c
}

func newRebuildSwap(a *app, action, short string,
	swap func(rebuilds, context.Context, string, bool) (projections.Rebuild, error)) *cobra.Command {
	var output string
	var stale bool
	c := &cobra.Command{
		Use:   action + " REBUILD",
		Short: short,
		Long: short + `, in one
transaction. What served continues following the log, so that it can be swapped
again.`,
		Example: "  pricemill rebuild " + action + " rebuild_abc12345",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withModules(c.Context(), func(ctx context.Context, b *backends, m *modules, _ *slog.Logger) error {
				r, err := swap(rebuilds{b.store, m.projections}, ctx, args[0], stale)
				if err != nil {
					return err
				}
				return a.printRebuild(output, r)
			})
		},
	}
	outputFlag(c, &output)
	c.Flags().BoolVar(&stale, "stale", false, "even if it lacks records, because no process updates it")
	return c
}

func newRebuildCancel(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "cancel REBUILD",
		Short:   "Cancel a rebuild and drop its tables",
		Example: "  pricemill rebuild cancel rebuild_abc12345",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withModules(c.Context(), func(ctx context.Context, b *backends, m *modules, _ *slog.Logger) error {
				r, err := rebuilds{b.store, m.projections}.Cancel(ctx, args[0])
				if err != nil {
					return err
				}
				return a.printRebuild(output, r)
			})
		},
	}
	outputFlag(c, &output)
	return c
}

func newGenerations(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "generations",
		Short: "List generations of read models, and drop those that are not live",
	}
	var output string
	list := &cobra.Command{
		Use:     "list",
		Short:   "List generations: which are live, which follow the log, their lag",
		Example: "  pricemill generations list",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				all, err := projections.Generations(ctx, b.store)
				if err != nil {
					return err
				}
				return a.print(output, append([]projections.GenerationInfo{}, all...), func(w io.Writer) {
					fmt.Fprintln(w, "PROJECTION\tGENERATION\tSERVES\tFOLLOWS\tLACKS\tFOLD\tCREATED")
					for _, g := range all {
						fmt.Fprintf(w, "%s\t%d\t%t\t%t\t%d\t%s\t%s\n", g.Projection, g.Number, g.Serves, g.Follows, g.Lacks, g.Fold, toSecond(&g.CreatedAt))
					}
				})
			})
		},
	}
	outputFlag(list, &output)
	drop := &cobra.Command{
		Use:     "drop PROJECTION GENERATION",
		Short:   "Drop a generation that is not live",
		Example: "  pricemill generations drop moving-averages 1",
		Args:    exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			number, err := strconv.Atoi(args[1])
			if err != nil {
				return fmt.Errorf("%w: generation %q is not a number", errUsage, args[1])
			}
			return a.withModules(c.Context(), func(ctx context.Context, b *backends, m *modules, _ *slog.Logger) error {
				p, err := m.projection(args[0])
				if err != nil {
					return err
				}
				return projections.DropGeneration(ctx, b.store, p, number)
			})
		},
	}
	parent.AddCommand(list, drop)
	return parent
}
