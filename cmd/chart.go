package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/guptarohit/asciigraph"
	"github.com/spf13/cobra"
)

// Bounds and defaults of a chart in a terminal, in characters, and its prices.
const (
	defaultColumns, minColumns, maxColumns = 72, 10, 400
	defaultLines, minLines, maxLines       = 14, 2, 100
	defaultPoints, maxPoints               = 500, 1000
)

func newChart(a *app) *cobra.Command {
	var provider, from, to string
	var points, width, height int
	c := &cobra.Command{
		Use:   "chart SYMBOL",
		Short: "Draw the last prices of a symbol in the terminal",
		Long: "Draw the last prices of a symbol, as a running service knows them, one after the\n" +
			"other. The same as a picture, with candles and averages, is\n" +
			"GET /api/v1/prices/chart.svg and chart.png.",
		Example: "  pricemill chart AAPL\n  pricemill chart BTC-USD --provider coinbase --from 2025-06-15 --width 120",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&provider, "provider", "", "provider of the prices (default: the service's)")
	c.Flags().StringVar(&from, "from", "", "oldest event time, RFC 3339 or a date (00:00 UTC)")
	c.Flags().StringVar(&to, "to", "", "event time before which all are, RFC 3339 or a date (00:00 UTC)")
	c.Flags().IntVar(&points, "points", defaultPoints, "how many `prices`, 2 to 1000")
	c.Flags().IntVar(&width, "width", defaultColumns, "`columns` of the chart, 10 to 400")
	c.Flags().IntVar(&height, "height", defaultLines, "`lines` of the chart, 2 to 100")
	c.RunE = func(c *cobra.Command, args []string) error {
		for _, f := range []struct {
			name             string
			value, low, high int
		}{{"points", points, 2, maxPoints}, {"width", width, minColumns, maxColumns}, {"height", height, minLines, maxLines}} {
			if f.value < f.low || f.value > f.high {
				return fmt.Errorf("%w: --%s: %d is not within %d and %d", errUsage, f.name, f.value, f.low, f.high)
			}
		}
		path := "/prices/history?symbol=" + url.QueryEscape(args[0]) + "&limit=" + strconv.Itoa(points) +
			parameter("provider", provider) + parameter("from", dated(from)) + parameter("to", dated(to))
		return show(c.Context(), cl, http.MethodGet, path, nil, nil, func(w io.Writer, h priceHistory) {
			fmt.Fprintln(w, h.chart(args[0], width, height))
		})
	}
	return c
}

// priceHistory is a page of prices, newest first, with their digits as they came.
type priceHistory struct {
	Items []struct {
		Symbol, Provider string
		Price            json.Number
		Timestamp        time.Time
	}
}

// chart draws the prices. They become floats only as heights.
func (h priceHistory) chart(asked string, width, height int) string {
	if len(h.Items) == 0 {
		return "no prices of " + asked
	}
	heights, digits := make([]float64, len(h.Items)), 0
	for i, item := range h.Items {
		heights[i], _ = item.Price.Float64() // the service writes decimals
		_, fraction, _ := strings.Cut(item.Price.String(), ".")
		digits = max(digits, len(fraction))
	}
	slices.Reverse(heights)
	newest, oldest := h.Items[0], h.Items[len(h.Items)-1]
	const clock = "2006-01-02 15:04:05"
	return asciigraph.Plot(heights, asciigraph.Width(width), asciigraph.Height(height), asciigraph.Precision(uint(min(digits, 8)))) +
		fmt.Sprintf("\n\n%s at %s: %s, the last of %d prices from %s to %s UTC", newest.Symbol, newest.Provider, newest.Price,
			len(h.Items), oldest.Timestamp.UTC().Format(clock), newest.Timestamp.UTC().Format(clock))
}
