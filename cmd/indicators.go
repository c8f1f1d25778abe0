package cmd

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema/parquet"
)

// indicatorLine is an indicator as GET indicators lists it.
type indicatorLine struct {
	Name, Description string
	On                bool
	Parameters        []struct {
		Name, Default string
		Convention    bool
	}
	Values []struct {
		Name     string
		Type     projections.ColumnType
		Nullable bool
	}
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

// fileColumns are those of a file of its points.
func (i indicatorLine) fileColumns() []parquet.Column {
	var repeated []string
	for _, p := range i.Parameters {
		if !p.Convention {
			repeated = append(repeated, p.Name)
		}
	}
	var values []projections.Column
	for _, v := range i.Values {
		values = append(values, projections.Column{Name: v.Name, Type: v.Type, Nullable: v.Nullable})
	}
	return httpapi.IndicatorColumns(repeated, values)
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
		Use:     "indicator INDICATOR SYMBOL",
		Short:   "Print the points of an indicator, newest first",
		Long:    "Print the points of an indicator, newest first. \"pricemill indicators\" lists the\nnames and their parameters.",
		Example: "  pricemill indicator candles AAPL --set interval=1h\n  pricemill indicator ema AAPL --set period=26 --limit 100",
		Args:    exactArgs(2),
	}
	cl := newClient(a, c, csvOutput, parquetOutput)
	flags.register(c)
	c.Flags().StringToStringVar(&parameters, "set", nil, "a parameter of the indicator, `NAME=VALUE`; several are separated by commas")
	c.RunE = func(c *cobra.Command, args []string) error {
		var all struct{ Items []indicatorLine }
		if err := cl.do(c.Context(), http.MethodGet, "/indicators", nil, nil, &all); err != nil {
			return err
		}
		query := flags.query(args[1])
		for name, value := range parameters {
			query += parameter(name, value)
		}
		at := slices.IndexFunc(all.Items, func(i indicatorLine) bool { return i.Name == args[0] && i.On })
		if at < 0 { // the service says why
			return cl.do(c.Context(), http.MethodGet, "/indicators/"+url.PathEscape(args[0])+"?"+query, nil, nil, &struct{}{})
		}
		return flags.series(cl, c, "/indicators/"+url.PathEscape(args[0]), query, all.Items[at].fileColumns(), all.Items[at].columns()...)
	}
	return c
}
