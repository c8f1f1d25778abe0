package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
)

func newDeadLetters(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "dead-letters",
		Short: "List, retry and discard records that a stage could not apply",
	}
	parent.AddCommand(newDeadLettersList(a), newDeadLettersShow(a), newDeadLettersRetry(a), newDeadLettersDiscard(a))
	return parent
}

func newDeadLettersList(a *app) *cobra.Command {
	var output, stage string
	var limit int
	list := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, newest first",
		Long: `List dead letters, newest first. The table has the first
line of each reason; show, and -o json, have the whole.`,
		Example: "  pricemill dead-letters list --stage normalize --limit 20",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				if err := knownStage(ctx, b.store, stage); err != nil {
					return err
				}
				letters, err := store.DeadLetters(ctx, b.store, stage, limit)
				if err != nil {
					return err
				}
				return a.print(output, letters, func(w io.Writer) {
					fmt.Fprintln(w, "ID\tSTAGE\tTOPIC\tPARTITION\tOFFSET\tBYTES\tREASON")
					for _, l := range letters {
						reason := engine.FirstLine(l.Reason)
						if l.Retrying {
							reason = "(being retried) " + reason
						}
						fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%s\n", l.ID, l.Stage, l.Topic, l.Part, l.Offset, l.Bytes, reason)
					}
				})
			})
		},
	}
	outputFlag(list, &output)
	list.Flags().IntVar(&limit, "limit", 100, "maximum number of `letters`")
	list.Flags().StringVar(&stage, "stage", "", "only those of this stage")
	return list
}

// knownStage refuses the name of a stage that never ran here: there is nothing of it,
// and to say only that would hide a misspelling. "" is all stages.
func knownStage(ctx context.Context, q store.Querier, stage string) error {
	if stage == "" {
		return nil
	}
	positions, err := store.Positions(ctx, q, stage)
	if err == nil && len(positions) == 0 {
		err = fmt.Errorf("%w: --stage: no stage %q has run here: see pricemill stages list", errUsage, stage)
	}
	return err
}

func newDeadLettersShow(a *app) *cobra.Command {
	var output string
	show := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a dead letter with all the bytes of its record",
		Example: "  pricemill dead-letters show 17\n  pricemill dead-letters show 17 -o json | jq -r .value | base64 -d",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := letterID(args[0])
			if err != nil {
				return err
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				letter, err := readDeadLetter(ctx, b.store, id)
				if err != nil {
					return noSuchLetter(id, err)
				}
				return a.print(output, letter, func(w io.Writer) { writeDeadLetter(w, letter) })
			})
		},
	}
	outputFlag(show, &output)
	return show
}

func letterID(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, fmt.Errorf("%w: %q is not the number of a dead letter", errUsage, text)
	}
	return id, nil
}

// noSuchLetter says where to look, if err is that there is none.
func noSuchLetter(id int64, err error) error {
	if errors.Is(err, store.ErrNoDeadLetter) {
		return fmt.Errorf("there is no dead letter %d: see pricemill dead-letters list", id)
	}
	return err
}

func readDeadLetter(ctx context.Context, q store.Querier, id int64) (httpapi.DeadLetter, error) {
	l, err := store.ReadDeadLetter(ctx, q, id)
	if err != nil {
		return httpapi.DeadLetter{}, err
	}
	headers, err := store.DecodeHeaders(l.Headers)
	if err != nil {
		return httpapi.DeadLetter{}, fmt.Errorf("reading dead letter %d: %w", id, err)
	}
	letter := httpapi.DeadLetter{ID: l.ID, Stage: l.Stage, Topic: l.Topic, TopicID: l.TopicID, Partition: l.Part, Offset: l.Offset,
		Reason: l.Reason, CreatedAt: l.CreatedAt, Retrying: l.Retry != "", DiscardedAt: l.DiscardedAt,
		Key: l.Key, Headers: []httpapi.DeadLetterHeader{}, Value: l.Payload}
	for _, h := range headers {
		letter.Headers = append(letter.Headers, httpapi.DeadLetterHeader(h))
	}
	return letter, nil
}

// writeDeadLetter quotes bytes: a terminal should not obey them.
func writeDeadLetter(w io.Writer, l httpapi.DeadLetter) {
	fmt.Fprintf(w, "record\toffset %d of %s/%d (%s)\n", l.Offset, l.Topic, l.Partition, l.TopicID)
	fmt.Fprintf(w, "stage\t%s, at %s\n", l.Stage, l.CreatedAt.Text())
	switch {
	case l.DiscardedAt != nil:
		fmt.Fprintf(w, "state\tdiscarded at %s\n", l.DiscardedAt.Text())
	case l.Retrying:
		fmt.Fprintln(w, "state\tbeing retried")
	}
	fmt.Fprintf(w, "reason\t%q\nkey\t%s\n", l.Reason, quoted(l.Key))
	for _, h := range l.Headers {
		fmt.Fprintf(w, "header %q\t%s\n", h.Key, quoted(h.Value))
	}
	fmt.Fprintf(w, "value\t%s\n", quoted(l.Value))
}

func quoted(bytes []byte) string {
	if bytes == nil {
		return "null"
	}
	return strconv.Quote(string(bytes))
}

// letterChoice is which dead letters a command is for.
type letterChoice struct {
	stage    string
	all, yes bool
	output   string
}

func (l *letterChoice) flags(c *cobra.Command) {
	c.Flags().StringVar(&l.stage, "stage", "", "all dead letters of this stage")
	c.Flags().BoolVar(&l.all, "all", false, "all dead letters of all stages")
	c.Flags().BoolVar(&l.yes, "yes", false, "do it; without it they are only counted")
	outputFlag(c, &l.output)
}

// read is what the arguments and flags choose.
func (l *letterChoice) read(args []string) (store.Letters, error) {
	ways := len(args)
	if l.stage != "" {
		ways++
	}
	if l.all {
		ways++
	}
	if ways != 1 {
		return store.Letters{}, fmt.Errorf("%w: name one dead letter by its ID, or --stage STAGE, or --all", errUsage)
	}
	if len(args) == 0 {
		return store.Letters{Stage: l.stage}, nil
	}
	id, err := letterID(args[0])
	return store.Letters{ID: id}, err
}

// count shows how many letters are chosen, and returns errDeclined without --yes.
func (l *letterChoice) count(ctx context.Context, a *app, db *store.Store, which store.Letters) error {
	if err := knownStage(ctx, db, which.Stage); err != nil {
		return err
	}
	if l.yes {
		return nil
	}
	counts, err := store.CountLetters(ctx, db, which)
	if err != nil {
		return err
	}
	if len(counts) == 0 && which.ID != 0 {
		return noSuchLetter(which.ID, store.ErrNoDeadLetter)
	}
	err = a.print(l.output, counts, func(w io.Writer) {
		fmt.Fprintln(w, "STAGE\tDEAD LETTERS\tBEING RETRIED")
		for _, c := range counts {
			fmt.Fprintf(w, "%s\t%d\t%d\n", c.Stage, c.Letters, c.Retrying)
		}
	})
	if err != nil || len(counts) == 0 {
		return err
	}
	return fmt.Errorf("%w: --yes does it", errDeclined)
}

func newDeadLettersRetry(a *app) *cobra.Command {
	var choice letterChoice
	var wait time.Duration
	retry := &cobra.Command{
		Use:   "retry [ID]",
		Short: "Retry dead letters",
		Long: `Apply records again, from the bytes that were kept, to the stage that could not
apply them. The process that runs the stage does the work; this command requests
it and waits for the result. A retried record has the effects that it would have
had at first, once, no matter how often it is retried. A record that fails again
stays a dead letter, with the new reason.

Projections that depend on the order of the log refuse a retry; "pricemill
rebuild" takes such records in their place.

Without --yes the dead letters are only counted. The exit status is 0 if all
were applied.`,
		Example: "  pricemill dead-letters retry 17 --yes\n  pricemill dead-letters retry --stage normalize",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			which, err := choice.read(args)
			if err != nil {
				return err
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				if err := choice.count(ctx, a, b.store, which); err != nil || !choice.yes {
					return err
				}
				return a.retryLetters(ctx, b.store, which, wait, choice.output)
			})
		},
	}
	choice.flags(retry)
	retry.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the result")
	return retry
}

// retryLetters orders a retry, and reports its outcome.
func (a *app) retryLetters(ctx context.Context, db *store.Store, which store.Letters, wait time.Duration, output string) error {
	order, err := db.OrderRetry(ctx, which)
	if err != nil {
		return noSuchLetter(which.ID, err)
	}
	if order, err = engine.AwaitRetry(ctx, db, order.ID, wait); err != nil {
		return err
	}
	err = a.print(output, order, func(w io.Writer) {
		fmt.Fprintln(w, "APPLIED\tFAILED\tREFUSED\tPENDING\tWITHDRAWN")
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\n", order.Applied, order.Failed, order.Refused, order.Pending, order.Withdrawn)
	})
	switch {
	case err != nil:
		return err
	case order.Failed+order.Refused > 0:
		return fmt.Errorf("%d of %d dead letters were not applied, the last one because: %s", order.Letters-order.Applied, order.Letters,
			engine.FirstLine(order.Reason))
	case order.Pending > 0:
		return fmt.Errorf("%d of %d dead letters are still to be retried: the process that runs their stage does it as soon as it can; does it run?",
			order.Pending, order.Letters)
	case order.Withdrawn > 0:
		return fmt.Errorf("%d of %d dead letters were discarded meanwhile, or their stage began again", order.Withdrawn, order.Letters)
	}
	return nil
}

// discarded is what discard prints.
type discarded struct {
	Discarded int64 `json:"discarded"`
}

func newDeadLettersDiscard(a *app) *cobra.Command {
	var choice letterChoice
	discard := &cobra.Command{
		Use:   "discard [ID]",
		Short: "Discard dead letters",
		Long: `Discard dead letters: they are no longer listed, warned about or retried with
others. Their bytes are kept, because pricemill verify must know why they have
no effects; show and retry still find them by ID.

Without --yes the dead letters are only counted.`,
		Example: "  pricemill dead-letters discard 17 --yes\n  pricemill dead-letters discard --stage price-alerts",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			which, err := choice.read(args)
			if err != nil {
				return err
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				if err := choice.count(ctx, a, b.store, which); err != nil || !choice.yes {
					return err
				}
				n, err := b.store.Discard(ctx, which)
				if err != nil {
					return noSuchLetter(which.ID, err)
				}
				return a.print(choice.output, discarded{n}, func(w io.Writer) { fmt.Fprintf(w, "%d discarded\n", n) })
			})
		},
	}
	choice.flags(discard)
	return discard
}
