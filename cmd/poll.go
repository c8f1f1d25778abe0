package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/schema"
)

func newPoll(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "poll",
		Short: "Create, list, pause, resume and stop polling jobs",
	}
	parent.AddCommand(newPollCreate(a), newPollList(a),
		ofJobs.newCommand(a, http.MethodPost, "pause", "/pause", "Pause a job until it is resumed"),
		ofJobs.newCommand(a, http.MethodPost, "resume", "/resume", "Resume a job at its next due time"),
		ofJobs.newCommand(a, http.MethodDelete, "stop", "", "Stop a job permanently"))
	return parent
}

// pollRequest is the body that creates a job.
type pollRequest struct {
	Symbols  []string `json:"symbols"`
	Interval int      `json:"interval"`
	Provider string   `json:"provider,omitempty"`
}

func newPollCreate(a *app) *cobra.Command {
	var job pollRequest
	var key string
	c := &cobra.Command{
		Use:     "create SYMBOL...",
		Short:   "Create a polling job",
		Example: "  pricemill poll create AAPL MSFT --interval 60",
		Args:    atLeast(1),
	}
	cl := newClient(a, c)
	c.Flags().IntVar(&job.Interval, "interval", schema.MinPollingInterval, "`seconds` between runs")
	c.Flags().StringVar(&job.Provider, "provider", "", "provider to ask (default: the service's)")
	c.Flags().StringVar(&key, "idempotency-key", "", "key of this request: sending it again returns the same job")
	c.RunE = func(c *cobra.Command, args []string) error {
		job.Symbols = args
		header := http.Header{}
		if key != "" {
			header.Set("Idempotency-Key", key)
		}
		return show(c.Context(), cl, http.MethodPost, ofJobs.path, job, header, func(w io.Writer, created jobLine) {
			fmt.Fprintln(w, "JOB\tSYMBOLS\tINTERVAL\tPROVIDER")
			fmt.Fprintf(w, "%s\t%s\t%ds\t%s\n", created.JobID, strings.Join(created.Config.Symbols, ","), created.Config.Interval, created.Config.Provider)
		})
	}
	return c
}

// jobLine is a job as a table shows it.
type jobLine struct {
	JobID     string `json:"job_id"`
	Status    string
	Config    pollRequest
	NextRun   *schema.Time                   `json:"next_run"`
	LastError *struct{ Symbol, Code string } `json:"last_error"`
	Counts    struct{ Runs, Prices, Unchanged, Failures int64 }
}

func newPollList(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List polling jobs, newest first",
		Example: "  pricemill poll list\n  pricemill poll list -o json",
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		jobs, err := cl.pages(c, ofJobs.path, "", 0)
		if err != nil {
			return err
		}
		lines := make([]jobLine, len(jobs))
		for i, job := range jobs {
			if err := json.Unmarshal(job, &lines[i]); err != nil {
				return fmt.Errorf("reading a job: %w", err)
			}
		}
		return a.print(cl.output, jobs, func(w io.Writer) { printJobs(w, lines) })
	}
	return c
}

func printJobs(w io.Writer, jobs []jobLine) {
	fmt.Fprintln(w, "JOB\tSTATUS\tSYMBOLS\tINTERVAL\tPROVIDER\tRUNS\tPRICES\tUNCHANGED\tFAILURES\tNEXT RUN\tLAST ERROR")
	for _, j := range jobs {
		next, failure := "-", "-"
		if j.NextRun != nil {
			next = j.NextRun.Format("2006-01-02T15:04:05Z")
		}
		if j.LastError != nil {
			failure = j.LastError.Symbol + " " + j.LastError.Code
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%ds\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", j.JobID, j.Status, strings.Join(j.Config.Symbols, ","),
			j.Config.Interval, j.Config.Provider, j.Counts.Runs, j.Counts.Prices, j.Counts.Unchanged, j.Counts.Failures, next, failure)
	}
}

// parameter is one more of a query that has some; none where it is empty.
func parameter(name, value string) string {
	if value == "" {
		return ""
	}
	return "&" + name + "=" + url.QueryEscape(value)
}

// atLeast is cobra.MinimumNArgs as an error of usage.
func atLeast(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := cobra.MinimumNArgs(n)(c, args); err != nil {
			return fmt.Errorf("%w: %w; see %q", errUsage, err, c.CommandPath()+" --help")
		}
		return nil
	}
}
