package cmd

import (
	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi"
)

func newHistory(a *app) *cobra.Command {
	var flags seriesFlags
	c := &cobra.Command{
		Use:     "history SYMBOL",
		Short:   "Print the prices of a symbol, newest first",
		Example: "  pricemill history AAPL\n  pricemill history AAPL --from 2025-06-15 --to 2025-06-16 --limit 0 -o json\n  pricemill history AAPL --limit 0 -o parquet >AAPL.parquet",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c, csvOutput, parquetOutput)
	flags.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return flags.series(cl, c, "/prices/history", flags.query(args[0]), httpapi.PriceColumns(), "timestamp", "price", "received_at", "provider")
	}
	return c
}
