package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const (
	// defaultRows is how many rows of a series a command prints unless it is told.
	defaultRows = 20
	// maxPage is the largest page that the API gives.
	maxPage = 1000
)

// seriesFlags are those of the commands that print a series.
type seriesFlags struct {
	provider, from, to string
	limit              int
}

func (f *seriesFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.provider, "provider", "", "provider of the prices (default: the service's)")
	c.Flags().StringVar(&f.from, "from", "", "oldest event time, RFC 3339 or a date (00:00 UTC)")
	c.Flags().StringVar(&f.to, "to", "", "event time before which all are, RFC 3339 or a date (00:00 UTC)")
	c.Flags().IntVar(&f.limit, "limit", defaultRows, "maximum number, newest first; 0 for all")
}

func (f *seriesFlags) query(symbol string) string {
	return "symbol=" + url.QueryEscape(symbol) + parameter("provider", f.provider) + parameter("from", dated(f.from)) + parameter("to", dated(f.to))
}

// dated makes a time of a date alone.
func dated(text string) string {
	if len(text) == len("2006-01-02") && strings.Count(text, "-") == 2 {
		return text + "T00:00:00Z"
	}
	return text
}

// pages asks for a list, page by page, until it has limit items or, where that is 0, all.
// An item is as it came, so that no digit is lost.
func (cl *client) pages(c *cobra.Command, path, query string, limit int) ([]json.RawMessage, error) {
	if limit < 0 {
		return nil, fmt.Errorf("%w: --limit: %d is below 0", errUsage, limit)
	}
	if err := checkOutput(cl.output); err != nil {
		return nil, err // before anything is asked
	}
	items := []json.RawMessage{}
	for cursor, more := "", true; more; more = cursor != "" && (limit == 0 || len(items) < limit) {
		size := maxPage
		if limit > 0 {
			size = min(size, limit-len(items))
		}
		var page struct {
			Items []json.RawMessage
			Next  string `json:"next_cursor"`
		}
		if err := cl.do(c.Context(), http.MethodGet, fmt.Sprintf("%s?limit=%d&%s%s", path, size, query, parameter("cursor", cursor)), nil, nil, &page); err != nil {
			return nil, err
		}
		items, cursor = append(items, page.Items...), page.Next
	}
	return items, nil
}

// printItems prints objects as they came, or the named columns of each as a table.
func printItems(cl *client, items []json.RawMessage, columns ...string) error {
	rows := make([]map[string]any, len(items))
	for i, item := range items {
		decoder := json.NewDecoder(strings.NewReader(string(item)))
		decoder.UseNumber()
		if err := decoder.Decode(&rows[i]); err != nil {
			return errors.Join(errors.New("the answer is not what this version reads"), err)
		}
	}
	return cl.app.print(cl.output, items, func(w io.Writer) {
		titles := make([]string, len(columns))
		for i, column := range columns {
			titles[i] = strings.ToUpper(strings.ReplaceAll(column, "_", " "))
		}
		fmt.Fprintln(w, strings.Join(titles, "\t"))
		for _, row := range rows {
			cells := make([]string, len(columns))
			for i, column := range columns {
				cells[i] = cell(row[column])
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
	})
}

// cell is a value as a table shows it.
func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return "-"
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case []any:
		texts := make([]string, len(v))
		for i := range v {
			texts[i] = cell(v[i])
		}
		if len(texts) == 0 {
			return "-"
		}
		return strings.Join(texts, ",")
	}
	return fmt.Sprint(value)
}

func newHistory(a *app) *cobra.Command {
	var flags seriesFlags
	c := &cobra.Command{
		Use:     "history SYMBOL",
		Short:   "Print the prices of a symbol, newest first",
		Example: "  pricemill history AAPL\n  pricemill history AAPL --from 2025-06-15 --to 2025-06-16 --limit 0 -o json",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	flags.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		items, err := cl.pages(c, "/prices/history", flags.query(args[0]), flags.limit)
		if err != nil {
			return err
		}
		return printItems(cl, items, "timestamp", "price", "received_at", "provider")
	}
	return c
}

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

func newProviders(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "providers",
		Short:   "List providers and the state of each",
		Example: "  pricemill providers",
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		type list struct {
			Items []struct {
				Name, Description   string
				Default, Configured bool
				Capabilities        []string
				Status              *struct {
					CallsLeft *int `json:"calls_left"`
					Breaker   string
				}
			}
		}
		return show(c.Context(), cl, http.MethodGet, "/providers", nil, nil, func(w io.Writer, all list) {
			fmt.Fprintln(w, "PROVIDER\tDEFAULT\tCONFIGURED\tGIVES\tCALLS LEFT\tBREAKER\tDESCRIPTION")
			for _, p := range all.Items {
				left, breaker, gives := "-", "-", "-"
				if p.Status != nil {
					breaker = p.Status.Breaker
					if p.Status.CallsLeft != nil {
						left = fmt.Sprint(*p.Status.CallsLeft)
					}
				}
				if len(p.Capabilities) > 0 {
					gives = strings.Join(p.Capabilities, ",")
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, cell(p.Default), cell(p.Configured), gives, left, breaker, p.Description)
			}
		})
	}
	return c
}

func newStreams(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "streams",
		Short: "Start, list and stop streams",
	}
	parent.AddCommand(newStreamsStart(a), newStreamsList(a), newStreamsStop(a))
	return parent
}

// streamLine is what a command about a stream is answered.
type streamLine struct {
	StreamID string `json:"stream_id"`
	Status   string
	Config   struct {
		Symbols  []string
		Provider string
	}
}

func newStreamsStart(a *app) *cobra.Command {
	var body struct {
		Provider string   `json:"provider"`
		Symbols  []string `json:"symbols"`
	}
	c := &cobra.Command{
		Use:     "start SYMBOL...",
		Short:   "Start a stream: prices arrive as the provider sends them, until it is stopped",
		Example: "  pricemill streams start BTC-USD ETH-USD --provider coinbase",
		Args:    someArgs,
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&body.Provider, "provider", "", "a provider that streams; see \"pricemill providers\"")
	c.RunE = func(c *cobra.Command, args []string) error {
		if body.Provider == "" {
			return fmt.Errorf("%w: --provider is needed; \"pricemill providers\" lists those that stream", errUsage)
		}
		body.Symbols = args
		return show(c.Context(), cl, http.MethodPost, "/streams", body, nil, func(w io.Writer, started streamLine) {
			fmt.Fprintln(w, "STREAM\tSYMBOLS\tPROVIDER")
			fmt.Fprintf(w, "%s\t%s\t%s\n", started.StreamID, strings.Join(started.Config.Symbols, ","), started.Config.Provider)
		})
	}
	return c
}

func newStreamsList(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List streams, newest first",
		Example: "  pricemill streams list\n  pricemill streams list -o json",
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var list struct{ Items []json.RawMessage }
		if err := cl.do(c.Context(), http.MethodGet, fmt.Sprintf("/streams?limit=%d", maxPage), nil, nil, &list); err != nil {
			return err
		}
		return printItems(cl, list.Items, "stream_id", "status", "provider", "symbols", "messages", "gaps", "reconnects", "last_message_at")
	}
	return c
}

func newStreamsStop(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "stop STREAM",
		Short:   "Stop a stream",
		Example: "  pricemill streams stop stream_abc12345",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return show(c.Context(), cl, http.MethodDelete, "/streams/"+url.PathEscape(args[0]), nil, nil, func(w io.Writer, stopped streamLine) {
			fmt.Fprintf(w, "%s\t%s\n", stopped.StreamID, stopped.Status)
		})
	}
	return c
}
