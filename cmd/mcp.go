package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi"
)

func newMCP(a *app) *cobra.Command {
	var commands bool
	var listen string
	c := &cobra.Command{
		Use:   "mcp",
		Short: "Serve the API to language models, by the Model Context Protocol",
		Long: `Serve tools for prices, history, averages, indicators, jobs and health to a
program that runs a language model, by the Model Context Protocol: over standard
input and output or, with --listen, over HTTP. It is a client of a running
service, as "pricemill price" is, and takes its API key from PRICEMILL_API_KEY.

With --listen, it answers at /mcp. Callers send API keys of their own as
Authorization: Bearer. For those on this machine that send none, the key of
PRICEMILL_API_KEY counts. TLS_CERT_FILE, TLS_KEY_FILE, HTTP_HOSTS and
HTTP_ALLOW_REMOTE hold for it as they do for the service.

The tools only read, unless --allow-commands adds those that create, pause,
resume and stop polling jobs.`,
		Example: "  pricemill mcp\n  pricemill mcp --url https://prices.example --allow-commands\n  pricemill mcp --listen 127.0.0.1:8001",
		Args:    exactArgs(0),
	}
	cl := &client{app: a}
	c.Flags().StringVar(&cl.url, "url", "", "address of the service (default http:// and HTTP_ADDR)")
	c.Flags().BoolVar(&commands, "allow-commands", false, "add the tools that change polling jobs")
	c.Flags().StringVar(&listen, "listen", "", "address to answer at over HTTP, such as 127.0.0.1:8001, in place of standard input and output")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := cl.base(); err != nil {
			return err
		}
		server := newMCPServer(cl, commands)
		if listen != "" {
			return a.serveMCP(c.Context(), server, listen)
		}
		err := server.Run(c.Context(), &mcp.StdioTransport{})
		if c.Context().Err() != nil {
			return nil // as was asked for
		}
		return err
	}
	return c
}

// instructions are what a model reads first.
const instructions = `Market prices of a pricemill service. Every answer is JSON as its REST API gives it.
A symbol is as the provider writes it, such as AAPL or BTC-USD; list_symbols has those that are known.
Times are RFC 3339 in UTC. Prices are exact decimal numbers.
Where an answer is marked as simulated, its prices are made up: never present them as those of a market.
latest_price may ask a provider, which has a quota; known_prices and all others read what is stored.`

// newMCPServer serves the tools of a client.
func newMCPServer(cl *client, commands bool) *mcp.Server {
	version, _ := buildVersion()
	s := mcp.NewServer(&mcp.Implementation{Name: "pricemill", Title: "Pricemill", Version: version}, &mcp.ServerOptions{Instructions: instructions})
	t := tools{cl, s}
	reads(t, "latest_price", "The latest price of one symbol. Asks the provider if the known price is older than max_age seconds, and waits for its answer, some seconds at most. Use known_prices for several symbols, or to spare the provider.",
		func(in latestIn) string {
			return "/prices/latest" + queryOf("symbol", in.Symbol, "provider", in.Provider, "max_age", whole(in.MaxAge))
		})
	reads(t, "known_prices", "The last known prices of up to 100 symbols in one answer, without asking a provider. Symbols without any price are listed as missing.",
		func(in severalIn) string {
			return "/prices" + queryOf("symbols", strings.Join(in.Symbols, ","), "provider", in.Provider)
		})
	reads(t, "price_history", "Stored prices of one symbol, newest first. Follow next_cursor for older ones.",
		func(in seriesIn) string { return "/prices/history" + in.query() })
	reads(t, "moving_average", "The simple moving average of the last prices of one symbol, by event time, or as of an event time.",
		func(in averageIn) string {
			return "/prices/moving-average" + queryOf("symbol", in.Symbol, "provider", in.Provider, "window", whole(in.Window), "as_of", in.AsOf)
		})
	reads(t, "moving_average_history", "The moving average of one symbol at each of its prices, newest first. Follow next_cursor for older ones.",
		func(in averagesIn) string {
			return "/prices/moving-average/history" + in.query("window", whole(in.Window))
		})
	reads(t, "list_symbols", "The symbols that have prices, with the first and last time, the number of prices and the last price of each.",
		func(in listIn) string {
			return "/symbols" + queryOf("provider", in.Provider, "limit", whole(in.Limit), "cursor", in.Cursor)
		})
	reads(t, "list_indicators", "The indicators that the service computes, such as candles or EMA, with their parameters and columns. Call it before indicator.",
		func(struct{}) string { return "/indicators" })
	reads(t, "indicator", "A series of an indicator of one symbol, newest first. list_indicators has the names and parameters.",
		func(in indicatorIn) string {
			var more []string
			for _, name := range slices.Sorted(maps.Keys(in.Parameters)) {
				more = append(more, name, in.Parameters[name])
			}
			return "/indicators/" + url.PathEscape(in.Name) + in.query(more...)
		})
	reads(t, "list_providers", "The providers of prices: which can be asked, and their limits.",
		func(struct{}) string { return "/providers" })
	reads(t, "list_jobs", "The polling jobs, newest first: symbols, interval, status, next run and last error.",
		func(in pageIn) string { return "/prices/poll" + queryOf("limit", whole(in.Limit), "cursor", in.Cursor) })
	reads(t, "get_job", "One polling job, with the counts of its runs, prices and failures.",
		func(in jobIn) string { return "/prices/poll/" + url.PathEscape(in.JobID) })
	mcp.AddTool(s, &mcp.Tool{Name: "health", Description: "Whether the service is ready, and each of its checks with the reason why it fails.", Annotations: readOnly()},
		func(ctx context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			return t.health(ctx)
		})
	if commands {
		t.addCommands()
	}
	return s
}

// What tools take. The texts are for the model.
type (
	latestIn struct {
		Symbol   string `json:"symbol" jsonschema:"symbol as the provider writes it, such as AAPL"`
		Provider string `json:"provider,omitempty" jsonschema:"provider to ask; leave it out for the default of the service"`
		MaxAge   *int   `json:"max_age,omitempty" jsonschema:"how old the price may be in seconds, 0 to 3600, before the provider is asked"`
	}
	severalIn struct {
		Symbols  []string `json:"symbols" jsonschema:"1 to 100 symbols"`
		Provider string   `json:"provider,omitempty" jsonschema:"provider of the prices; leave it out for the default of the service"`
	}
	seriesIn struct {
		Symbol   string `json:"symbol" jsonschema:"symbol as the provider writes it, such as AAPL"`
		Provider string `json:"provider,omitempty" jsonschema:"provider of the prices; leave it out for the default of the service"`
		From     string `json:"from,omitempty" jsonschema:"first event time, inclusive, such as 2025-06-15T14:30:00Z"`
		To       string `json:"to,omitempty" jsonschema:"last event time, exclusive"`
		Limit    *int   `json:"limit,omitempty" jsonschema:"rows of a page, 1 to 1000; 50 if left out"`
		Cursor   string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before; all other arguments stay the same"`
	}
	averageIn struct {
		Symbol   string `json:"symbol" jsonschema:"symbol as the provider writes it, such as AAPL"`
		Provider string `json:"provider,omitempty" jsonschema:"provider of the prices; leave it out for the default of the service"`
		Window   *int   `json:"window,omitempty" jsonschema:"how many prices, 1 to 1000; leave it out for the default of the service"`
		AsOf     string `json:"as_of,omitempty" jsonschema:"the average as of this event time, such as 2025-06-15T14:30:00Z"`
	}
	averagesIn struct {
		seriesIn
		Window *int `json:"window,omitempty" jsonschema:"how many prices, 1 to 1000; leave it out for the default of the service"`
	}
	indicatorIn struct {
		Name string `json:"name" jsonschema:"name of the indicator, such as ema"`
		seriesIn
		Parameters map[string]string `json:"parameters,omitempty" jsonschema:"parameters of the indicator, such as {\"period\": \"12\"}"`
	}
	listIn struct {
		Provider string `json:"provider,omitempty" jsonschema:"only those of this provider"`
		Limit    *int   `json:"limit,omitempty" jsonschema:"rows of a page, 1 to 1000"`
		Cursor   string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before"`
	}
	pageIn struct {
		Limit  *int   `json:"limit,omitempty" jsonschema:"rows of a page, 1 to 1000"`
		Cursor string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before"`
	}
	jobIn struct {
		JobID string `json:"job_id" jsonschema:"id of the job, such as poll_abc12345"`
	}
	createIn struct {
		Symbols  []string `json:"symbols" jsonschema:"1 to 10 symbols"`
		Interval int      `json:"interval" jsonschema:"seconds between two runs, 60 to 3600"`
		Provider string   `json:"provider,omitempty" jsonschema:"provider to ask; leave it out for the default of the service"`
		Key      string   `json:"idempotency_key,omitempty" jsonschema:"a text of your choice: the same one gives the same job, so that a retry creates no second one"`
	}
)

// rowsOfModels is how many rows a page has unless a model says it: it reads them all.
const rowsOfModels = 50

func (in seriesIn) query(more ...string) string {
	limit := rowsOfModels
	if in.Limit != nil {
		limit = *in.Limit
	}
	return queryOf(append([]string{"symbol", in.Symbol, "provider", in.Provider, "from", in.From, "to", in.To,
		"limit", strconv.Itoa(limit), "cursor", in.Cursor}, more...)...)
}

// queryOf makes a query of names and values, without those that are empty.
func queryOf(pairs ...string) string {
	values := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}

// whole is a number as text; empty for none.
func whole(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

// tools are those of a server, over a client.
type tools struct {
	client *client
	server *mcp.Server
}

func readOnly() *mcp.ToolAnnotations { return &mcp.ToolAnnotations{ReadOnlyHint: true} }

// reads adds a tool that is a GET of the path that it makes of its arguments.
func reads[In any](t tools, name, description string, path func(In) string) {
	mcp.AddTool(t.server, &mcp.Tool{Name: name, Description: description, Annotations: readOnly()},
		func(ctx context.Context, call *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
			return t.ask(ctx, call, http.MethodGet, path(in), nil, http.Header{})
		})
}

// addCommands adds the tools that change something.
func (t tools) addCommands() {
	no, yes := false, true
	mcp.AddTool(t.server, &mcp.Tool{Name: "create_job", Description: "Create a polling job: the service fetches the symbols now, and then at each interval until the job is stopped, which costs calls of the provider.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &yes}},
		func(ctx context.Context, call *mcp.CallToolRequest, in createIn) (*mcp.CallToolResult, any, error) {
			header := http.Header{}
			if in.Key != "" {
				header.Set("Idempotency-Key", in.Key)
			}
			return t.ask(ctx, call, http.MethodPost, "/prices/poll", pollRequest{in.Symbols, in.Interval, in.Provider}, header)
		})
	for _, c := range []struct {
		name, method, path, description string
		destructive                     *bool
	}{
		{"pause_job", http.MethodPost, "/pause", "Pause a polling job until it is resumed.", &no},
		{"resume_job", http.MethodPost, "/resume", "Resume a paused polling job.", &no},
		{"stop_job", http.MethodDelete, "", "Stop a polling job forever. Its prices stay.", &yes},
	} {
		mcp.AddTool(t.server, &mcp.Tool{Name: c.name, Description: c.description, Annotations: &mcp.ToolAnnotations{DestructiveHint: c.destructive, IdempotentHint: true}},
			func(ctx context.Context, call *mcp.CallToolRequest, in jobIn) (*mcp.CallToolResult, any, error) {
				return t.ask(ctx, call, c.method, "/prices/poll/"+url.PathEscape(in.JobID)+c.path, nil, http.Header{})
			})
	}
}

// ask sends a request, and gives the model the answer as it came. An error is told to the
// model too, which may do better with other arguments.
func (t tools) ask(ctx context.Context, call *mcp.CallToolRequest, method, path string, body any, header http.Header) (*mcp.CallToolResult, any, error) {
	asCaller(call, header)
	answer, headers, err := t.client.send(ctx, method, path, body, header)
	var key *keyError
	if errors.As(err, &key) && call.Extra != nil && call.Extra.Header != nil {
		err = fmt.Errorf("send an API key as Authorization: Bearer: %w", key.cause)
	}
	if err != nil {
		return nil, nil, err
	}
	result := textResult(string(bytes.TrimSpace(answer)))
	if headers.Get(httpapi.HeaderSimulated) == "true" {
		result.Content = append(result.Content, &mcp.TextContent{Text: simulatedNote})
	}
	return result, nil, nil
}

// health tells what /readyz says, which is no error of the tool where the service is not
// ready.
func (t tools) health(ctx context.Context) (*mcp.CallToolResult, any, error) {
	base, err := t.client.base()
	if err != nil {
		return nil, nil, err
	}
	k, err := t.client.app.values(&faults{})
	if err != nil {
		return nil, nil, err
	}
	is, status, err := askHealth(ctx, base+"/readyz", k.String("tls_cert_file"))
	if err != nil {
		return nil, nil, err
	}
	if is.Status == "" {
		return nil, nil, fmt.Errorf("the service answered %d %s", status, http.StatusText(status))
	}
	text, err := json.Marshal(is)
	if err != nil {
		return nil, nil, err
	}
	return textResult(string(text)), nil, nil
}

func textResult(text string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}
}
