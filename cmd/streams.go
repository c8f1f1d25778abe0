package cmd

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func newStreams(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "streams",
		Short: "Start, change, list and stop streams",
	}
	parent.AddCommand(newStreamsStart(a), newStreamsChange(a),
		ofStreams.newList(a, "List streams, newest first",
			"stream_id", "status", "provider", "symbols", "messages", "gaps", "reconnects", "last_message_at"),
		ofStreams.newCommand(a, http.MethodDelete, "stop", "", "Stop a stream"))
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
		Short:   "Start a stream: prices come as the provider sends them",
		Long:    "Start a stream: prices arrive as the provider sends them, until it is stopped.",
		Example: "  pricemill streams start BTC-USD ETH-USD --provider coinbase",
		Args:    atLeast(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&body.Provider, "provider", "", "a provider that streams; see \"pricemill providers\"")
	c.RunE = func(c *cobra.Command, args []string) error {
		if body.Provider == "" {
			return fmt.Errorf("%w: --provider is needed; \"pricemill providers\" lists those that stream", errUsage)
		}
		body.Symbols = args
		return show(c.Context(), cl, http.MethodPost, ofStreams.path, body, nil, printStream)
	}
	return c
}

func printStream(w io.Writer, s streamLine) {
	fmt.Fprintln(w, "STREAM\tSYMBOLS\tPROVIDER")
	fmt.Fprintf(w, "%s\t%s\t%s\n", s.StreamID, strings.Join(s.Config.Symbols, ","), s.Config.Provider)
}

func newStreamsChange(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "change STREAM SYMBOL...",
		Short:   "Give a stream other symbols, in place of all that it has",
		Example: "  pricemill streams change stream_abc12345 BTC-USD SOL-USD",
		Args:    atLeast(2),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		body := struct {
			Symbols []string `json:"symbols"`
		}{args[1:]}
		return show(c.Context(), cl, http.MethodPatch, ofStreams.one(args[0]), body, nil, printStream)
	}
	return c
}
