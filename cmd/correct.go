package cmd

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// correctionRequest is the body that corrects or retracts a price.
type correctionRequest struct {
	Symbol    string `json:"symbol"`
	Provider  string `json:"provider,omitempty"`
	Timestamp string `json:"timestamp"`
	FactID    string `json:"fact_id,omitempty"`
	Price     string `json:"price,omitempty"`
	Size      string `json:"size,omitempty"`
	Reason    string `json:"reason"`
}

func newCorrect(a *app) *cobra.Command {
	return newCorrection(a, "/corrections", &cobra.Command{
		Use:   "correct SYMBOL TIME --price PRICE --reason REASON",
		Short: "Correct a stored price",
		Long: `Correct the price of a symbol at an event time. Every read model then is as if
the right price had come at first. What came is kept, and so is why and when it
was corrected. Of several corrections of a price the last counts; one of a
price that was retracted brings it back.`,
		Example: `  pricemill correct AAPL 2025-06-15T14:30:00Z --price 185.57 --reason "a typo"`,
	})
}

func newRetract(a *app) *cobra.Command {
	return newCorrection(a, "/retractions", &cobra.Command{
		Use:   "retract SYMBOL TIME --reason REASON",
		Short: "Retract a stored price that never was one",
		Long: `Retract the price of a symbol at an event time. Every read model then is as if
the price had never come. What came is kept, and so is why and when it was
retracted. pricemill correct brings a retracted price back.`,
		Example: `  pricemill retract AAPL 2025-06-15T14:30:00Z --reason "a test"`,
	})
}

// newCorrection completes a command that corrects a price.
func newCorrection(a *app, path string, c *cobra.Command) *cobra.Command {
	var request correctionRequest
	var key string
	c.Args = exactArgs(2)
	cl := newClient(a, c)
	flags := c.Flags()
	if path == "/corrections" {
		flags.StringVar(&request.Price, "price", "", "the right price; of a bar, the right close")
		flags.StringVar(&request.Size, "size", "", "the right size of a trade (default: as it came)")
	}
	flags.StringVar(&request.Reason, "reason", "", "why, for people")
	flags.StringVar(&request.Provider, "provider", "", "provider of the price (default: the service's)")
	flags.StringVar(&request.FactID, "fact", "", "id of the event of the price, where several are of one time")
	flags.StringVar(&key, "idempotency-key", "", "key of this request: sending it again returns the same correction")
	c.RunE = func(c *cobra.Command, args []string) error {
		request.Symbol, request.Timestamp = args[0], dated(args[1])
		header := http.Header{}
		if key != "" {
			header.Set("Idempotency-Key", key)
		}
		var raw json.RawMessage
		position, err := cl.exchange(c.Context(), http.MethodPost, path, request, header, &raw)
		if err != nil {
			return err
		}
		var done correctionLine
		if err := json.Unmarshal(raw, &done); err != nil {
			return errors.Join(errors.New("the answer is not what this version reads"), err)
		}
		return cl.app.print(cl.output, raw, func(w io.Writer) {
			id := "-"
			if done.CorrectionID != nil {
				id = *done.CorrectionID
			}
			fmt.Fprintln(w, "CORRECTION\tSTATUS\tFACT\tLOG POSITION")
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", id, done.Status, done.FactID, cmp.Or(position, "-"))
		})
	}
	return c
}

// correctionLine is the answer to a correction.
type correctionLine struct {
	CorrectionID *string `json:"correction_id"`
	Status       string
	FactID       string `json:"fact_id"`
}

func newCorrections(a *app) *cobra.Command {
	var provider string
	c := &cobra.Command{
		Use:     "corrections SYMBOL",
		Short:   "List the corrections of the prices of a symbol",
		Example: "  pricemill corrections AAPL\n  pricemill corrections ACME --provider csv -o json",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&provider, "provider", "", "provider of the prices (default: the service's)")
	c.RunE = func(c *cobra.Command, args []string) error {
		items, err := cl.pages(c, "/corrections", "symbol="+url.QueryEscape(args[0])+parameter("provider", provider), 0)
		if err != nil {
			return err
		}
		return printItems(cl, items, "timestamp", "observed_price", "price", "status", "reason", "corrected_at", "correction_id")
	}
	return c
}
