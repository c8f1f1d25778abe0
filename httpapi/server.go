package httpapi

import (
	"log/slog"
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
// within 60 s, two minutes of idleness, and no more connections than limits
// allow. What the server itself has to say goes to logger. The caller listens,
// serves and shuts it down.
func NewServer(addr string, handler http.Handler, limits ConnectionLimits, logger *slog.Logger) (*http.Server, *Connections) {
	connections := newConnections(limits, logger)
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         connections.observe,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}, connections
}
