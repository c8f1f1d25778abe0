package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/httpapi/dashboard"
)

const htmlMedia = "text/html"

// frame is what all pages show.
func (a *API) frame(title, page string) dashboard.Frame {
	return dashboard.Frame{Title: title, Page: page, Version: a.config.Build.Version}
}

// page is a handler that answers with a page: that of what it reads, or that of the
// error.
func page[V dashboard.View](a *API, read func(r *http.Request) (V, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		view, err := read(r)
		if err != nil {
			return a.writeFailure(w, r, err)
		}
		return writePage(w, http.StatusOK, view)
	}
}

// writeFailure answers with an error as a page, with the status that it has in the API.
func (a *API) writeFailure(w http.ResponseWriter, r *http.Request, err error) error {
	status, body := a.answerTo(w, r, err)
	text, err := encode(body)
	if err != nil {
		return err
	}
	return writePage(w, status, dashboard.Failure{Frame: a.frame(http.StatusText(status), ""), Status: status, Detail: reasonOf(text), Back: "/"})
}

// reasonOf is what the body of an error says, for people.
func reasonOf(body []byte) string {
	var failed errorBody
	if json.Unmarshal(body, &failed) == nil {
		return failed.Detail
	}
	var invalid validationBody
	if json.Unmarshal(body, &invalid) != nil {
		return "There is no explanation."
	}
	var reasons []string
	for _, f := range invalid.Detail {
		reasons = append(reasons, fmt.Sprintf("%v: %s.", f.Loc[len(f.Loc)-1], f.Msg))
	}
	return strings.Join(reasons, " ")
}

func writePage(w http.ResponseWriter, status int, view dashboard.View) error {
	text, err := dashboard.Render(view)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Security-Policy", dashboard.Policy)
	w.Header().Set("Cache-Control", cacheDocument)
	w.Header().Set("Content-Type", htmlContent)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // as in writeJSON
	return nil
}

// getDashboardAsset serves a file that pages load.
func (a *API) getDashboardAsset(w http.ResponseWriter, r *http.Request) error {
	content, contentType, found := dashboard.Asset(mux.Vars(r)["file"])
	if !found {
		return newError(codeNotFound, "Not Found")
	}
	newDocument(contentType, content).write(w, r, cacheDocument)
	return nil
}

// getRoot is the watch list for browsers, and for others what it was before there
// were pages.
func (a *API) getRoot(w http.ResponseWriter, r *http.Request) error {
	vary(w.Header(), "Accept")
	if preferred(r, htmlMedia) != "" {
		return page(a, a.readWatchList)(w, r)
	}
	a.writeJSON(w, r, http.StatusOK, rootBody{"Pricemill market data service", a.config.Build.Version, "/docs"})
	return nil
}
