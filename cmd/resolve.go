package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
)

func newResume(a *app) *cobra.Command {
	return newResolve(a, halt.Resume, "Continue with the record a stage halted at",
		`Let halted stages continue with the record they halted at, as if nothing were
wrong: after partitions were added, after what was wrong has been put right, or
to apply what another database wrote as it is.`)
}

func newSkip(a *app) *cobra.Command {
	return newResolve(a, halt.Skip, "Continue after what a stage cannot have",
		`Let halted stages continue after what is missing from the log: deleted records,
a topic that was created again, a log that lost its end, a gap in the chain. Of
what another database wrote, or a later state of this one, what stages derived
is skipped, since they derive it again, and the rest is applied.`)
}

// newResolve is resume and skip.
func newResolve(a *app, action halt.Action, short, long string) *cobra.Command {
	var confirm confirmation
	c := &cobra.Command{
		Use:   string(action) + " [STAGE [TOPIC [PARTITION]]]",
		Short: short,
		Long: long + `

Without arguments it is for all halted stages. It says what is lost before it
asks, and does it for all partitions or for none.`,
		Example: fmt.Sprintf("  pricemill stages %s\n  pricemill stages %s raw-store raw-quotes 3 --yes", action, action),
		Args:    usageArgs(cobra.MaximumNArgs(3)),
		RunE: func(c *cobra.Command, args []string) error {
			wanted, err := positionFilter(args)
			if err != nil {
				return err
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				topics, err := b.lookup(ctx)
				if err != nil {
					return err
				}
				resolutions, err := settledResolutions(ctx, b, topics, action, wanted)
				if err != nil {
					return err
				}
				if len(resolutions) == 0 {
					fmt.Fprintln(a.stdout, "no stage has halted there")
					return nil
				}
				if err := a.confirm(c.InOrStdin(), confirm, resolutions); err != nil {
					return err
				}
				return operator.ApplyResolutions(ctx, b.store, resolutions)
			})
		},
	}
	confirm.flags(c)
	return c
}

// settling is how long a command waits for a relay that starts: its lease may be
// that of a process that was killed, for some seconds.
const settling = 10 * time.Second

// settledResolutions are the resolutions, once a relay has held the database against the log.
func settledResolutions(ctx context.Context, b *backends, topics *topics.Set, action halt.Action,
	wanted func(store.Position) bool) ([]operator.Resolution, error) {
	until := time.Now().Add(settling)
	for {
		resolutions, err := operator.PlanResolutions(ctx, b.store, b.broker, topics, action, wanted)
		if !errors.Is(err, operator.ErrUnsettled) {
			return resolutions, err
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("%w: start the service first, with the role relay", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func newReset(a *app) *cobra.Command {
	var confirm confirmation
	var to string
	c := &cobra.Command{
		Use:   "reset STAGE [TOPIC [PARTITION]] --to start|end|OFFSET",
		Short: "Move a stage's positions",
		Long: `Move a stage's positions forward, to the end of the log or to an offset: the
records in between are skipped. A stage cannot move back, because it would
publish its events again; but a projection can start over (--to start): its
tables are emptied and filled again from the log. Queries find less until it has
caught up.

The command says what is lost before it asks. The service may keep running.`,
		Example: "  pricemill stages reset normalize stored-quotes 3 --to 1200\n  pricemill stages reset moving-averages.g1 --to start --yes",
		Args:    usageArgs(cobra.RangeArgs(1, 3)),
		RunE: func(c *cobra.Command, args []string) error {
			wanted, err := positionFilter(args)
			if err != nil {
				return err
			}
			target, err := operator.ParseTarget(to)
			if err != nil {
				return fmt.Errorf("%w: --to: %w", errUsage, err)
			}
			if target == operator.ToStart && len(args) > 1 {
				return fmt.Errorf("%w: a projection starts over as a whole: name the stage alone", errUsage)
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			modules, err := build(cfg, a.logger(cfg))
			if err != nil {
				return err
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				return a.reset(ctx, c.InOrStdin(), b, modules, args[0], wanted, target, confirm)
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "start, end, or an offset")
	confirm.flags(c)
	return c
}

func (a *app) reset(ctx context.Context, stdin io.Reader, b *backends, m *modules, stage string,
	wanted func(store.Position) bool, target operator.Target, confirm confirmation) error {
	topics, err := b.lookup(ctx)
	if err != nil {
		return err
	}
	var also func(*store.Tx) error
	if target == operator.ToStart {
		fold, err := projections.OfStage(ctx, b.store, m.projections, stage)
		if err != nil {
			return err
		}
		also = func(tx *store.Tx) error { return fold.Empty(ctx, tx) }
	}
	resets, err := operator.Resets(ctx, b.store, b.broker, topics, wanted, target)
	if err != nil {
		return err
	}
	if len(resets) == 0 {
		return fmt.Errorf("%w: no such stage or partition: see pricemill stages list", errUsage)
	}
	if err := a.confirm(stdin, confirm, resets); err != nil {
		return err
	}
	return operator.Reset(ctx, b.store, resets, also)
}

// positionFilter reads [STAGE [TOPIC [PARTITION]]].
func positionFilter(args []string) (func(store.Position) bool, error) {
	want := append(args, make([]string, 3-len(args))...)
	if want[2] != "" {
		if _, err := strconv.ParseInt(want[2], 10, 32); err != nil {
			return nil, fmt.Errorf("%w: partition %q is not a number", errUsage, want[2])
		}
	}
	return func(p store.Position) bool {
		return (want[0] == "" || p.Stage == want[0]) && (want[1] == "" || p.Topic == want[1]) &&
			(want[2] == "" || strconv.Itoa(int(p.Part)) == want[2])
	}, nil
}

// confirmation is how a command that loses something is agreed to.
type confirmation struct {
	yes    bool
	output string
}

func (c *confirmation) flags(command *cobra.Command) {
	command.Flags().BoolVar(&c.yes, "yes", false, "do not ask")
	outputFlag(command, &c.output)
}

// errDeclined says that no one said yes.
var errDeclined = errors.New("nothing was changed")

// confirm shows what is lost, and asks.
func (a *app) confirm(stdin io.Reader, c confirmation, resolutions []operator.Resolution) error {
	err := a.print(c.output, resolutions, func(w io.Writer) {
		fmt.Fprintln(w, "STAGE\tTOPIC\tPARTITION\tLOSES")
		for _, l := range resolutions {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", l.Stage, l.Topic, l.Partition, l.Loses)
		}
	})
	if err != nil || c.yes {
		return err
	}
	fmt.Fprint(a.stderr, "Continue? [y/N] ")
	answer, err := bufio.NewReader(stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("%w: the answer was not yes; --yes says so beforehand", errDeclined)
}
