package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
