package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// commanded is a kind of thing that clients start and stop by the service: jobs, streams and
// backfills.
type commanded struct {
	group   string // the command that has those about them
	path    string // in the API
	noun    string // as an argument
	id      string // the field of the API
	example string // of an id
}

var (
	ofJobs      = commanded{"poll", "/prices/poll", "JOB", "job_id", "poll_abc12345"}
	ofStreams   = commanded{"streams", "/streams", "STREAM", "stream_id", "stream_abc12345"}
	ofBackfills = commanded{"backfill", "/backfills", "BACKFILL", "backfill_id", "backfill_abc12345"}
)

// one is the path of the one with an id.
func (k commanded) one(id string) string { return k.path + "/" + url.PathEscape(id) }

// newList is the command that lists them, or the named columns of each as a table.
func (k commanded) newList(a *app, short string, columns ...string) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   short,
		Example: fmt.Sprintf("  pricemill %s list\n  pricemill %[1]s list -o json", k.group),
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var list struct{ Items []json.RawMessage }
		if err := cl.do(c.Context(), http.MethodGet, fmt.Sprintf("%s?limit=%d", k.path, maxPage), nil, nil, &list); err != nil {
			return err
		}
		return printItems(cl, list.Items, columns...)
	}
	return c
}

// newCommand is a command to one of them, by a method of the API and what follows its path.
func (k commanded) newCommand(a *app, method, name, suffix, short string) *cobra.Command {
	c := &cobra.Command{
		Use:     name + " " + k.noun,
		Short:   short,
		Example: fmt.Sprintf("  pricemill %s %s %s", k.group, name, k.example),
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return show(c.Context(), cl, method, k.one(args[0])+suffix, nil, nil, func(w io.Writer, done map[string]string) {
			fmt.Fprintf(w, "%s\t%s\n", done[k.id], done["status"])
		})
	}
	return c
}
