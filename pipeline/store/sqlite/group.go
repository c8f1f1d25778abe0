package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/jmoiron/sqlx"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pricemill/pricemill/pipeline/store"
)

// Several writers share one commit: SQLite has one writer at a time, and a
// commit waits for the disk. Anyone who comes while a transaction is open joins it
// under a savepoint, so a failure undoes its own work only; the last one in
// the queue commits for all. A writer that is alone commits at once.

// Bounds of a group: the first of its members waits for the last.
const (
	maxMembers = 64
	maxAge     = 10 * time.Millisecond
)

// turnstile gives the processes that write to one file their turns. SQLite itself gives
// the lock to whichever asks at the right moment, so a busy process would keep the others
// out for as long as it is busy. Here a process holds the turnstile from before it asks for
// SQLite's lock until it has it: a process that waits holds it, and is next.
type turnstile struct{ file *flock.Flock }

func (t turnstile) begin(ctx context.Context, db *sqlx.DB) (tx *sqlx.Tx, err error) {
	// It is free but for moments, so a look now and then finds it so.
	began := time.Now()
	for taken := false; !taken; {
		if taken, err = t.file.TryLock(); err != nil {
			return nil, fmt.Errorf("waiting for the turn to write: %w", err)
		}
		if !taken && time.Since(began) > patience {
			return nil, fmt.Errorf("waiting for the turn to write: other processes have had it for %v", patience)
		}
		if !taken {
			time.Sleep(turnPause)
		}
	}
	defer func() {
		if unlocking := t.file.Unlock(); unlocking != nil && err == nil {
			err = fmt.Errorf("giving up the turn to write: %w", errors.Join(unlocking, tx.Rollback()))
		}
	}()
	for {
		tx, err := db.BeginTxx(ctx, nil)
		if !isBusy(err) || time.Since(began) > patience {
			return tx, err
		}
	}
}

// patience is how long a writer waits for the transaction of another process, and busyPause
// how long it does between two looks: SQLite's own pauses grow to 100 ms, during which no process
// writes.
const (
	patience  = 10 * time.Second
	busyPause = 2 * time.Millisecond
	// turnPause lies between two looks at the turnstile.
	turnPause = time.Millisecond
)

func isBusy(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_BUSY
}

// group is the transaction that is open, if any.
type group struct {
	db      *sqlx.DB
	turns   turnstile
	waiting atomic.Int64 // writers that want the lock

	// lock holds a value while a writer has what is below. It is a channel since its holder
	// may sleep, for its turn: in a test with a clock of its own, a goroutine that waits for
	// a mutex stops the clock, and with it the sleeper.
	lock chan struct{}
	tx   *sqlx.Tx // nil between transactions
	open *commit
}

func newGroup(db *sqlx.DB, turns turnstile) *group {
	return &group{db: db, turns: turns, lock: make(chan struct{}, 1)}
}

// commit is the end of a transaction, which its members wait for.
type commit struct {
	began   time.Time
	members int
	done    chan struct{}
	err     error // set before done is closed
}

// errUndone tells the members of a transaction that the engine rolled it back
// because of another member. Nothing of it happened, and it may be tried again.
var errUndone = errors.New("the transaction was rolled back together with another")

// write runs f in the open transaction, or in a new one, and returns after the
// commit.
func (g *group) write(ctx context.Context, f func(tx *sqlx.Tx) error) error {
	g.waiting.Add(1)
	// Not interruptible: a writer that is counted as waiting must come, since
	// the one before it leaves the commit to it. The wait is as long as the
	// writers before it work, which is bounded.
	g.lock <- struct{}{}
	g.waiting.Add(-1)
	c, err := g.join(ctx, f)
	if err != nil {
		return err
	}
	<-c.done
	return c.err
}

// join runs f under a savepoint and lets the lock go. It commits if no one
// waits to continue.
func (g *group) join(ctx context.Context, f func(tx *sqlx.Tx) error) (c *commit, err error) {
	defer func() { <-g.lock }() // after a panic of f as well
	// The transaction outlives the first member's context.
	if err = ctx.Err(); err == nil && g.tx == nil {
		if g.tx, err = g.turns.begin(context.WithoutCancel(ctx), g.db); err == nil {
			g.open = &commit{began: time.Now(), done: make(chan struct{})}
		} else {
			err = fmt.Errorf("beginning a transaction: %w", err)
		}
	}
	c = g.open
	defer g.leave()
	if err != nil {
		return nil, err
	}
	if _, err := g.tx.Exec("SAVEPOINT member"); err != nil {
		return nil, fmt.Errorf("joining a transaction: %w", err)
	}
	finished := false
	defer func() {
		if !finished {
			g.undo()
		}
	}()
	if err := f(g.tx); err != nil {
		return nil, err
	}
	if _, err := g.tx.Exec("RELEASE member"); err != nil {
		return nil, fmt.Errorf("finishing a share of a transaction: %w", err)
	}
	finished = true
	c.members++
	return c, nil
}

// undo takes back what one member did. Where the engine has rolled back the
// whole transaction already, as it does when a statement is interrupted or the
// disk is full, all members fail.
func (g *group) undo() {
	_, err := g.tx.Exec("ROLLBACK TO member; RELEASE member")
	if err != nil {
		g.finish(errors.Join(errUndone, err, g.tx.Rollback()))
	}
}

// leave commits unless someone waits to join.
func (g *group) leave() {
	if g.tx == nil {
		return
	}
	c := g.open
	if g.waiting.Load() > 0 && c.members < maxMembers && time.Since(c.began) < maxAge {
		return
	}
	if err := g.tx.Commit(); err != nil {
		// The connection is still inside the transaction after some errors.
		g.finish(fmt.Errorf("%w: %w", store.ErrCommit, errors.Join(err, ignoreDone(g.tx.Rollback()))))
		return
	}
	g.finish(nil)
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// finish tells the members.
func (g *group) finish(err error) {
	g.tx = nil
	g.open.err = err
	close(g.open.done)
	g.open = nil
}
