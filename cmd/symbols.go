package cmd

import (
	"strings"

	"github.com/spf13/cobra"
)

func newSymbols(a *app) *cobra.Command {
	var provider string
	c := &cobra.Command{
		Use:     "symbols",
		Short:   "List the symbols that have prices, with the last price of each",
		Example: "  pricemill symbols\n  pricemill symbols --provider csv -o json",
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&provider, "provider", "", "only those of this provider (default all)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		items, err := cl.pages(c, "/symbols", strings.TrimPrefix(parameter("provider", provider), "&"), 0)
		if err != nil {
			return err
		}
		return printItems(cl, items, "symbol", "provider", "last_price", "last_timestamp", "count", "first_timestamp")
	}
	return c
}
