package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi"
)

const (
	// clientTimeout is longer than any answer takes: a price may be fetched for
	// it, which a setting bounds to half a minute.
	clientTimeout = time.Minute
	// maxAnswer bounds an answer, in bytes: a full page has far less.
	maxAnswer = 16 << 20
)

// simulatedNote goes to standard error where prices are.
const simulatedNote = "note: simulated prices, made up by pricemill and not of any market"

// client asks a running service by its REST API.
type client struct {
	app    *app
	url    string // --url
	output string
}

// newClient gives a command the flags of a client, with more outputs than table and json if
// any are named.
func newClient(a *app, c *cobra.Command, outputs ...string) *client {
	cl := &client{app: a}
	c.Flags().StringVar(&cl.url, "url", "", "address of the service (default http:// and HTTP_ADDR)")
	outputFlag(c, &cl.output, outputs...)
	return cl
}

// base is the address that paths are put behind.
func (cl *client) base() (string, error) {
	if cl.url != "" {
		u, err := url.Parse(cl.url)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return "", fmt.Errorf("%w: --url: %q is not like http://127.0.0.1:8000", errUsage, cl.url)
		}
		return strings.TrimRight(cl.url, "/"), nil
	}
	k, err := cl.app.values(&faults{})
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(k.String("http_addr"))
	if err != nil {
		return "", fmt.Errorf("%w: HTTP_ADDR: %q is not host:port", errUsage, k.String("http_addr"))
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // it listens there too
	}
	return schemeOf(k.String("tls_cert_file")) + net.JoinHostPort(host, port), nil
}

// schemeOf is how a service is asked that has a certificate in a file, or none.
func schemeOf(certFile string) string {
	if certFile == "" {
		return "http://"
	}
	return "https://"
}

// authorize adds the API key of the settings to a request that has none and is not passed on for another caller, and returns the transport that
// trusts the service's own certificate, if the settings name that.
func (cl *client) authorize(request *http.Request) (*http.Transport, error) {
	var wrong faults
	k, err := cl.app.values(&wrong)
	if err != nil {
		return nil, err
	}
	for _, fault := range wrong { // what is wrong with others is for serve to say
		if strings.HasPrefix(fault.Error(), "PRICEMILL_API_KEY") {
			return nil, fmt.Errorf("%w: %w", errUsage, fault)
		}
	}
	isOther := request.Header.Get("Authorization") != "" || request.Header.Get(headerForwarded) != ""
	if key := strings.TrimSpace(k.String("pricemill_api_key")); key != "" && !isOther {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if file := k.String("tls_cert_file"); file != "" && cl.url == "" {
		trustOwn(transport, file)
	}
	return transport, nil
}

// do sends a request below /api/v1 and reads its answer into into.
func (cl *client) do(ctx context.Context, method, path string, body any, header http.Header, into any) error {
	_, err := cl.exchange(ctx, method, path, body, header, into)
	return err
}

// exchange is do, and returns the place in the log that the answer names, or nothing.
func (cl *client) exchange(ctx context.Context, method, path string, body any, header http.Header, into any) (logPosition string, err error) {
	answer, headers, err := cl.send(ctx, method, path, body, header)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		base, _ := cl.base() // which send has used
		return "", fmt.Errorf("reading the answer of %s/api/v1%s: %w", base, path, err)
	}
	if headers.Get(httpapi.HeaderSimulated) == "true" {
		// Not to stdout, which may be JSON for another program.
		fmt.Fprintln(cl.app.stderr, simulatedNote)
	}
	return headers.Get("X-Log-Position"), nil
}

// send sends a request below /api/v1 and returns its answer. One of an error is an error.
func (cl *client) send(ctx context.Context, method, path string, body any, header http.Header) ([]byte, http.Header, error) {
	base, err := cl.base()
	if err != nil {
		return nil, nil, err
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, nil, fmt.Errorf("encoding the request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, base+"/api/v1"+path, content)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	transport, err := cl.authorize(request)
	if err != nil {
		return nil, nil, err
	}
	transport.DisableKeepAlives = true // there is one request
	response, err := (&http.Client{Timeout: clientTimeout, Transport: transport}).Do(request)
	if err != nil {
		return nil, nil, fmt.Errorf("asking the service: %w%s", err, startHint(err))
	}
	defer func() { _ = response.Body.Close() }() // it was read
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer of %s: %w", request.URL, err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return nil, nil, refusal(response, answer)
	}
	return answer, response.Header, nil
}

// startHint is what to do where nothing listens.
func startHint(err error) string {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return ""
	}
	return `; is it running? Start it with "pricemill serve", or say where it is with --url`
}

// refusal says why the service did not do it. What it could not read is an error
// of usage.
func refusal(response *http.Response, answer []byte) error {
	var body struct{ Detail json.RawMessage }
	var detail string
	var faults []struct {
		Loc []any
		Msg string
	}
	_ = json.Unmarshal(answer, &body) // another server's answer says nothing
	if json.Unmarshal(body.Detail, &faults) == nil {
		for _, f := range faults {
			detail += fmt.Sprintf("; %v: %s", f.Loc[len(f.Loc)-1], f.Msg)
		}
		detail = strings.TrimPrefix(detail, "; ")
	} else if json.Unmarshal(body.Detail, &detail) != nil {
		detail = "no explanation"
	}
	err := fmt.Errorf("the service answered %s: %s", response.Status, detail)
	if response.StatusCode == http.StatusUnauthorized {
		return &keyError{err}
	}
	if response.StatusCode == http.StatusUnprocessableEntity || response.StatusCode == http.StatusBadRequest {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return err
}

// show asks and prints: the answer as it came where JSON is wanted, so that no
// digit is lost, or else what table makes of it.
func show[T any](ctx context.Context, cl *client, method, path string, body any, header http.Header, table func(io.Writer, T)) error {
	var raw json.RawMessage
	if err := cl.do(ctx, method, path, body, header, &raw); err != nil {
		return err
	}
	var value T
	if err := json.Unmarshal(raw, &value); err != nil {
		return errors.Join(errors.New("the answer is not what this version reads"), err)
	}
	return cl.app.print(cl.output, raw, func(w io.Writer) { table(w, value) })
}

// keyError says that a service refused a request for its API key, or for want of one.
type keyError struct{ cause error }

func (e *keyError) Error() string {
	return fmt.Sprintf("%v: set PRICEMILL_API_KEY: %v", errUsage, e.cause)
}

// Unwrap makes it a wrong call.
func (e *keyError) Unwrap() []error { return []error{errUsage, e.cause} }
