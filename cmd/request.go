package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newRequest(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "request ID",
		Short: "Show the outcome of a fetch request",
		Long: `Show whether a provider was asked for a price, and the outcome. The id is in the
header Pricemill-Request of an answer of GET /api/v1/prices/latest.`,
		Example: "  pricemill request 5b1f8a39-9f35-4c1f-8e2a-7c551d9a4a20\n  pricemill request 5b1f8a39-9f35-4c1f-8e2a-7c551d9a4a20 -o json",
		Args:    exactArgs(1),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return show(c.Context(), cl, http.MethodGet, "/requests/"+url.PathEscape(args[0]), nil, nil, func(w io.Writer, r requestLine) {
			fmt.Fprintln(w, "STATUS\tSYMBOL\tPROVIDER\tREQUESTED\tPRICE\tTIMESTAMP\tREASON")
			price, at, reason := "-", "-", "-"
			if r.Price != nil {
				price, at = r.Price.String(), r.Timestamp
			}
			if r.Code != "" {
				reason = r.Code + ": " + r.Reason
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Status, r.Symbol, r.Provider, r.RequestedAt, price, at, reason)
		})
	}
	return c
}

// requestLine is a fetch request, with the digits of its price as they came.
type requestLine struct {
	Status, Symbol, Provider string
	RequestedAt              string `json:"requested_at"`
	Price                    *json.Number
	Timestamp                string
	Code, Reason             string
}
