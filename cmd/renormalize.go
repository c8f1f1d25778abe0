package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/handlers/normalize"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// renormalizing is what the flags of renormalize say.
type renormalizing struct {
	provider string
	reason   string
	promote  string
	output   string
	dryRun   bool
	rate     int
}

func newRenormalize(a *app) *cobra.Command {
	var r renormalizing
	c := &cobra.Command{
		Use:   "renormalize",
		Short: "Read stored answers again, and rebuild what follows",
		Long: `Read all stored answers of a provider, or of all, as this program and its
settings read them today, and compare the prices with those that were read at
first. Where they differ, build every read model again with the prices of today,
next to the live ones, and compare them. "promote" then has all of them serve at
once, and "rollback" those before.

Start the service with the corrected provider first, so that it reads new
answers right. If it is running, it builds; otherwise this command does. No
price of the log is changed. See docs/renormalize.md.`,
		Example: "  pricemill renormalize --provider finnhub --dry-run\n  pricemill renormalize --provider finnhub --reason 'times were in ms'\n  pricemill renormalize promote renormalization_abc12345",
		Args:    renormalizeArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.renormalize(c.Context(), schema.Provider(r.provider), r)
		},
	}
	choiceFlag(c, &r.promote, "promote", "", []string{string(projections.PromoteManual), string(projections.PromoteAuto)}, "when it goes live: ")
	c.Flags().StringVar(&r.provider, "provider", "", "only the answers of this `provider`")
	c.Flags().StringVar(&r.reason, "reason", "", "`why`, for people")
	c.Flags().BoolVar(&r.dryRun, "dry-run", false, "read and compare, and write nothing")
	c.Flags().IntVar(&r.rate, "rate", 0, "maximum `records` per second of each build; 0 for no limit")
	outputFlag(c, &r.output)
	c.AddCommand(newRenormalizeList(a),
		newRenormalizeChange(a, "show", "Show a renormalization", nil),
		newRenormalizeChange(a, "promote", "Have what a renormalization built serve, all at once", projections.PromoteRenormalization),
		newRenormalizeChange(a, "rollback", "Have that serve again which served before, all at once", projections.RollBackRenormalization),
		newRenormalizeChange(a, "cancel", "Cancel a renormalization and drop its tables", projections.CancelRenormalization))
	return c
}

// renormalizeArgs takes a word for a misspelt subcommand.
func renormalizeArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownSubcommand(c, args[0])
	}
	return nil
}

// errRenormalize says that a renormalization did not come to what was asked for.
var errRenormalize = errors.New("the renormalization is not what was asked for")

func (a *app) renormalize(ctx context.Context, provider schema.Provider, r renormalizing) error {
	switch {
	case r.rate < 0:
		return fmt.Errorf("%w: --rate must not be negative", errUsage)
	case r.reason == "" && !r.dryRun:
		return fmt.Errorf("%w: --reason is needed: it is kept with the renormalization", errUsage)
	case len(r.reason) > schema.MaxReason:
		return fmt.Errorf("%w: --reason: more than %d bytes", errUsage, schema.MaxReason)
	}
	return a.withModules(ctx, func(ctx context.Context, b *backends, m *modules, logger *slog.Logger) error {
		if _, known := m.provider(provider); provider != "" && !known {
			known := m.known.names()
			return fmt.Errorf("%w: there is no provider %q in this binary and its settings; %s", errUsage, provider, names.Hint(string(provider), known))
		}
		topics, err := b.lookup(ctx)
		if err != nil {
			return err
		}
		w := renormalization{b: b, m: m, topics: topics, log: logger, provider: provider}
		if r.dryRun {
			return a.renormalizeDry(ctx, w, r)
		}
		id, err := w.start(ctx, r)
		if err != nil {
			return err
		}
		return a.finishRenormalization(ctx, w, id, r)
	})
}

// finishRenormalization waits for the builds, and promotes them where that was asked for.
func (a *app) finishRenormalization(ctx context.Context, w renormalization, id string, r renormalizing) error {
	n, err := projections.GetRenormalization(ctx, w.b.store, id)
	if err != nil {
		return err
	}
	rebuilder := w.m.rebuilder(w.b, w.topics, w.log)
	rebuilder.Beside, rebuilder.Alone = !w.b.alone, w.b.alone
	for _, part := range n.Rebuilds {
		if err := (following{app: a, backends: w.b, rebuilder: rebuilder, quiet: true}).follow(ctx, part.ID); err != nil {
			return fmt.Errorf("renormalization %s: %w", id, err)
		}
	}
	if r.promote == string(projections.PromoteAuto) && len(n.Rebuilds) > 0 {
		if err := projections.PromoteRenormalization(ctx, w.b.store, w.m.projections, id); err != nil {
			return fmt.Errorf("%w: it does not serve: %w", errRenormalize, err)
		}
	}
	if n, err = projections.GetRenormalization(ctx, w.b.store, id); err != nil {
		return err
	}
	return a.printRenormalization(r.output, n)
}

func (a *app) renormalizeDry(ctx context.Context, w renormalization, r renormalizing) error {
	n := projections.Renormalization{Provider: w.provider, State: "dry_run", Rebuilds: []projections.Rebuild{}}
	again, err := w.begin(ctx)
	if err != nil {
		return err
	}
	span, err := w.span(ctx, place{})
	if err != nil {
		return err
	}
	err = again.Read(ctx, span.Span, func(differences []normalize.Difference) error {
		for _, d := range differences {
			switch {
			case d.Is == nil:
				n.Withdrawn++
			case d.EventID == "":
				n.Added++
			default:
				n.Revised++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.Answers, n.Unread = again.Answers, again.Unread
	return a.printRenormalization(r.output, n)
}

func newRenormalizeList(a *app) *cobra.Command {
	var output string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "List renormalizations, newest first",
		Example: "  pricemill renormalize list\n  pricemill renormalize list -o json",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				all, err := projections.Renormalizations(ctx, b.store, limit)
				if err != nil {
					return err
				}
				return a.print(output, append([]projections.Renormalization{}, all...), func(w io.Writer) { renormalizationTable(w, all...) })
			})
		},
	}
	outputFlag(c, &output)
	c.Flags().IntVar(&limit, "limit", 20, "maximum number of `renormalizations`")
	return c
}

func renormalizationTable(w io.Writer, all ...projections.Renormalization) {
	fmt.Fprintln(w, "RENORMALIZATION\tPROVIDER\tSTATE\tANSWERS\tUNREAD\tREVISED\tWITHDRAWN\tADDED\tREASON\tERROR")
	for _, n := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", orDash(n.ID), orDash(string(n.Provider)), n.State, n.Answers, n.Unread, n.Revised, n.Withdrawn, n.Added, orDash(n.Reason), n.Error)
	}
}

// printRenormalization prints one renormalization with what its builds came to.
func (a *app) printRenormalization(output string, n projections.Renormalization) error {
	return a.print(output, n, func(w io.Writer) {
		renormalizationTable(w, n)
		if len(n.Rebuilds) == 0 {
			return
		}
		fmt.Fprintln(w, "\nPROJECTION\tREBUILD\tSTATE\tDIFFERENCES\tUNEXPLAINED")
		for _, r := range n.Rebuilds {
			found, unexplained := int64(0), int64(0)
			if r.Proof != nil {
				found = r.Proof.Found
				for _, t := range r.Proof.Tables {
					unexplained += t.Unexplained
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", r.Projection, r.ID, r.State, found, unexplained)
		}
	})
}

func newRenormalizeChange(a *app, action, short string,
	change func(context.Context, *store.Store, []pipeline.Projection, string) error) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     action + " RENORMALIZATION",
		Short:   short,
		Example: "  pricemill renormalize " + action + " renormalization_abc12345",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withModules(c.Context(), func(ctx context.Context, b *backends, m *modules, _ *slog.Logger) error {
				if change != nil {
					if err := change(ctx, b.store, m.projections, args[0]); err != nil {
						return err
					}
				}
				n, err := projections.GetRenormalization(ctx, b.store, args[0])
				if err != nil {
					return err
				}
				return a.printRenormalization(output, n)
			})
		},
	}
	outputFlag(c, &output)
	return c
}
