package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
)

// maxHealth is more than an answer to a health question is long, in bytes.
const maxHealth = 1 << 20

func newHealth(a *app) *cobra.Command {
	var live bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "health",
		Short: "Check whether the service on this machine is healthy",
		Long: `Ask the service on HTTP_ADDR whether it is ready, and print the checks that
fail. The exit status is 0 if it is ready; warnings are printed to stderr. If
HTTP_ADDR means all interfaces, loopback is asked.`,
		Example: "  pricemill health\n  pricemill health --live --timeout 1s",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := a.values(&faults{}) // what else is wrong is for serve to say
			if err != nil {
				return err
			}
			address, err := askable(k.String("http_addr"))
			if err != nil {
				return err
			}
			path := "/readyz"
			if live {
				path = "/livez"
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			certFile := k.String("tls_cert_file")
			return a.health(ctx, schemeOf(certFile)+address+path, certFile)
		},
	}
	c.Flags().BoolVar(&live, "live", false, "check only that the process answers")
	c.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait for the answer")
	c.Flags().Var(settingFlag{a, "http_addr"}, "http-addr", "address the service listens on")
	return c
}

// askable turns the address that a service listens on into one to ask it on.
func askable(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", fmt.Errorf("%w: HTTP_ADDR: %q is not host:port", errUsage, address)
	}
	if port == "0" {
		return "", fmt.Errorf("%w: HTTP_ADDR: port 0 takes any port: ask for the one in the log, by --http-addr", errUsage)
	}
	// An IPv6 socket on all interfaces may take IPv4 as well, or not.
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() && ip.Is6() {
		host = "::1"
	} else if host == "" || (err == nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// wellness is as much of the answers of /livez and /readyz as is looked at.
type wellness struct {
	Status string `json:"status"`
	Checks []struct {
		Name   string `json:"name"`
		State  string `json:"state"`
		Reason string `json:"reason"`
	} `json:"checks"`
}

// askHealth asks url for its checks, of a service whose certificate is in a file, or that has
// none; status is that of the answer.
func askHealth(ctx context.Context, url, certFile string) (is wellness, status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return wellness{}, 0, fmt.Errorf("%w: HTTP_ADDR: %w", errUsage, err)
	}
	// Straight to the service: no proxy, no redirect, no connection kept.
	transport := &http.Transport{DisableKeepAlives: true}
	if certFile != "" {
		trustOwn(transport, certFile)
	}
	client := &http.Client{Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return wellness{}, 0, fmt.Errorf("not well: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // it was read as far as it matters
	body, err := io.ReadAll(io.LimitReader(response.Body, maxHealth))
	if err != nil {
		return wellness{}, 0, fmt.Errorf("not well: reading the answer of %s: %w", url, err)
	}
	if err := json.Unmarshal(body, &is); err != nil {
		return wellness{}, 0, fmt.Errorf("not well: %s answered %s, and not as pricemill does: %w", url, response.Status, err)
	}
	return is, response.StatusCode, nil
}

// health asks url and reports what is not well as an error.
func (a *app) health(ctx context.Context, url, certFile string) error {
	is, status, err := askHealth(ctx, url, certFile)
	if err != nil {
		return err
	}
	ready := status == http.StatusOK
	errs := []error{fmt.Errorf("not well: %s answered %d %s, %s", url, status, http.StatusText(status), is.Status)}
	for _, check := range is.Checks {
		switch {
		case check.State == "ok":
		case ready:
			fmt.Fprintf(a.stderr, "%s: %s: %s\n", check.State, check.Name, check.Reason)
		default:
			errs = append(errs, fmt.Errorf("%s: %s: %s", check.Name, check.State, check.Reason))
		}
	}
	if !ready {
		return errors.Join(errs...)
	}
	_, err = fmt.Fprintln(a.stdout, is.Status)
	return err
}
