package httpapi

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"
)

// readyTimeout bounds the checks of GET /readyz; orchestrators give up sooner
// or later, and should learn why before they do.
const readyTimeout = 2 * time.Second

type rootBody struct {
	Message string `json:"message"`
	Version string `json:"version"`
	Docs    string `json:"docs"`
}

type statusBody struct {
	Status string `json:"status"`
}

type readyBody struct {
	Status string  `json:"status"`
	Checks []Check `json:"checks"`
}

type versionBody struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// getHealth is the original's: it says that requests are answered, no more.
func (a *API) getHealth(w http.ResponseWriter, r *http.Request) error {
	a.writeJSON(w, r, http.StatusOK, statusBody{"healthy"})
	return nil
}

// getLivez asks nothing of anybody: a process whose database is down must not
// be restarted for it.
func (a *API) getLivez(w http.ResponseWriter, r *http.Request) error {
	a.writeJSON(w, r, http.StatusOK, statusBody{"alive"})
	return nil
}

// readiness runs the checks. No rate limit protects /readyz, so those who ask at one
// time share one look, which none of them ends by leaving.
func (a *API) readiness(ctx context.Context) []Check {
	look, _, _ := a.looks.Do("readyz", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		return a.ports.Readiness(ctx), nil
	})
	return look.([]Check)
}

// getReadyz lists every check, the good ones too, so that an operator sees what
// was looked at.
func (a *API) getReadyz(w http.ResponseWriter, r *http.Request) error {
	checks := a.readiness(r.Context())
	status, body := http.StatusOK, readyBody{"ready", checks}
	if checks == nil {
		body.Checks = []Check{}
	}
	if slices.ContainsFunc(checks, func(c Check) bool { return c.State == CheckFailed }) {
		status, body.Status = http.StatusServiceUnavailable, "not_ready"
	}
	a.writeJSON(w, r, status, body)
	return nil
}

func (a *API) getVersion(w http.ResponseWriter, r *http.Request) error {
	a.writeJSON(w, r, http.StatusOK, versionBody{a.config.Build.Version, a.config.Build.Revision, runtime.Version()})
	return nil
}

// openMetrics is the format of /metrics in which traces are named.
const openMetrics = "application/openmetrics-text"

// getMetrics answers in Prometheus' text format, whatever else the client would
// take, unless there are traces that only OpenMetrics can name. Those who ask at one time share one answer, as with getReadyz; it is
// complete before any of it is sent, so that none who reads slowly holds up the
// others.
func (a *API) getMetrics(w http.ResponseWriter, r *http.Request) error {
	accept := ""
	if a.config.Tracer != nil && strings.Contains(r.Header.Get("Accept"), openMetrics) {
		accept = openMetrics // which has exemplars
	}
	look, err, _ := a.looks.Do("metrics "+accept, func() (any, error) {
		return render(context.WithoutCancel(r.Context()), a.ports.Metrics, "/metrics", http.Header{"Accept": {accept}})
	})
	if err != nil {
		return err
	}
	page := look.(*rendering)
	w.Header().Set("Content-Type", page.header.Get("Content-Type"))
	w.Header().Set("Cache-Control", cacheNever)
	_, _ = w.Write(page.Bytes()) // as in writeJSON
	return nil
}
