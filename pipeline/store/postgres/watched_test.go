package postgres

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSilentServer: a server that says nothing counts as gone, but for the time
// that lib/pq sets itself.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { assert.NoError(t, theirs.Close()); assert.NoError(t, ours.Close()) })
	conn := &watchedConn{Conn: ours, silence: 20 * time.Millisecond}
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = conn.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	require.NoError(t, conn.SetDeadline(time.Now().Add(-time.Second)))
	conn.silence = time.Hour
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the deadline that was set")

	require.NoError(t, conn.SetDeadline(time.Time{}))
	go func() { _, _ = theirs.Write([]byte("x")) }()
	n, err := conn.Read(make([]byte, 1))
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}
