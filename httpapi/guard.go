package httpapi

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// guarded refuses, before a request costs anything, names that are not ours and
// pages that may not use the API, and tells browsers which pages may. An API on
// loopback is within reach of every page that its user opens.
//
// It comes before the rate limit: a page of another site must not use up what its
// user may ask.
func (a *API) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.origins.describe(w.Header(), r)
		if err := cmp.Or(a.checkHost(r), a.checkOrigin(r)); err != nil {
			a.writeError(w, r, err)
			return
		}
		if isPreflight(r) && a.origins.allows(r) {
			if methods := a.methods(r); len(methods) > 0 {
				answerPreflight(w, methods)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Guard puts before next what a service of this program refuses, as the API does: a Host
// name that is none of Config.Hosts, an IP address or localhost (421), what a browser sends
// for a page of another origin (403), and more requests of a client address than
// Config.RateLimitPerMinute (429).
func Guard(config Config, next http.Handler) http.Handler {
	a := newAPI(config, Ports{})
	return a.guarded(newRateLimiter(a.config, nil).wrap(next, a.writeError))
}

// checkHost refuses requests for a name that is not ours. A page can have its own
// name lead to this machine (DNS rebinding), and is of one origin with us then.
func (a *API) checkHost(r *http.Request) error {
	if a.config.Hosts == nil || r.Host == "" { // HTTP/1.0 may do without; no browser does
		return nil
	}
	name := strings.ToLower(r.Host)
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.TrimSuffix(strings.Trim(name, "[]"), ".")
	_, err := netip.ParseAddr(name)
	if err == nil || name == "localhost" || strings.HasSuffix(name, ".localhost") || slices.Contains(a.config.Hosts, name) {
		return nil
	}
	return newError(codeMisdirected, "Host %q is not one of this service: see HTTP_HOSTS", abbreviate(name))
}

// checkOrigin refuses what a browser asks for a page of another origin, unless
// that origin is allowed. It is not enough that the page cannot read the answer:
// a command works without that, and GET latest calls a provider and fills the
// database.
//
// A link of another site may still lead a person here, except to a price: a page can
// follow its own links, in a window it opens.
func (a *API) checkOrigin(r *http.Request) error {
	if !isCrossOrigin(r) || a.origins.allows(r) || (isVisit(r) && r.URL.Path != latestPath) {
		return nil
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		return newError(codeForbidden, "Cross-origin request refused: CORS_ALLOW_ORIGINS does not name %q", abbreviate(origin))
	}
	return newError(codeForbidden, "Cross-origin request refused: it names no origin that CORS_ALLOW_ORIGINS could allow")
}

// isCrossOrigin reports whether a browser sent the request for a page of another
// origin. Sec-Fetch-Site says so, which all browsers send to HTTPS and to loopback,
// and no page can change. Without it there is Origin, which they omit from the GET
// of an image or a link: such a GET cannot be told from that of curl.
func isCrossOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none": // none: the user entered the address
		return false
	case "":
		origin := r.Header.Get("Origin")
		_, host, _ := strings.Cut(origin, "://")
		return origin != "" && host != r.Host
	}
	return true
}

// isVisit reports whether the answer becomes the page of a window, not part of one.
func isVisit(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}
