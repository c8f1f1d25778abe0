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

	"github.com/pricemill/pricemill/schema"
)

// adjustmentRequest is the body that records an adjustment.
type adjustmentRequest struct {
	Symbol      string                `json:"symbol"`
	Provider    string                `json:"provider,omitempty"`
	EffectiveAt string                `json:"effective_at"`
	Kind        schema.AdjustmentKind `json:"kind"`
	Value       string                `json:"value"`
	Currency    string                `json:"currency,omitempty"`
	Reason      string                `json:"reason"`
}

func newAdjust(a *app) *cobra.Command {
	var request adjustmentRequest
	var split, dividend, factor, retracted string
	c := &cobra.Command{
		Use:   "adjust SYMBOL TIME --split NEW:OLD",
		Short: "Record a split or a dividend of a symbol",
		Long: `Record that the prices of a symbol before a time are to be adjusted, where a
query asks for that with --adjusted: by a split of NEW:OLD shares, by a
dividend of an amount per share, or by a factor. TIME is the first instant of
the new prices; a date is the ex-date. No stored price changes. --retract takes
an adjustment back, by its id: then there are no SYMBOL and TIME.`,
		Example: `  pricemill adjust AAPL 2020-08-31 --split 4:1
  pricemill adjust AAPL 2024-02-09 --dividend 0.24 --currency USD
  pricemill adjust --retract 4d1d9a4a-5b1f-8a39-9f35-6c1f1e2a7c55`,
		Args: func(c *cobra.Command, args []string) error {
			if retracted != "" {
				return exactArgs(0)(c, args)
			}
			return exactArgs(2)(c, args)
		},
	}
	cl := newClient(a, c)
	flags := c.Flags()
	flags.StringVar(&split, "split", "", "new shares for old ones, `NEW:OLD`")
	flags.StringVar(&dividend, "dividend", "", "`AMOUNT` that is paid per share")
	flags.StringVar(&factor, "factor", "", "`FACTOR` that earlier prices are multiplied by")
	flags.StringVar(&request.Currency, "currency", "", "currency of the dividend: that of the prices")
	flags.StringVar(&request.Provider, "provider", "", "provider of the prices (default: the service's)")
	flags.StringVar(&request.Reason, "reason", "", "why, for people (default: what it is)")
	flags.StringVar(&retracted, "retract", "", "`ID` of an adjustment that is not to count any more")
	c.RunE = func(c *cobra.Command, args []string) error {
		path, body := "/adjustments", any(&request)
		if retracted != "" {
			if split+dividend+factor+request.Currency+request.Provider != "" {
				return fmt.Errorf("%w: with --retract there is --reason alone", errUsage)
			}
			path += "/" + url.PathEscape(retracted) + "/retract"
			body = map[string]string{"reason": cmp.Or(request.Reason, "retracted")}
		} else {
			given := 0
			for kind, value := range map[schema.AdjustmentKind]string{schema.SplitAdjustment: split, schema.DividendAdjustment: dividend, schema.FactorAdjustment: factor} {
				if value != "" {
					given, request.Kind, request.Value = given+1, kind, value
				}
			}
			if given != 1 {
				return fmt.Errorf("%w: one of --split, --dividend and --factor is needed", errUsage)
			}
			request.Symbol, request.EffectiveAt = args[0], dated(args[1])
			request.Reason = cmp.Or(request.Reason, string(request.Kind)+" "+request.Value)
		}
		var raw json.RawMessage
		position, err := cl.exchange(c.Context(), http.MethodPost, path, body, nil, &raw)
		if err != nil {
			return err
		}
		var done struct {
			ID     string `json:"adjustment_id"`
			Status string
		}
		if err := json.Unmarshal(raw, &done); err != nil {
			return errors.Join(errors.New("the answer is not what this version reads"), err)
		}
		return cl.app.print(cl.output, raw, func(w io.Writer) {
			fmt.Fprintln(w, "ADJUSTMENT\tSTATUS\tLOG POSITION")
			fmt.Fprintf(w, "%s\t%s\t%s\n", done.ID, done.Status, cmp.Or(position, "-"))
		})
	}
	return c
}

func newAdjustments(a *app) *cobra.Command {
	var provider string
	c := &cobra.Command{
		Use:     "adjustments SYMBOL",
		Short:   "List the splits and dividends of a symbol",
		Example: "  pricemill adjustments AAPL\n  pricemill adjustments ACME --provider csv -o json",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&provider, "provider", "", "provider of the prices (default: the service's)")
	c.RunE = func(c *cobra.Command, args []string) error {
		var page struct{ Items []json.RawMessage }
		err := cl.do(c.Context(), http.MethodGet, "/adjustments?symbol="+url.QueryEscape(args[0])+parameter("provider", provider), nil, nil, &page)
		if err != nil {
			return err
		}
		return printItems(cl, append([]json.RawMessage{}, page.Items...), "effective_at", "kind", "value", "status", "reason", "adjustment_id")
	}
	return c
}
