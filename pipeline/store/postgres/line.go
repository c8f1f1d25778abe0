package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/pricemill/pricemill/pipeline/store/prepared"
)

// lineGrace is how long a line waits for the server's own word after the context
// of what it asked is done: by lib/pq's request to cancel, it comes within some
// round trips from a server that lives. As long may that request itself take: it goes
// by a connection of its own, and a statement that was prepared does not return before.
const lineGrace = 500 * time.Millisecond

// line is the network connection of a session. A read or write of it fails where
// the server says nothing for too long, or where the context of what is under way
// is done and the server does not say so itself.
//
// lib/pq asks the server to cancel, and then waits for its answer however long
// that takes: a client of a server that hangs, or of a network that drops what is
// sent, would hang with it. Keepalives do not help: they find a peer that is gone,
// but not bytes that were sent and never acknowledged, which the system sends
// again for a quarter of an hour, nor a server that is there and does nothing.
type line struct {
	net.Conn
	// silence is for how long the server may say nothing when it was asked; 0 is
	// forever.
	silence time.Duration

	mu sync.Mutex
	// start is the deadline that lib/pq sets for the start of a session; zero
	// after it.
	start time.Time
	// over is the deadline of what is under way once its context is done; zero
	// before.
	over time.Time
	// turn counts what the line followed, and unfollow ends the present turn.
	turn     int
	unfollow []func() bool
}

// follow has the line obey these contexts instead of those it obeyed before. It is
// called with each thing that is asked of the session, so a context that is done
// when its answer is already there does no harm: an idle line has nothing under
// way, and the next question brings its own context.
func (l *line) follow(contexts ...context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopFollowing()
	if !l.over.IsZero() {
		l.over = time.Time{}
		_ = l.Conn.SetDeadline(l.start) // a failure shows at the next read
	}
	turn := l.turn
	for _, ctx := range contexts {
		l.unfollow = append(l.unfollow, context.AfterFunc(ctx, func() { l.end(turn) }))
	}
}

// stopFollowing is called with the lock held.
func (l *line) stopFollowing() {
	for _, stop := range l.unfollow {
		stop()
	}
	l.unfollow = l.unfollow[:0]
	l.turn++
}

// end gives what is under way its last deadline, unless the line moved on to
// something else: AfterFunc may have begun to run when follow called it off.
func (l *line) end(turn int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turn != turn {
		return
	}
	l.over = time.Now().Add(lineGrace)
	if !l.start.IsZero() && l.start.Before(l.over) {
		l.over = l.start
	}
	_ = l.Conn.SetDeadline(l.over) // also of reads that have begun
}

// farewell lets what was followed go, and gives the end of the session its time.
func (l *line) farewell() {
	ended, end := context.WithCancel(context.Background())
	end()
	l.follow(ended)
}

// await sets the deadline of a read or write that begins.
func (l *line) await(set func(time.Time) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silence == 0 || !l.start.IsZero() || !l.over.IsZero() {
		return nil // there is none, or it is set
	}
	return set(time.Now().Add(l.silence))
}

// Read implements net.Conn. lib/pq reads only while it waits for an answer, so an
// idle connection meets no deadline.
func (l *line) Read(b []byte) (int, error) {
	if err := l.await(l.Conn.SetReadDeadline); err != nil {
		return 0, err
	}
	return l.Conn.Read(b)
}

// Write implements net.Conn.
func (l *line) Write(b []byte) (int, error) {
	if err := l.await(l.Conn.SetWriteDeadline); err != nil {
		return 0, err
	}
	return l.Conn.Write(b)
}

// SetDeadline implements net.Conn. lib/pq calls it at the start of a session and
// at the end of that.
func (l *line) SetDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start = t
	if !l.over.IsZero() {
		return nil // which comes first
	}
	return l.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.mu.Lock()
	l.stopFollowing()
	l.mu.Unlock()
	return l.Conn.Close()
}

// dialer makes lines.
type dialer struct{ silence time.Duration }

var (
	_ pq.Dialer        = dialer{}
	_ pq.DialerContext = dialer{}
)

// Dial implements pq.Dialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout implements pq.Dialer.
func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements pq.DialerContext. lib/pq's context ends with the dialing;
// what the session is opened for is known by its opening.
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	o, opens := ctx.Value(openingKey{}).(*opening)
	if !opens { // then lib/pq asks the server to cancel: see openLine
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lineGrace)
		defer cancel()
	}
	// As in Config.session, for the other direction.
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
	conn, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, silence: d.silence}
	if opens {
		l.follow(o.ctx)
		o.line = l
	} else {
		l.farewell()
	}
	return l, nil
}

// opening is a session on its way: for whom, and by which line.
type opening struct {
	ctx  context.Context
	line *line
}

type openingKey struct{}

// openLine opens a session whose line follows the contexts of what it is asked. All
// sessions are opened by it, so a line that lib/pq dials without an opening is one for
// a request to cancel.
func openLine(ctx context.Context, c *pq.Connector) (driver.Conn, error) {
	o := &opening{ctx: ctx}
	conn, err := c.Connect(context.WithValue(ctx, openingKey{}, o))
	if err != nil {
		return nil, err
	}
	inner, ok := conn.(pqConn)
	if !ok || o.line == nil {
		return nil, fmt.Errorf("lib/pq opened a %T, which is not as it was", conn)
	}
	return &lineConn{pqConn: inner, line: o.line, statements: prepared.New(inner, isStale)}, nil
}

// pqConn is what database/sql may use of a connection of lib/pq's.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// lineConn is a session with its line. Statements that were prepared run under the
// context that they were prepared with.
type lineConn struct {
	pqConn
	line       *line
	statements *prepared.Statements
	// tx is the context of the transaction under way; nil where there is none. It
	// counts for each statement of it: some are given a context of no account.
	tx context.Context
}

// follow is called with the context of what is asked next.
func (c *lineConn) follow(ctx context.Context) {
	if c.tx != nil {
		c.line.follow(ctx, c.tx)
	} else {
		c.line.follow(ctx)
	}
}

// QueryContext implements driver.QueryerContext.
func (c *lineConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.follow(ctx)
	if len(args) == 0 { // one round trip as it is, and maybe several statements
		return c.pqConn.QueryContext(ctx, query, args)
	}
	return c.statements.Query(ctx, query, args)
}

// ExecContext implements driver.ExecerContext.
func (c *lineConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.follow(ctx)
	if len(args) == 0 {
		return c.pqConn.ExecContext(ctx, query, args)
	}
	return c.statements.Exec(ctx, query, args)
}

// IsValid implements driver.Validator.
func (c *lineConn) IsValid() bool { return c.pqConn.IsValid() && !c.statements.Cut() }

// isStale reports that a table was altered since a statement was prepared, or that
// the session was cleaned of its statements.
func isStale(err error) bool {
	var server *pq.Error
	return errors.As(err, &server) &&
		(server.Code == "0A000" || // feature_not_supported: a plan must not change its result type
			server.Code == "26000") // invalid_sql_statement_name
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *lineConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.follow(ctx)
	return c.pqConn.PrepareContext(ctx, query)
}

// Ping implements driver.Pinger.
func (c *lineConn) Ping(ctx context.Context) error {
	c.follow(ctx)
	return c.pqConn.Ping(ctx)
}

// Close implements driver.Conn.
func (c *lineConn) Close() error {
	c.line.farewell()
	return c.pqConn.Close()
}

// BeginTx implements driver.ConnBeginTx.
func (c *lineConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	c.follow(ctx)
	tx, err := c.pqConn.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	c.tx = ctx
	return transaction{tx, c, ctx}, nil
}

// transaction ends under the context that it began with: that of its last
// statement may be done.
type transaction struct {
	driver.Tx
	conn *lineConn
	ctx  context.Context
}

// end goes before the end of a transaction.
func (t transaction) end() {
	t.conn.line.follow(t.ctx)
	t.conn.tx = nil
}

// Commit implements driver.Tx.
func (t transaction) Commit() error {
	t.end()
	return t.Tx.Commit()
}

// Rollback implements driver.Tx.
func (t transaction) Rollback() error {
	t.end()
	return t.Tx.Rollback()
}
