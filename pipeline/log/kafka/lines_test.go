package kafka

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// newHung listens and never says a word.
func newHung(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	var held []net.Conn
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			held = append(held, conn)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wait.Wait()
		for _, conn := range held {
			_ = conn.Close()
		}
	})
	return listener.Addr().String()
}

func TestLinesAreCut(t *testing.T) {
	t.Parallel()
	l, address := newLines(time.Minute, nil), newHung(t)
	conn, err := l.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	l.cut()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read under way: %v", err)
	}
	if conn, err := l.Dial("tcp", address); err == nil {
		t.Errorf("a line was made after the cut: %v", conn.Close())
	}
	if len(l.open) != 1 {
		t.Errorf("%d lines are open, not the one", len(l.open))
	}
	_ = conn.Close() // it is closed already
	if len(l.open) != 0 {
		t.Errorf("%d lines are left", len(l.open))
	}
}

// TestPatience: the deadline of an answer is the client's, or the line's where
// that is sooner.
func TestPatience(t *testing.T) {
	t.Parallel()
	l, address := newLines(time.Minute, nil), newHung(t)
	conn, err := l.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.cut()
	read := func(deadline time.Time) error {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	l.patience.Store(int64(time.Hour))
	if err := read(time.Now().Add(time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's: %v", err)
	}
	l.patience.Store(int64(time.Millisecond))
	if err := read(time.Now().Add(time.Hour)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the line's: %v", err)
	}
}
