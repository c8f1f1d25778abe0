package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi"
)

// backfillPoll is how often the command looks how far a backfill is.
const backfillPoll = 200 * time.Millisecond

// errBackfill says that a backfill has ended without all prices.
var errBackfill = errors.New("the backfill did not complete")

func newBackfill(a *app) *cobra.Command {
	var body struct {
		Provider string `json:"provider"`
		Symbol   string `json:"symbol"`
		From     string `json:"from"`
		To       string `json:"to"`
	}
	var detach bool
	c := &cobra.Command{
		Use:   "backfill PROVIDER SYMBOL",
		Short: "Fetch a provider's prices of the past",
		Long: `Have the running service fetch the prices that a provider has of a symbol and a
span of time, through the provider's history, within its limits. What is stored
already, from a stream, a file or another backfill, stays one price.

The command follows the backfill, and ends with status 0 when it is completed
and its prices are applied. Interrupting the command does not stop the backfill:
"pricemill backfill follow" follows it again, and "pricemill backfill stop"
stops it. A service that is killed or restarted continues where it was. See
docs/backfill.md.`,
		Example: `  pricemill backfill coinbase BTC-USD --from 2025-06-15 --to 2025-06-16
  pricemill backfill coinbase BTC-USD --from 2025-06-01 --to 2025-06-15 --detach
  pricemill backfill list`,
		Args: backfillArgs,
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&body.From, "from", "", "earliest event `time`, RFC 3339 or a date (00:00 UTC)")
	c.Flags().StringVar(&body.To, "to", "", "latest event `time`, in the past: RFC 3339 or a date (00:00 UTC)")
	c.Flags().BoolVar(&detach, "detach", false, "end when the service has accepted the backfill")
	c.RunE = func(c *cobra.Command, args []string) error {
		if body.From == "" || body.To == "" {
			return fmt.Errorf("%w: --from and --to are needed", errUsage)
		}
		body.Provider, body.Symbol, body.From, body.To = args[0], args[1], dated(body.From), dated(body.To)
		if detach {
			return show(c.Context(), cl, http.MethodPost, ofBackfills.path, body, nil, func(w io.Writer, started backfillLine) {
				fmt.Fprintf(w, "BACKFILL ID\tSTATUS\n%s\t%s\n", started.BackfillID, started.Status)
			})
		}
		var started backfillLine
		if err := cl.do(c.Context(), http.MethodPost, ofBackfills.path, body, nil, &started); err != nil {
			return err
		}
		return followBackfill(c.Context(), cl, started.BackfillID)
	}
	c.AddCommand(newBackfillShow(a), newBackfillFollow(a),
		ofBackfills.newList(a, "List backfills, newest first",
			"backfill_id", "status", "applied", "provider", "symbol", "calls", "prices", "repeated", "reached_at"),
		ofBackfills.newCommand(a, http.MethodDelete, "stop", "", "Stop a backfill; what it has fetched stays"))
	return c
}

// backfillArgs wants a provider and a symbol, and takes a single word for a misspelt
// subcommand.
func backfillArgs(c *cobra.Command, args []string) error {
	if len(args) == 1 {
		return unknownSubcommand(c, args[0])
	}
	return exactArgs(2)(c, args)
}

// backfillLine is what a command about a backfill is answered.
type backfillLine struct {
	BackfillID string `json:"backfill_id"`
	Status     string
}

// errInterrupted says that the command has ended before the backfill.
var errInterrupted = errors.New("interrupted")

// followBackfill shows how far a backfill is until it has ended and its prices are applied. If
// it is interrupted, it says that the service continues.
func followBackfill(ctx context.Context, cl *client, id string) error {
	err := watchBackfill(ctx, cl, id)
	if ctx.Err() == nil {
		return err
	}
	if isTerminal(cl.app.stderr) {
		fmt.Fprintln(cl.app.stderr) // after the line that says how far it is
	}
	return fmt.Errorf(`%w
The backfill continues in the service. To follow it again, or to stop it:
  pricemill backfill follow %s
  pricemill backfill stop %[2]s`, errInterrupted, id)
}

func watchBackfill(ctx context.Context, cl *client, id string) error {
	path := ofBackfills.one(id)
	shown := isTerminal(cl.app.stderr)
	for {
		var raw json.RawMessage
		if err := cl.do(ctx, http.MethodGet, path, nil, nil, &raw); err != nil {
			return fmt.Errorf("following backfill %s: %w", id, err)
		}
		var b httpapi.Backfill
		if err := json.Unmarshal(raw, &b); err != nil {
			return errors.Join(errors.New("the answer is not what this version reads"), err)
		}
		if shown {
			fmt.Fprintf(cl.app.stderr, "\r\x1b[K%s", progressOf(b))
		}
		if b.EndedAt != nil && (b.Applied || b.Status != "completed") {
			if shown {
				fmt.Fprint(cl.app.stderr, "\r\x1b[K")
			}
			if err := cl.app.print(cl.output, raw, func(w io.Writer) { printBackfill(w, b) }); err != nil {
				return err
			}
			return outcomeOf(b)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backfillPoll):
		}
	}
}

// outcomeOf is nil for a backfill that is completed.
func outcomeOf(b httpapi.Backfill) error {
	switch {
	case b.Status == "completed":
		return nil
	case b.LastError != nil:
		return fmt.Errorf("%w: %s is %s: %s", errBackfill, b.BackfillID, b.Status, b.LastError.Reason)
	}
	return fmt.Errorf("%w: %s is %s", errBackfill, b.BackfillID, b.Status)
}

// progressOf is one line about a backfill.
func progressOf(b httpapi.Backfill) string {
	line := fmt.Sprintf("%s %s: %d calls, %d prices, %d repeated", b.BackfillID, b.Status, b.Calls, b.Prices, b.Repeated)
	if b.ReachedAt != nil {
		line += ", reached " + b.ReachedAt.Format(time.RFC3339)
	}
	if b.Status == "failing" && b.LastError != nil {
		line += ": " + b.LastError.Reason
	}
	return line
}

func printBackfill(w io.Writer, b httpapi.Backfill) {
	fmt.Fprintln(w, "BACKFILL ID\tSTATUS\tAPPLIED\tPROVIDER\tSYMBOL\tCALLS\tPRICES\tREPEATED\tREACHED AT")
	reached := "-"
	if b.ReachedAt != nil {
		reached = b.ReachedAt.Text()
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", b.BackfillID, b.Status, cell(b.Applied), b.Provider, b.Symbol, b.Calls, b.Prices, b.Repeated, reached)
}

func newBackfillFollow(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "follow BACKFILL",
		Short:   "Show how far a backfill is until it ends",
		Long:    "Show how far a backfill is until it has ended and its prices are applied.\nThe exit status is 0 if it is completed.",
		Example: "  pricemill backfill follow " + ofBackfills.example,
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, args []string) error { return followBackfill(c.Context(), cl, args[0]) }
	return c
}

func newBackfillShow(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "show BACKFILL",
		Short:   "Show how far a backfill is",
		Example: "  pricemill backfill show backfill_abc12345",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return show(c.Context(), cl, http.MethodGet, ofBackfills.one(args[0]), nil, nil, func(w io.Writer, b httpapi.Backfill) {
			printBackfill(w, b)
			if b.LastError != nil {
				fmt.Fprintf(w, "\nlast error, %s: %s\n", b.LastError.Timestamp.Text(), b.LastError.Reason)
			}
		})
	}
	return c
}
