package postgres

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newLine returns a line to a server that says nothing, and its other end.
func newLine(t *testing.T, silence time.Duration) (*line, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	l := &line{Conn: ours, silence: silence}
	t.Cleanup(func() { assert.NoError(t, theirs.Close()); assert.NoError(t, l.Close()) })
	return l, theirs
}

// TestSilentServer: a server that says nothing counts as gone, but for the time
// that lib/pq sets itself.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	l, theirs := newLine(t, 20*time.Millisecond)
	_, err := l.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = l.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	require.NoError(t, l.SetDeadline(time.Now().Add(-time.Second)))
	l.silence = time.Hour
	_, err = l.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the deadline that was set")

	require.NoError(t, l.SetDeadline(time.Time{}))
	go func() { _, _ = theirs.Write([]byte("x")) }()
	n, err := l.Read(make([]byte, 1))
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}

// TestALineFollowsAContext: what is under way ends with its context, also before
// it began and in the start of a session; what follows has a context of its own.
func TestALineFollowsAContext(t *testing.T) {
	t.Parallel()
	l, theirs := newLine(t, 0)
	read := func() error { _, err := l.Read(make([]byte, 1)); return err }

	ctx, cancel := context.WithCancel(t.Context())
	l.follow(ctx)
	ended := make(chan error, 1)
	go func() { ended <- read() }()
	cancel()
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
	require.ErrorIs(t, read(), os.ErrDeadlineExceeded, "nothing more for that context")

	l.follow(ctx)
	require.ErrorIs(t, read(), os.ErrDeadlineExceeded, "it was done already")

	l.follow(t.Context())
	go func() { _, _ = theirs.Write([]byte("x")) }()
	require.NoError(t, read(), "another context")

	require.NoError(t, l.SetDeadline(time.Now().Add(time.Hour)))
	l.follow(ctx)
	require.ErrorIs(t, read(), os.ErrDeadlineExceeded, "in the start of a session")
	require.NoError(t, l.SetDeadline(time.Time{}))
	require.ErrorIs(t, read(), os.ErrDeadlineExceeded, "after it")
}
