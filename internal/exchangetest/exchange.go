package exchangetest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Plan is what becomes of one connection. The zero Plan continues where the last
// connection ended, and then sends heartbeats forever.
type Plan struct {
	// Refuse is the status with which the handshake is refused; 0 for none.
	// Header goes along.
	Refuse int
	Header http.Header
	// Rewind is how many frames are sent again: those before the place that the
	// last connection reached. Restart is all of them.
	Rewind int
	// Unknown are products that the exchange does not have: a subscription with one of
	// them is refused as a whole.
	Unknown []string
	// Skip is how many frames are never sent.
	Skip int
	// At is called before the n-th frame of the connection is sent, from 0, and
	// once more when there is none left. What it returns is done instead. Nil
	// sends all frames.
	At func(n int) Act
}

// Restart as a Rewind begins the session again.
const Restart = 1 << 30

// Act is something that an exchange does between two frames.
type Act func(ctx context.Context, conn *websocket.Conn) error

// Cut ends the connection without a word.
func Cut(_ context.Context, conn *websocket.Conn) error { return conn.CloseNow() }

// Close ends the connection as the protocol has it.
func Close(_ context.Context, conn *websocket.Conn) error {
	return conn.Close(websocket.StatusGoingAway, "maintenance")
}

// FallSilent sends nothing more, and keeps the connection.
func FallSilent(ctx context.Context, _ *websocket.Conn) error { <-ctx.Done(); return ctx.Err() }

// Send sends a frame that is not of the session, and continues: an error, garbage,
// a frame that is too large.
func Send(text string) Act {
	return func(ctx context.Context, conn *websocket.Conn) error {
		return conn.Write(ctx, websocket.MessageText, []byte(text))
	}
}

// Await sends the next frame only when c is closed.
func Await(c <-chan struct{}) Act {
	return func(ctx context.Context, _ *websocket.Conn) error {
		select {
		case <-c:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Exchange is a running exchange.
type Exchange struct {
	// URL is that of its feed.
	URL string

	t      testing.TB
	frames []Frame
	plan   func(connection int) Plan

	mu          sync.Mutex
	connections int
	place       int // of the next frame in the session
	subscribed  [][]string
	left        [][]string
}

// Start runs an exchange that has these frames until the test ends. plan says
// what becomes of each connection, from 0; nil stands for zero Plans.
func Start(t testing.TB, frames []Frame, plan func(connection int) Plan) *Exchange {
	t.Helper()
	if plan == nil {
		plan = func(int) Plan { return Plan{} }
	}
	e := &Exchange{t: t, frames: frames, plan: plan}
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Done()
		e.accept(ctx, w, r)
	}))
	e.URL = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() {
		stop()
		serving.Wait()
		server.Close()
	})
	return e
}

// Connections is how many there have been, refused ones included.
func (e *Exchange) Connections() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.connections
}

// Subscribed lists the products of each subscription.
func (e *Exchange) Subscribed() [][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.subscribed)
}

// Unsubscribed lists the products of each unsubscription.
func (e *Exchange) Unsubscribed() [][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.left)
}

func (e *Exchange) accept(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	number := e.connections
	e.connections++
	e.mu.Unlock()
	plan := e.plan(number)
	if plan.Refuse != 0 {
		for name, values := range plan.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(plan.Refuse)
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		e.t.Errorf("accepting a connection: %v", err)
		return
	}
	defer func() { _ = conn.CloseNow() }() // it may be closed already
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	products, err := e.subscribe(ctx, conn, plan.Unknown)
	if err != nil {
		return // the client went away, or fell silent, or said what it should not
	}
	listening := &listening{products: products}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer cancel() // the client's end ends the connection
		e.listen(ctx, conn, listening)
	})
	_ = e.replay(ctx, conn, plan, listening) // its errors are the client's end, or ours
	_ = conn.CloseNow()                      // else the client might never end
	reading.Wait()
}

// listening are the products that a connection is subscribed to.
type listening struct {
	mu       sync.Mutex
	products []string
}

func (l *listening) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.products)
}

// change adds and removes products.
func (l *listening) change(r request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.products = slices.DeleteFunc(slices.Clone(l.products), func(product string) bool { return slices.Contains(r.Products, product) })
	if r.Type == "subscribe" {
		l.products = append(l.products, r.Products...)
	}
}

// listen changes what a connection is subscribed to, until the client ends it.
func (e *Exchange) listen(ctx context.Context, conn *websocket.Conn, l *listening) {
	for {
		r, err := e.request(ctx, conn)
		if err != nil {
			return
		}
		l.change(r)
	}
}

// subscribe waits for a subscription without products that are unknown, for each as long as
// the real service does.
func (e *Exchange) subscribe(ctx context.Context, conn *websocket.Conn, unknown []string) ([]string, error) {
	for {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		request, err := e.request(limited, conn)
		cancel()
		if err != nil {
			return nil, err
		}
		products := request.Products
		at := slices.IndexFunc(products, func(product string) bool { return slices.Contains(unknown, product) })
		if at < 0 {
			return products, Send(`{"type":"subscriptions","channels":[{"name":"matches"},{"name":"heartbeat"}]}`)(ctx, conn)
		}
		refusal := fmt.Sprintf(`{"type":"error","message":"Failed to subscribe","reason":"%s is not a valid product"}`, products[at])
		if err := Send(refusal)(ctx, conn); err != nil {
			return nil, err
		}
	}
}

// request is what a client asks for.
type request struct {
	Type     string   `json:"type"` // subscribe or unsubscribe
	Products []string `json:"product_ids"`
	Channels []string `json:"channels"`
}

// request reads a subscription, or the end of one.
func (e *Exchange) request(ctx context.Context, conn *websocket.Conn) (request, error) {
	var r request
	_, text, err := conn.Read(ctx)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil || (r.Type != "subscribe" && r.Type != "unsubscribe") ||
		!slices.Contains(r.Channels, "matches") || !slices.Contains(r.Channels, "heartbeat") {
		e.t.Errorf("a subscription such as %s (%v)", text, err)
		return r, fmt.Errorf("not a subscription: %s", text)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Type == "subscribe" {
		e.subscribed = append(e.subscribed, r.Products)
	} else {
		e.left = append(e.left, r.Products)
	}
	return r, nil
}

// replay sends frames. As the real service does, it begins with the last match
// of each product, whatever the client has seen of them.
func (e *Exchange) replay(ctx context.Context, conn *websocket.Conn, plan Plan, l *listening) error {
	next := e.begin(plan)
	for _, product := range l.all() {
		for i := next - 1; i >= 0; i-- {
			if f := e.frames[i]; f.Product == product {
				if err := conn.Write(ctx, websocket.MessageText, f.Text); err != nil {
					return err
				}
				break
			}
		}
	}
	for n := 0; ; {
		if plan.At != nil {
			if act := plan.At(n); act != nil {
				if err := act(ctx, conn); err != nil {
					return err
				}
			}
		}
		if next >= len(e.frames) {
			return beat(ctx, conn, l)
		}
		if f := e.frames[next]; slices.Contains(l.all(), f.Product) {
			if err := conn.Write(ctx, websocket.MessageText, f.Text); err != nil {
				return err
			}
			n++
		}
		next++
		e.reach(next)
	}
}

// begin is the place where a connection begins.
func (e *Exchange) begin(plan Plan) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return min(max(0, e.place-plan.Rewind)+plan.Skip, len(e.frames))
}

func (e *Exchange) reach(place int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.place = max(e.place, place)
}

// beat sends heartbeats.
func beat(ctx context.Context, conn *websocket.Conn, l *listening) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		for _, product := range l.all() {
			if err := Send(fmt.Sprintf(`{"type":"heartbeat","product_id":%q,"sequence":1,"last_trade_id":1}`, product))(ctx, conn); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
