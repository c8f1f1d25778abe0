package cmd

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/operator"
)

func newStages(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "stages",
		Short: "List stages with position and lag, and resume halted ones",
	}
	var output string
	list := &cobra.Command{
		Use:     "list",
		Short:   "List positions and lag of each stage, and why it halted",
		Example: "  pricemill stages list\n  pricemill stages list -o json",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				statuses, err := operator.Status(ctx, b.store, b.broker)
				if err != nil {
					return err
				}
				return a.print(output, statuses, func(w io.Writer) {
					fmt.Fprintln(w, "STAGE\tTOPIC\tPARTITION\tPOSITION\tEND\tLAG\tHALTED")
					for _, s := range statuses {
						fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Stage, s.Topic, s.Partition, s.Position, s.End, s.Lag, s.Halted)
					}
				})
			})
		},
	}
	outputFlag(list, &output)
	parent.AddCommand(list, newResume(a), newSkip(a), newReset(a))
	return parent
}

// The formats of -o that most commands have.
const (
	tableOutput = "table"
	jsonOutput  = "json"
)

// outputFlag gives a command -o, with more formats than table and json if any are named.
func outputFlag(c *cobra.Command, output *string, more ...string) {
	choiceFlag(c, output, "output", "o", append([]string{tableOutput, jsonOutput}, more...), "")
}

// withBackends opens the backends next to a running service, if there is one.
func (a *app) withBackends(ctx context.Context, f func(context.Context, *backends) error) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	return a.withBackendsOf(ctx, c, reading, f)
}

// withBackendsOf is withBackends by a configuration that is loaded already.
func (a *app) withBackendsOf(ctx context.Context, c config, how access, f func(context.Context, *backends) error) error {
	b, err := open(ctx, c, how, a.logger(c))
	if err != nil {
		return err
	}
	err = f(ctx, b)
	if closeErr := b.close(); err == nil {
		err = closeErr
	}
	return err
}
