package httpapi

import (
	"net/http"

	"github.com/pricemill/pricemill/httpapi/apikeys"
)

// open is the scope of routes that need no key: those by which an orchestrator watches the
// process, and the documentation, which is the same in every installation.
const open apikeys.Scope = ""

var openRoutes = map[string]bool{
	"/health": true, "/livez": true, "/readyz": true,
	"/docs": true, "/docs/{asset}": true, "/redoc": true, redocScript: true, "/openapi.json": true,
	"/dashboard/assets/{file}": true,
}

// commandRoutes are the routes that change something and need no more than the scope
// command.
var commandRoutes = map[string]bool{
	"POST /api/v1/prices/poll":                 true,
	"DELETE /api/v1/prices/poll/{job_id}":      true,
	"POST /api/v1/prices/poll/{job_id}/pause":  true,
	"POST /api/v1/prices/poll/{job_id}/resume": true,
	"POST /api/v1/streams":                     true,
	"PATCH /api/v1/streams/{stream_id}":        true,
	"DELETE /api/v1/streams/{stream_id}":       true,
	"POST /api/v1/backfills":                   true,
	"DELETE /api/v1/backfills/{backfill_id}":   true,
	// What a button does is a request of its own, with a scope of its own.
	"POST " + actionsPath: true,
}

// readRoutes are the routes that change nothing, although their method could.
var readRoutes = map[string]bool{
	"POST " + historyBatchPath: true,
}

// scopeOf is the scope that a route needs, and the one place where that is said. Anything
// that changes something and is not listed is for administrators.
func scopeOf(method, path string) apikeys.Scope {
	switch {
	case openRoutes[path]:
		return open
	case method == http.MethodGet, readRoutes[method+" "+path]:
		return apikeys.Read
	case commandRoutes[method+" "+path]:
		return apikeys.Command
	}
	return apikeys.Admin
}
