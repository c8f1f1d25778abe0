// Package redistest runs a Redis of a test's own, which can be killed.
package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// servicesVariable says that tests run on real services: then Redis has to be there.
const servicesVariable = "PRICEMILL_TEST_SERVICES"

// urlVariable names a Redis that tests may use together.
const urlVariable = "PRICEMILL_TEST_REDIS_URL"

// SharedURL is that of a Redis of which the test has no more than what it names by itself: the
// one that a variable names, or one of its own.
func SharedURL(t testing.TB) string {
	t.Helper()
	if url := os.Getenv(urlVariable); url != "" {
		return url
	}
	return Start(t).URL()
}

// Server is a Redis on a port of this machine.
type Server struct {
	Port    string
	t       testing.TB
	dir     string
	listens []string // the options by which it does
	options []string
	process *exec.Cmd
}

// Start runs a Redis until the test ends, with options as on its command line, and skips the
// test where the machine has none. It keeps nothing on disk.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	port := freePort(t)
	return start(t, port, []string{"--port", port}, options)
}

// StartTLS is Start with TLS alone, by files of a certificate, its key and their authority.
func StartTLS(t testing.TB, certFile, keyFile, caFile string, options ...string) *Server {
	t.Helper()
	port := freePort(t)
	return start(t, port, []string{"--port", "0", "--tls-port", port, "--tls-cert-file", certFile, "--tls-key-file", keyFile,
		"--tls-ca-cert-file", caFile, "--tls-auth-clients", "no"}, options)
}

func start(t testing.TB, port string, listens, options []string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		require.Empty(t, os.Getenv(servicesVariable), "Redis is missing: apt-get install redis-server")
		t.Skip("needs Redis: apt-get install redis-server")
	}
	s := &Server{Port: port, t: t, dir: t.TempDir(), listens: listens, options: options}
	t.Cleanup(s.Kill)
	s.Run()
	return s
}

// URL is the address for REDIS_URL, without a password.
func (s *Server) URL() string { return "redis://" + s.Address() }

// Address is host and port.
func (s *Server) Address() string { return "127.0.0.1:" + s.Port }

// Run starts the server, which does not run, on the port that it had.
func (s *Server) Run() {
	s.t.Helper()
	log := filepath.Join(s.dir, "log")
	_ = os.Remove(log) // of a run before
	s.process = exec.Command("redis-server", slices.Concat(s.listens, []string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", s.dir, "--logfile", log}, s.options)...)
	require.NoError(s.t, s.process.Start())
	var said []byte
	if !assert.Eventually(s.t, func() bool {
		said, _ = os.ReadFile(log) // which may not be there yet
		return bytes.Contains(said, []byte("Ready to accept connections"))
	}, 30*time.Second, 10*time.Millisecond) {
		require.FailNow(s.t, "Redis does not start", string(said))
	}
}

// Kill ends the server as a crash does.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait() // it was killed
	s.process = nil
}

// Freeze has the server answer nothing, with its connections open.
func (s *Server) Freeze() {
	s.t.Helper()
	require.NoError(s.t, s.process.Process.Signal(syscall.SIGSTOP))
}

// Thaw undoes Freeze.
func (s *Server) Thaw() {
	s.t.Helper()
	require.NoError(s.t, s.process.Process.Signal(syscall.SIGCONT))
}

// given counts the ports that were tried, so that no two tests get the same.
var given atomic.Int64

// freePort is a port that no one listens on. Those that systems give to outgoing connections
// are above: none of them takes it while the server is killed.
func freePort(t testing.TB) string {
	t.Helper()
	for range 10_000 {
		port := 20_000 + (os.Getpid()*50+int(given.Add(1)))%10_000
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		require.NoError(t, listener.Close())
		return fmt.Sprint(port)
	}
	require.Fail(t, "no free port")
	return ""
}
