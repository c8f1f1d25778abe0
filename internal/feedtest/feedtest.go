// Package feedtest is a WebSocket feed for tests, on this machine, that says what it is
// told to.
package feedtest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// Feed is a running feed.
type Feed struct {
	// URL is that of the feed.
	URL string

	mu       sync.Mutex
	requests []*http.Request
	heard    []string
}

// Start runs a feed until the test ends. It greets each client with frames, and sends what
// answer gives for each frame of the client. Nil answers nothing.
func Start(t testing.TB, answer func(heard string) []string, greeting ...string) *Feed {
	t.Helper()
	f := &Feed{}
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Done()
		f.note(func() { f.requests = append(f.requests, r.Clone(context.Background())) })
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client went away
		}
		defer func() { _ = conn.CloseNow() }() // it may be closed already
		send := func(frames []string) {
			for _, frame := range frames {
				_ = conn.Write(ctx, websocket.MessageText, []byte(frame)) // if the client is gone, Read says so
			}
		}
		send(greeting)
		for {
			_, heard, err := conn.Read(ctx)
			if err != nil {
				return
			}
			f.note(func() { f.heard = append(f.heard, string(heard)) })
			if answer != nil {
				send(answer(string(heard)))
			}
		}
	}))
	f.URL = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() {
		stop()
		serving.Wait()
		server.Close()
	})
	return f
}

func (f *Feed) note(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// Requests are the handshakes so far.
func (f *Feed) Requests() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// Heard are the frames of all clients so far.
func (f *Feed) Heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.heard)
}
