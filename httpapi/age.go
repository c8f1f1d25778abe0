package httpapi

import (
	"net/http"
	"strconv"
	"time"
)

// showAge says by Age how old the tables are that answer a request, where no one
// feeds them: those of an earlier version of the service, until their rebuild takes
// their place.
func (a *API) showAge(w http.ResponseWriter, projections ...string) {
	if a.ports.Stale == nil {
		return
	}
	var oldest time.Duration
	for _, name := range projections {
		if age, stale := a.ports.Stale(name); stale {
			oldest = max(oldest, age, time.Second)
		}
	}
	if oldest > 0 {
		w.Header().Set("Age", strconv.FormatInt(int64(oldest/time.Second), 10))
	}
}

// withAge is a handler that answers from tables of projections.
func (a *API) withAge(serve func(http.ResponseWriter, *http.Request) error, projections ...string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		a.showAge(w, projections...)
		err := serve(w, r)
		if err != nil {
			w.Header().Del("Age")
		}
		return err
	}
}
