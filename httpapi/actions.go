package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/httpapi/dashboard"
)

const actionsPath = "/dashboard/actions"

// action is what a button of a page does: a request of the API, of which the form is
// another way to write it.
type action struct {
	page   string // where its button is
	done   string // what the page says then
	method string
	// path may hold {id}, the field of that name.
	path string
	// body is that of the request; nil for none.
	body func(form url.Values) any
}

var actions = map[string]action{
	"create-job": {"/dashboard/jobs", "The job was accepted.", http.MethodPost, "/api/v1/prices/poll", func(form url.Values) any {
		return map[string]any{"symbols": listed(form.Get("symbols")), "interval": number(form.Get("interval")), "provider": form.Get("provider")}
	}},
	"pause-job":  {"/dashboard/jobs", "The job is being paused.", http.MethodPost, "/api/v1/prices/poll/{id}/pause", nil},
	"resume-job": {"/dashboard/jobs", "The job is being resumed.", http.MethodPost, "/api/v1/prices/poll/{id}/resume", nil},
	"stop-job":   {"/dashboard/jobs", "The job is being stopped.", http.MethodDelete, "/api/v1/prices/poll/{id}", nil},
	"start-stream": {"/dashboard/jobs", "The stream was accepted.", http.MethodPost, "/api/v1/streams", func(form url.Values) any {
		return map[string]any{"symbols": listed(form.Get("symbols")), "provider": form.Get("provider")}
	}},
	"stop-stream":   {"/dashboard/jobs", "The stream is being stopped.", http.MethodDelete, "/api/v1/streams/{id}", nil},
	"stop-backfill": {"/dashboard/jobs", "The backfill is being stopped.", http.MethodDelete, "/api/v1/backfills/{id}", nil},
	"retry-letter":  {"/dashboard/pipeline", "The record is being retried.", http.MethodPost, "/api/v1/dead-letters/{id}/retry", nil},
	"start-rebuild": {"/dashboard/pipeline", "The rebuild was accepted.", http.MethodPost, "/api/v1/rebuilds", func(form url.Values) any {
		return map[string]any{"projection": form.Get("projection")}
	}},
	"promote-rebuild":   {"/dashboard/pipeline", "The rebuild was promoted.", http.MethodPost, "/api/v1/rebuilds/{id}/promote", nil},
	"roll-back-rebuild": {"/dashboard/pipeline", "The rebuild was rolled back.", http.MethodPost, "/api/v1/rebuilds/{id}/rollback", nil},
	"cancel-rebuild":    {"/dashboard/pipeline", "The rebuild was cancelled.", http.MethodDelete, "/api/v1/rebuilds/{id}", nil},
}

// listed are the parts of a text between commas and space.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' || c == '\t' })
}

// number is a whole number, or the text itself, of which the API says what is wrong.
func number(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	return text
}

// notice is what the page says after an action. The address names the action only, so
// that no link can have the page say anything else.
func notice(r *http.Request) string { return actions[r.URL.Query().Get("done")].done }

// postAction does what a button of a page says, and sends the browser to the page
// again. What the API refuses becomes a page with its reason.
func (a *API) postAction(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(r)
	if err != nil {
		return a.writeFailure(w, r, err)
	}
	name := form.Get("do")
	act, known := actions[name]
	if !known {
		return a.writeFailure(w, r, faults{inBody(abbreviate(name), "do").wrong("there is no such action")})
	}
	answer, err := a.ask(r, act, form)
	if err != nil {
		return a.writeFailure(w, r, err)
	}
	if answer.status >= http.StatusMultipleChoices {
		if after := answer.header.Get("Retry-After"); after != "" {
			w.Header().Set("Retry-After", after)
		}
		return writePage(w, answer.status, dashboard.Failure{Frame: a.frame("Not done", ""), Status: answer.status, Detail: reasonOf(answer.Bytes()), Back: act.page})
	}
	w.Header().Set("Cache-Control", cacheNever)
	w.Header().Set("Location", act.page+"?done="+name)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// readForm reads the fields of a form.
func readForm(r *http.Request) (url.Values, error) {
	text, err := readBody(r)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(text))
	if err != nil {
		return nil, newError(codeBadRequest, "There was an error parsing the form")
	}
	return form, nil
}

// ask makes the request that an action is. Its origin was checked, and it counted, when
// the form came.
func (a *API) ask(r *http.Request, act action, form url.Values) (*rendering, error) {
	var body io.Reader = http.NoBody
	if act.body != nil {
		text, err := encode(act.body(form))
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	path := strings.ReplaceAll(act.path, "{id}", url.PathEscape(form.Get("id")))
	request, err := http.NewRequestWithContext(r.Context(), act.method, path, body)
	if err != nil {
		return nil, fmt.Errorf("making the request of a form: %w", err)
	}
	request.Host, request.RemoteAddr = r.Host, r.RemoteAddr
	answer := newRendering()
	a.router.ServeHTTP(answer, request)
	return answer, nil
}
