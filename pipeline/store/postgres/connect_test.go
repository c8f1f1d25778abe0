package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	const secret = "s3cr:t/@%zz"
	escaped := url.QueryEscape(secret)
	for name, address := range map[string]string{
		"not escaped":        "postgres://me:" + secret + "@127.0.0.1/db",
		"not a port":         "postgres://me:" + escaped + "@127.0.0.1:x/db",
		"another scheme":     "mysql://me:" + escaped + "@127.0.0.1/db",
		"empty":              "",
		"unknown sslmode":    "postgres://me:" + escaped + "@127.0.0.1/db?sslmode=" + escaped,
		"password parameter": "postgres://127.0.0.1/db?password=" + escaped + "&connect_timeout=" + escaped,
		// lib/pq would continue without what is not there.
		"no such authority":   "postgres://me:" + escaped + "@127.0.0.1/db?sslmode=require&sslrootcert=/none",
		"no such certificate": "postgres://me:" + escaped + "@127.0.0.1/db?sslmode=require&sslcert=/none",
		"no such key":         "postgres://me:" + escaped + "@127.0.0.1/db?sslmode=require&sslkey=/none",
		"commits not kept":    "postgres://me:" + escaped + "@127.0.0.1/db?synchronous_commit=off",
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: address})
		require.ErrorIs(t, err, postgres.ErrConfig, name)
		assert.NotContains(t, err.Error(), "s3cr", name)
	}
	_, err := postgres.Open(t.Context(), postgres.Config{MaxConns: 1, LockTimeout: -1, IdleTimeout: time.Hour * 48})
	for _, fault := range []string{"MaxConns", "LockTimeout", "IdleTimeout", "URL"} {
		assert.ErrorContains(t, err, fault, "all faults at once")
	}
	_, err = postgres.Open(t.Context(), postgres.Config{URL: "postgres://me:" + escaped + "@127.0.0.1:1/db"})
	require.Error(t, err)
	assert.NotErrorIs(t, err, postgres.ErrConfig)
	assert.ErrorContains(t, err, "127.0.0.1:1")
	assert.NotContains(t, err.Error(), "s3cr")
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(serverURL(t))
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), "s3cret")
	_, err = postgres.Open(t.Context(), postgres.Config{URL: u.String()})
	require.ErrorContains(t, err, "password authentication failed")
	assert.NotContains(t, err.Error(), "s3cret")
}

// front stands before a server and answers a client that asks for TLS.
type front struct {
	address string
	// asked counts the connections that asked for TLS, plain those that did not.
	asked, plain atomic.Int32
}

// newFront passes connections on to the server, if there is one, after answer
// has had the connection of a client that asked for TLS.
func newFront(t *testing.T, server string, answer func(net.Conn) (net.Conn, error)) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &front{address: listener.Addr().String()}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { f.serve(conn, server, answer) })
		}
	})
	t.Cleanup(func() { assert.NoError(t, listener.Close()); wait.Wait() })
	return f
}

func (f *front) serve(conn net.Conn, server string, answer func(net.Conn) (net.Conn, error)) {
	defer func() { _ = conn.Close() }()
	first := make([]byte, 8)
	if _, err := io.ReadFull(conn, first); err != nil {
		return
	}
	const sslRequest = 80877103
	if binary.BigEndian.Uint32(first[4:]) != sslRequest {
		f.plain.Add(1)
		return
	}
	f.asked.Add(1)
	client, err := answer(conn)
	if err != nil || server == "" {
		return
	}
	backend, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	var wait sync.WaitGroup
	wait.Go(func() { _, _ = io.Copy(backend, client); _ = backend.(*net.TCPConn).CloseWrite() })
	_, _ = io.Copy(client, backend)
	_, _ = client.Close(), backend.Close()
	wait.Wait()
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestPrefersTLS: where the server has TLS, all goes through it.
func TestPrefersTLS(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(serverURL(t))
	require.NoError(t, err)
	certificate := selfSigned(t)
	f := newFront(t, u.Host, func(conn net.Conn) (net.Conn, error) {
		if _, err := conn.Write([]byte("S")); err != nil {
			return nil, err
		}
		return tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}}), nil
	})
	u.Host = f.address
	engine := openEngine(t, postgres.Config{URL: u.String()})
	assert.NoError(t, engine.Close())
	assert.Positive(t, f.asked.Load())
	assert.Zero(t, f.plain.Load())
}

// TestFallsBackOnlyWhereThereIsNoTLS: a fault on the way to TLS is no reason to
// continue without.
func TestFallsBackOnlyWhereThereIsNoTLS(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer  string
		sslmode string
		plain   int32
	}{
		"no TLS":             {"N", "", 1},
		"no TLS, preferred":  {"N", "prefer", 1},
		"no TLS, but needed": {"N", "require", 0},
		"a hangup":           {"", "", 0},
		"a broken handshake": {"Sxxxxxxxxxxxxxxxx", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, "", func(conn net.Conn) (net.Conn, error) {
				_, err := conn.Write([]byte(test.answer))
				return conn, err
			})
			address := "postgres://me:secret@" + f.address + "/db"
			if test.sslmode != "" {
				address += "?sslmode=" + test.sslmode
			}
			_, err := postgres.Open(t.Context(), postgres.Config{URL: address})
			require.Error(t, err)
			assert.Equal(t, test.plain > 0, f.plain.Load() > 0)
			assert.Positive(t, f.asked.Load())
		})
	}
}

// TestNextHost: of several hosts, the first that answers is used.
func TestNextHost(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(serverURL(t))
	require.NoError(t, err)
	query := u.Query()
	query.Set("host", "127.0.0.1,"+u.Hostname())
	query.Set("port", "1,"+u.Port())
	u.Host, u.RawQuery = "", query.Encode()
	engine := openEngine(t, postgres.Config{URL: u.String()})
	assert.NoError(t, engine.Close())
}
