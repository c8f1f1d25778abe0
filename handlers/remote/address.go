// Package remote is what requests to other services share, whatever makes them: which
// addresses they may have, why there is no answer, and when to ask again.
package remote

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// ParseBaseURL reads the URL below which a service lies: scheme, host and
// perhaps a path. It must be https, since answers become prices and a key may go
// along; http is for this machine alone. The text is not in the error: anyone who
// puts a password there should not find it in a log.
func ParseBaseURL(text string) (*url.URL, error) { return parseURL(text, "https", "http") }

// ParseFeedURL is ParseBaseURL for a WebSocket: wss, or ws to this machine.
func ParseFeedURL(text string) (*url.URL, error) { return parseURL(text, "wss", "ws") }

func parseURL(text, secure, plain string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return nil, fmt.Errorf("not a URL such as %s://example.com/api", secure)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("a base URL has no user, query or fragment")
	case u.Scheme != secure && (u.Scheme != plain || !isLoopback(u.Hostname())):
		return nil, fmt.Errorf("%s://%s: want %s, or %s to this machine", u.Scheme, u.Host, secure, plain)
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
