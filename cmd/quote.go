package cmd

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newPrice(a *app) *cobra.Command {
	var provider string
	var stale bool
	c := &cobra.Command{
		Use:     "price SYMBOL",
		Short:   "Print the latest price of a symbol",
		Example: "  pricemill price AAPL\n  pricemill price ACME --provider csv --stale",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&provider, "provider", "", "provider to ask, or median, freshest or any (default: the service's)")
	c.Flags().BoolVar(&stale, "stale", false, "accept the last known price if the provider gives none now")
	c.RunE = func(c *cobra.Command, args []string) error {
		path := "/prices/latest?symbol=" + url.QueryEscape(args[0]) + parameter("provider", provider)
		if stale {
			path += "&stale=allow"
		}
		return show(c.Context(), cl, http.MethodGet, path, nil, nil, func(w io.Writer, p priceLine) {
			fmt.Fprintln(w, "SYMBOL\tPRICE\tTIMESTAMP\tPROVIDER")
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Symbol, p.Price, p.Timestamp, p.Provider)
			printMembers(w, "PRICE", p.Members)
		})
	}
	return c
}

// priceLine is a price or an average, with its digits and its time as they came.
type priceLine struct {
	Symbol, Timestamp, Provider string
	Price, Value                json.Number
	WindowSize                  int `json:"window_size"`
	// Members are those of an instrument across providers.
	Members []memberLine
}

// memberLine is a member of an instrument.
type memberLine struct {
	Provider, Symbol, Status, Timestamp string
	Price, Value                        json.Number
}

// printMembers prints what an answer across providers was made of, as a second table.
func printMembers(w io.Writer, value string, members []memberLine) {
	if len(members) == 0 {
		return
	}
	fmt.Fprintf(w, "\nMEMBER\tSTATUS\t%s\tTIMESTAMP\n", value)
	for _, m := range members {
		fmt.Fprintf(w, "%s:%s\t%s\t%s\t%s\n", m.Provider, m.Symbol, m.Status, cmp.Or(m.Price, m.Value, "-"), cmp.Or(m.Timestamp, "-"))
	}
}

func newAverage(a *app) *cobra.Command {
	var provider, window, asOf, asOfLog string
	var adjusted bool
	c := &cobra.Command{
		Use:     "average SYMBOL",
		Short:   "Print the moving average of a symbol",
		Example: "  pricemill average AAPL --window 20\n  pricemill average AAPL --as-of 2025-06-15T14:30:00Z",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&provider, "provider", "", "provider of the prices, or median, freshest or any (default: the service's)")
	c.Flags().StringVar(&window, "window", "", "number of `prices`, 1 to 1000 (default: the service's)")
	c.Flags().StringVar(&asOf, "as-of", "", "event time of the average, RFC 3339 or a date (00:00 UTC) (default: now)")
	c.Flags().BoolVar(&adjusted, "adjusted", false, adjustedUsage)
	c.Flags().StringVar(&asOfLog, "as-of-log", "", asOfLogUsage)
	c.RunE = func(c *cobra.Command, args []string) error {
		path := "/prices/moving-average?symbol=" + url.QueryEscape(args[0]) + parameter("provider", provider) +
			parameter("window", window) + parameter("as_of", dated(asOf)) + parameter("as_of_log", asOfLog) + adjustedParameter(adjusted)
		return show(c.Context(), cl, http.MethodGet, path, nil, nil, func(w io.Writer, p priceLine) {
			fmt.Fprintln(w, "SYMBOL\tWINDOW\tAVERAGE\tTIMESTAMP")
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", p.Symbol, p.WindowSize, p.Value, p.Timestamp)
			printMembers(w, "AVERAGE", p.Members)
		})
	}
	return c
}
