package proxytest_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, proxytest.Left()...) }

// echo sends back what it receives, line by line, and counts the lines.
func echo(t *testing.T) (address string, received <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	lines := make(chan string, 100)
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer func() { _ = conn.Close() }()
				scanner := bufio.NewScanner(conn)
				for scanner.Scan() {
					lines <- scanner.Text()
					if _, err := conn.Write(append(scanner.Bytes(), '\n')); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { assert.NoError(t, listener.Close()); wait.Wait() })
	return listener.Addr().String(), lines
}

// client is a connection by way of the proxy.
type client struct {
	t    *testing.T
	conn net.Conn
	read *bufio.Reader
}

func newClient(t *testing.T, p *proxytest.Proxy) *client {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

// ask sends a line and returns what comes back, or why nothing does.
func (c *client) ask(line string, within time.Duration) (string, error) {
	c.t.Helper()
	_, err := c.conn.Write([]byte(line + "\n"))
	require.NoError(c.t, err)
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(within)))
	return c.read.ReadString('\n')
}

func (c *client) works() {
	c.t.Helper()
	got, err := c.ask("hello", time.Minute)
	require.NoError(c.t, err)
	require.Equal(c.t, "hello\n", got)
}

// silence is long enough for what comes over loopback, and short where nothing
// comes.
const silence = 200 * time.Millisecond

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

func TestHalfOpen(t *testing.T) {
	t.Parallel()
	service, received := echo(t)
	p := proxytest.New(t, "127.0.0.1:0", service)
	for _, d := range []proxytest.Direction{proxytest.ToService, proxytest.FromService} {
		before := newClient(t, p)
		before.works()
		require.Equal(t, "hello", <-received)
		p.HalfOpen(d)
		_, err := before.ask("lost", silence)
		require.True(t, isTimeout(err), "%s: it stays open: %v", d, err)
		after := newClient(t, p)
		after.works()
		p.Heal()
		_, err = before.ask("lost again", silence)
		require.True(t, isTimeout(err), "%s: forever: %v", d, err)
		if d == proxytest.FromService {
			require.Equal(t, "lost", <-received, "the other direction is well")
		}
		require.Equal(t, "hello", <-received)
	}
}

func TestResetAndRefuse(t *testing.T) {
	t.Parallel()
	service, _ := echo(t)
	p := proxytest.New(t, "127.0.0.1:0", service)
	c := newClient(t, p)
	c.works()
	p.Reset()
	_, err := c.read.ReadString('\n')
	require.ErrorIs(t, err, syscall.ECONNRESET)
	newClient(t, p).works()
	p.Refuse()
	_, err = net.Dial("tcp", p.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	p.Heal()
	newClient(t, p).works()
}

func TestCutDelayAndLimit(t *testing.T) {
	t.Parallel()
	service, _ := echo(t)
	p := proxytest.New(t, "127.0.0.1:0", service)
	c := newClient(t, p)
	c.works()
	p.Cut()
	_, err := c.ask("lost", silence)
	require.True(t, isTimeout(err), err)
	_, err = newClient(t, p).ask("lost as well", silence)
	require.True(t, isTimeout(err), err)
	p.Heal()
	require.NoError(t, c.conn.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = io.ReadAll(c.read)
	require.False(t, isTimeout(err), "the connection ended")

	const latency = 100 * time.Millisecond
	p.Delay(latency, 0)
	c = newClient(t, p)
	began := time.Now()
	c.works()
	assert.GreaterOrEqual(t, time.Since(began), 2*latency)
	p.Heal()
	p.Limit(1000)
	c.works()
	p.Heal()
	c.works()
}
