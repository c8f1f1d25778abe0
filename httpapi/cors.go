package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// anyOrigin allows the pages of all origins.
const anyOrigin = "*"

// What pages of allowed origins may send and see. There are no credentials that a browser
// would add by itself: such a page sends the API key that it has.
const (
	corsRequestHeaders  = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID"
	corsResponseHeaders = "Age, ETag, Link, Pricemill-Adjusted, Pricemill-Market, Pricemill-Other-Providers, Pricemill-Request, Pricemill-Simulated, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Accel-Buffering, X-Log-Position"
	// corsMaxAge is how long a browser may remember the answer to a preflight, in
	// seconds, and so how long an origin that is no longer allowed keeps asking.
	corsMaxAge = 600
)

// origins are those whose pages may use the API.
type origins struct {
	any   bool
	named map[string]bool
}

// newOrigins takes origins in the form that ParseOrigin gives them.
func newOrigins(allowed []string) origins {
	o := origins{named: map[string]bool{}}
	for _, origin := range allowed {
		o.any = o.any || origin == anyOrigin
		o.named[origin] = true
	}
	return o
}

// allows reports whether the page that a browser asks for may use the API. Where
// only some may, it must say which it is.
func (o origins) allows(r *http.Request) bool { return o.any || o.named[r.Header.Get("Origin")] }

// describe sets the headers by which a browser lets a page read the answer, whatever
// that will be.
func (o origins) describe(header http.Header, r *http.Request) {
	switch {
	case o.any:
		header.Set("Access-Control-Allow-Origin", anyOrigin)
	case len(o.named) == 0:
		return
	default:
		vary(header, "Origin")
		if !o.allows(r) {
			return
		}
		header.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	}
	header.Set("Access-Control-Expose-Headers", corsResponseHeaders)
}

// isPreflight reports whether a browser asks whether a page may send a request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

func answerPreflight(w http.ResponseWriter, methods []string) {
	header := w.Header()
	header.Del("Access-Control-Expose-Headers")
	vary(header, "Access-Control-Request-Method")
	vary(header, "Access-Control-Request-Headers")
	header.Set("Access-Control-Allow-Methods", strings.Join(methods, ", "))
	header.Set("Access-Control-Allow-Headers", corsRequestHeaders)
	header.Set("Access-Control-Max-Age", strconv.Itoa(corsMaxAge))
	w.WriteHeader(http.StatusNoContent)
}

// vary says that the answer depends on one more header of the request.
func vary(header http.Header, name string) {
	if others := header.Get("Vary"); others != "" {
		name = others + ", " + name
	}
	header.Set("Vary", name)
}

// ParseOrigin returns an origin in the form in which browsers send it, such as
// https://app.example or http://localhost:3000, or "*" for all origins. Its error
// says what is wrong with the text.
func ParseOrigin(text string) (string, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if text == anyOrigin {
		return text, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil {
		return "", fmt.Errorf("%q is not an origin such as https://app.example or http://localhost:3000", text)
	}
	if u.Path != "" || strings.ContainsAny(text, "?#") {
		return "", fmt.Errorf("%q is more than an origin, which ends after the host or the port", text)
	}
	if strings.Trim(u.Hostname(), "abcdefghijklmnopqrstuvwxyz0123456789.-:_") != "" {
		return "", fmt.Errorf("%q does not name one host; write names beyond ASCII as browsers send them, beginning with xn--", text)
	}
	if port := u.Port(); port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", fmt.Errorf("%q: port %s is not within 0 and 65535", text, port)
		}
		if u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" { // browsers leave it out
			u.Host = strings.TrimSuffix(u.Host, ":"+port)
		}
	}
	return u.Scheme + "://" + u.Host, nil
}
