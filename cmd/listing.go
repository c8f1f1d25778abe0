package cmd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/schema/parquet"
)

const (
	// defaultRows is how many rows of a series a command prints unless it is told.
	defaultRows = 20
	// maxPage is the largest page that the API gives.
	maxPage = 1000
)

// seriesFlags are those of the commands that print a series.
type seriesFlags struct {
	provider, from, to, asOfLog string
	adjusted                    bool
	limit                       int
}

// adjustedUsage explains the flag --adjusted.
const adjustedUsage = "adjust prices for recorded splits and dividends"

// asOfLogUsage explains the flag --as-of-log.
const asOfLogUsage = "`POSITION` in the log: what came later does not count (default: all counts)"

func (f *seriesFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.provider, "provider", "", "provider of the prices (default: the service's)")
	c.Flags().StringVar(&f.from, "from", "", "oldest event time, RFC 3339 or a date (00:00 UTC)")
	c.Flags().StringVar(&f.to, "to", "", "event time before which all are, RFC 3339 or a date (00:00 UTC)")
	c.Flags().StringVar(&f.asOfLog, "as-of-log", "", asOfLogUsage)
	c.Flags().BoolVar(&f.adjusted, "adjusted", false, adjustedUsage)
	c.Flags().IntVar(&f.limit, "limit", defaultRows, "maximum number of `rows`, newest first; 0 for all")
}

func (f *seriesFlags) query(symbol string) string {
	return "symbol=" + url.QueryEscape(symbol) + parameter("provider", f.provider) + parameter("from", dated(f.from)) + parameter("to", dated(f.to)) + parameter("as_of_log", f.asOfLog) + adjustedParameter(f.adjusted)
}

func adjustedParameter(adjusted bool) string {
	if adjusted {
		return "&adjusted=true"
	}
	return ""
}

// dated makes a time of a date alone.
func dated(text string) string {
	if len(text) == len("2006-01-02") && strings.Count(text, "-") == 2 {
		return text + "T00:00:00Z"
	}
	return text
}

// eachPage asks for a list, page by page, until it has limit items or, where that is 0, all,
// and gives each page to take. An item is as it came, so that no digit is lost.
func (cl *client) eachPage(c *cobra.Command, path, query string, limit int, take func([]json.RawMessage) error) error {
	for cursor, more, count := "", true, 0; more; more = cursor != "" && (limit == 0 || count < limit) {
		size := maxPage
		if limit > 0 {
			size = min(size, limit-count)
		}
		var page struct {
			Items []json.RawMessage
			Next  string `json:"next_cursor"`
		}
		at, err := cl.exchange(c.Context(), http.MethodGet, fmt.Sprintf("%s?limit=%d&%s%s", path, size, query, parameter("cursor", cursor)), nil, nil, &page)
		if err != nil {
			return err
		}
		if at != "" { // all pages are as of where the first one is
			query = strings.Replace(query, parameter("as_of_log", "now"), parameter("as_of_log", at), 1)
		}
		if err := take(page.Items); err != nil {
			return err
		}
		count, cursor = count+len(page.Items), page.Next
	}
	return nil
}

// pages is the whole list of eachPage.
func (cl *client) pages(c *cobra.Command, path, query string, limit int) ([]json.RawMessage, error) {
	all := []json.RawMessage{}
	err := cl.eachPage(c, path, query, limit, func(items []json.RawMessage) error { all = append(all, items...); return nil })
	return all, err
}

// series prints a list: as a file of all columns, page by page, or the named ones as a
// table.
func (f *seriesFlags) series(cl *client, c *cobra.Command, path, query string, columns []parquet.Column, named ...string) error {
	if f.limit < 0 {
		return fmt.Errorf("%w: --limit: %d is below 0", errUsage, f.limit)
	}
	if file := seriesFile(cl.output); file != nil {
		if cl.output == parquetOutput && isTerminal(cl.app.stdout) {
			return fmt.Errorf("%w: --output parquet is no text: redirect it to a file", errUsage)
		}
		out := bufio.NewWriter(cl.app.stdout)
		table := file(out, columns)
		err := cl.eachPage(c, path, query, f.limit, func(items []json.RawMessage) error { return writeItems(table, items, columns) })
		if err != nil {
			return err
		}
		return errors.Join(table.Close(), out.Flush())
	}
	items, err := cl.pages(c, path, query, f.limit)
	if err != nil {
		return err
	}
	return printItems(cl, items, named...)
}

// printItems prints objects as they came, or the named columns of each as a table.
func printItems(cl *client, items []json.RawMessage, columns ...string) error {
	rows := make([]map[string]any, len(items))
	for i, item := range items {
		var err error
		if rows[i], err = readItem(item); err != nil {
			return err
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
