package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pricemill/pricemill/pipeline/store"
)

// damagedError says what to do about a damaged file.
type damagedError struct {
	path string
	err  error
}

// Error implements error.
func (e *damagedError) Error() string {
	return fmt.Sprintf("%v: %s is damaged: stop the service and restore a copy that \"pricemill backup\" made; "+
		"see \"A damaged database\" in docs/operations-reference.md", e.err, e.path)
}

// Unwrap makes it a store.ErrDamaged as well as what SQLite said.
func (e *damagedError) Unwrap() []error { return []error{store.ErrDamaged, e.err} }

// damage is what is known of a file: what statements met, and what looks through the
// whole of it found. A file that was found damaged stays so.
type damage struct {
	path string
	// look reads the file once.
	look func(context.Context) error

	ctx  context.Context // done when the engine closes
	stop context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex
	found error
	// looking is closed when the look under way has ended; nil between looks.
	looking chan struct{}
	// next is when another look is due.
	next time.Time
}

const (
	// lookEvery is the least time between two looks through the file.
	lookEvery = time.Minute
	// lookShare has looks take at most this part of the time: one through a large
	// file is not repeated soon.
	lookShare = 100
)

func newDamage(path string) *damage {
	d := &damage{path: path}
	d.look = d.quickCheck
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d
}

// see notes an error that only a damaged file gives, and says what to do about it.
// Any other error it returns as it is.
func (d *damage) see(err error) error {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return err
	}
	var known *damagedError
	if code := se.Code() & 0xff; errors.As(err, &known) || code != sqlite3.SQLITE_CORRUPT && code != sqlite3.SQLITE_NOTADB {
		return err
	}
	err = &damagedError{d.path, err}
	d.note(err)
	return err
}

func (d *damage) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found == nil {
		d.found = err
	}
}

// check returns what is known, after a look through the file if one is due. A look
// that is not done when ctx is continues, and its result is known to later calls.
func (d *damage) check(ctx context.Context) error {
	d.mu.Lock()
	if d.found == nil && d.looking == nil && !time.Now().Before(d.next) && d.ctx.Err() == nil {
		d.looking = make(chan struct{})
		d.work.Go(d.run)
	}
	found, looking := d.found, d.looking
	d.mu.Unlock()
	if found != nil || looking == nil {
		return found
	}
	select {
	case <-looking:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found
}

// run is one look.
func (d *damage) run() {
	began := time.Now()
	if err := d.look(d.ctx); errors.Is(err, store.ErrDamaged) {
		d.note(err)
	} // else the file could not be read to its end, which is for the statements to say
	took := time.Since(began)
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.looking)
	d.looking, d.next = nil, time.Now().Add(max(lookEvery, lookShare*took))
}

// close ends the look under way.
func (d *damage) close() {
	d.mu.Lock() // no look begins after it
	d.stop()
	d.mu.Unlock()
	d.work.Wait()
}

// quickCheck reads every page of the file, on a connection of its own and without
// mapping it into memory. It does not compare indexes with their tables. While it
// lasts, the write-ahead log grows.
func (d *damage) quickCheck(ctx context.Context) (err error) {
	db, err := connect(d, 1, "_pragma=query_only(1)", "_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var faults []string
	if err := db.SelectContext(ctx, &faults, "PRAGMA quick_check(3)"); err != nil {
		return fmt.Errorf("checking the database file: %w", err)
	}
	if len(faults) == 1 && faults[0] == "ok" {
		return nil
	}
	return &damagedError{d.path, fmt.Errorf("checking the database file: %s", strings.Join(faults, "; "))}
}
