package cmd

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// indicatorLine is an indicator as GET indicators lists it.
type indicatorLine struct {
	Name, Description string
	On                bool
	Parameters        []struct {
		Name, Default string
		Convention    bool
	}
	Values []struct{ Name string }
}

// columns are those of its points.
func (i indicatorLine) columns() []string {
	columns := []string{"timestamp"}
	for _, v := range i.Values {
		columns = append(columns, v.Name)
	}
	for _, p := range i.Parameters {
		if !p.Convention {
			columns = append(columns, p.Name)
		}
	}
	return columns
}

func newIndicators(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "indicators",
		Short:   "List indicators and their parameters",
		Example: "  pricemill indicators",
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		type list struct{ Items []indicatorLine }
		return show(c.Context(), cl, http.MethodGet, "/indicators", nil, nil, func(w io.Writer, all list) {
			fmt.Fprintln(w, "INDICATOR\tON\tPARAMETERS\tDESCRIPTION")
			for _, i := range all.Items {
				var parameters []string
				for _, p := range i.Parameters {
					parameters = append(parameters, p.Name+"="+p.Default)
				}
				if len(parameters) == 0 {
					parameters = []string{"-"}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", i.Name, cell(i.On), strings.Join(parameters, " "), i.Description)
			}
		})
	}
	return c
}

func newIndicator(a *app) *cobra.Command {
	var flags seriesFlags
	var parameters map[string]string
	c := &cobra.Command{
		Use:     "indicator NAME SYMBOL",
		Short:   "Print the points of an indicator, newest first",
		Long:    "Print the points of an indicator, newest first. \"pricemill indicators\" lists the names and their parameters.",
		Example: "  pricemill indicator candles AAPL --set interval=1h\n  pricemill indicator ema AAPL --set period=26 --limit 100",
		Args:    exactArgs(2),
	}
	cl := newClient(a, c)
	flags.register(c)
	c.Flags().StringToStringVar(&parameters, "set", nil, "a parameter of the indicator, NAME=VALUE; several are separated by commas")
	c.RunE = func(c *cobra.Command, args []string) error {
		var all struct{ Items []indicatorLine }
		if err := cl.do(c.Context(), http.MethodGet, "/indicators", nil, nil, &all); err != nil {
			return err
		}
		query := flags.query(args[1])
		for name, value := range parameters {
			query += parameter(name, value)
		}
		items, err := cl.pages(c, "/indicators/"+url.PathEscape(args[0]), query, flags.limit)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all.Items, func(i indicatorLine) bool { return i.Name == args[0] })
		if at < 0 {
			return fmt.Errorf("the service has no indicator %q any more", args[0])
		}
		return printItems(cl, items, all.Items[at].columns()...)
	}
	return c
}
