package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pricemill/pricemill/httpapi/apikeys"
)

// Keys recognizes the API keys of clients. apikeys.Ring is one.
type Keys interface {
	// Required reports whether clients need a key.
	Required() bool
	// Find returns the valid key that is secret, or nil. An error says that nothing certain
	// can be said now.
	Find(ctx context.Context, secret string) (*apikeys.Key, error)
	// Changed returns a channel that is closed once the keys are others than now.
	Changed() <-chan struct{}
}

// caller is who sends a request, as far as a key says so.
type caller struct {
	// required says that clients need a key.
	required bool
	given    bool         // a key, whether valid or not
	key      *apikeys.Key // nil for none that is valid
	err      error        // why that is not known
}

// callerKey is the key of a caller in the context of its request. Without one, no key is
// required.
type callerKey struct{}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// credentials are the key that a client sends: as a Bearer token, or as the password of
// Basic, which is what browsers ask their users for.
func credentials(r *http.Request) (secret string, given bool) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return "", false
	}
	if scheme, token, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token), true
	}
	_, password, _ := r.BasicAuth()
	return password, true
}

func (a *API) identify(ctx context.Context, r *http.Request) (c caller) {
	var secret string
	if secret, c.given = credentials(r); c.given {
		if c.key, c.err = a.ports.Keys.Find(ctx, secret); c.err != nil {
			c.err = fmt.Errorf("looking for an API key: %w: %w", ErrUnavailable, c.err)
		}
	}
	c.required = a.ports.Keys.Required() // Find may just have seen the first one
	return c
}

// identified finds out whose key a request has. What it may do with it is decided where its
// route is known. It comes before the rate limit, which counts by key.
func (a *API) identified(next http.Handler) http.Handler {
	if a.ports.Keys == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := a.identify(r.Context(), r)
		if !c.required {
			next.ServeHTTP(w, r)
			return
		}
		if o, is := w.(*observed); is && c.key != nil {
			o.key = c.key.ID
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// allowed is a handler for those whose key has a scope.
func (a *API) allowed(needed apikeys.Scope, serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	if needed == open {
		return serve
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := a.refuse(w, r, callerOf(r), needed); err != nil {
			return err
		}
		return serve(w, r)
	}
}

// realm is what browsers show where they ask for a key.
const realm = `realm="pricemill"`

// refuse says why a caller may not do what needs a scope; nil where it may.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, c caller, needed apikeys.Scope) error {
	switch {
	case !c.required:
		if needed == apikeys.Read || a.config.OpenCommands || IsOfThisMachine(r) {
			return nil
		}
		return newError(codeForbidden, "While there is no API key, commands are accepted from the service's own machine only: "+
			`make one with "pricemill keys create", or set HTTP_ALLOW_REMOTE_COMMANDS=true`)
	case c.err != nil:
		return c.err
	case c.key != nil && c.key.Scope.Includes(needed):
		return nil
	case c.key != nil:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer %s, error="insufficient_scope", scope="%s"`, realm, needed))
		return newError(codeForbidden, "API key %s has the scope %s; this needs %s", c.key.ID, c.key.Scope, needed)
	}
	detail, reason := "An API key is needed: send it as Authorization: Bearer, or as the password of Basic", ""
	if c.given {
		detail, reason = "The API key is not valid: it is revoked, or was never one of this service", `, error="invalid_token"`
	}
	// Each in a line of its own: not all browsers find the second one in a list.
	w.Header()["Www-Authenticate"] = []string{"Bearer " + realm + reason, "Basic " + realm + `, charset="UTF-8"`}
	return newError(codeUnauthorized, "%s", detail)
}

// IsOfThisMachine reports whether the client of a request is on this machine, as far as that can be told:
// what a proxy passes on is of another client, who may be anywhere.
func IsOfThisMachine(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if len(r.Header[name]) > 0 {
			return false
		}
	}
	return clientOf(r.RemoteAddr).isLoopback()
}

// errNotAllowed ends a stream whose key was revoked.
var errNotAllowed = errors.New("the API key is no longer valid")

// whileAllowed returns a context that ends, with errNotAllowed as its cause, once the caller
// of a request may no longer read.
func (a *API) whileAllowed(ctx context.Context, r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() { cancel(nil) }
	if a.ports.Keys == nil {
		return ctx, stop
	}
	a.push.work.Go(func() {
		for {
			changed := a.ports.Keys.Changed()
			if c := a.identify(ctx, r); c.required && c.err == nil && c.key == nil {
				cancel(errNotAllowed)
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	})
	return ctx, stop
}
