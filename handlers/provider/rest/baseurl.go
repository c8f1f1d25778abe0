package rest

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

// isSegment holds for what is one step down in a path. Servers take "." and ".."
// for something else, however they are escaped.
func isSegment(text string) bool { return text != "" && text != "." && text != ".." }

// below returns the URL of a path below base.
func below(base *url.URL, query url.Values, path []string) *url.URL {
	u := *base
	escaped := base.EscapedPath()
	for _, segment := range path {
		u.Path += "/" + segment
		escaped += "/" + url.PathEscape(segment)
	}
	u.RawPath = escaped
	u.RawQuery = query.Encode()
	return &u
}
