package httpapi

import (
	"net/http"
	"time"
)

// Limits of a connection. The longest answer is a GET latest that waits for its
// fetch: MaxFetchTimeout, MaxOutcomeGrace and a few queries.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = MaxFetchTimeout + MaxOutcomeGrace + 20*time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
)

// NewServer returns a server for addr ("host:port") that no client can hold up:
// headers within 5 s and 32 KiB, the whole request within 15 s, the answer
// within 60 s, two minutes of idleness. The caller listens, serves and shuts it
// down.
func NewServer(addr string, handler http.Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
}
