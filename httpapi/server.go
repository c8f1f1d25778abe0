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

// Limits of a connection of HTTP/2, which carries several requests at once. The times above
// are those of each of them.
const (
	// maxStreams is how many: with as many connections as a client may have, it is still
	// the limit on its rate that it meets first.
	maxStreams = 32
	// maxUnread is how much of bodies is taken before it is read, of a connection; of one
	// request it is no more than a body may have.
	maxUnread = 1 << 20
	// Where nothing came for so long, a client is asked whether it is there, and has so long
	// to answer.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
)

// NewServer returns a server for addr ("host:port") that no client can hold up:
// headers within 5 s and 32 KiB, the whole request within 15 s, the answer
// within 60 s, two minutes of idleness, and no more connections than limits
// allow. It speaks HTTP/1.1 and HTTP/2, the latter also without TLS to clients that begin
// with it (prior knowledge, h2c). What the server itself has to say goes to logger. The caller listens,
// serves and shuts it down.
func NewServer(addr string, handler http.Handler, limits ConnectionLimits, logger *slog.Logger) (*http.Server, *Connections) {
	connections := newConnections(limits, logger)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: maxUnread, MaxReceiveBufferPerStream: MaxBody,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		ConnState: connections.observe,
		ErrorLog:  slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}, connections
}
