// Package prepared keeps the statements of a session prepared that come again and
// again. A database reads, checks and plans the text of a statement each time it is
// asked, which may cost more than the look-up in a read model.
package prepared

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
)

// Session is what of a driver's connection statements need.
type Session interface {
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

const (
	// most bounds the statements that a session keeps: a service has some hundred
	// different ones, of which each session sees a part.
	most = 128
	// longest bounds their texts, in bytes. Longer ones are inserts of many rows,
	// one for each number of rows.
	longest = 4096
)

// Statements are those of one session. Like the session it is for one goroutine at
// a time.
type Statements struct {
	session Session
	// stale reports an error after which a statement is to be prepared again.
	stale func(error) bool
	texts map[string]*list.Element
	order *list.List // of *statement, the last used first
	cut   bool
}

// statement is prepared when it comes for the second time.
type statement struct {
	text string
	stmt prepared // nil before
	busy bool     // its rows are being read
}

type prepared interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// New returns the statements of a session. stale may be nil.
func New(session Session, stale func(error) bool) *Statements {
	return &Statements{session: session, stale: stale, texts: map[string]*list.Element{}, order: list.New()}
}

// Query is as driver.QueryerContext's.
func (s *Statements) Query(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	st, err := s.find(ctx, text)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return s.session.QueryContext(ctx, text, args)
	}
	rows, err := st.stmt.QueryContext(ctx, args)
	if err != nil {
		s.ended(ctx)
		if s.forgets(st, err) {
			if rows, again := s.session.QueryContext(ctx, text, args); again == nil {
				return rows, nil
			}
		}
		return nil, err
	}
	st.busy = true
	return &heldRows{rows, s, st, ctx}, nil
}

// Exec is as driver.ExecerContext's.
func (s *Statements) Exec(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	st, err := s.find(ctx, text)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return s.session.ExecContext(ctx, text, args)
	}
	result, err := st.stmt.ExecContext(ctx, args)
	s.ended(ctx)
	if err != nil {
		s.forgets(st, err)
		return nil, err
	}
	return result, nil
}

// find returns the prepared statement of a text; nil where it is to be run as a
// text.
func (s *Statements) find(ctx context.Context, text string) (*statement, error) {
	if len(text) > longest {
		return nil, nil
	}
	element, known := s.texts[text]
	if !known {
		s.texts[text] = s.order.PushFront(&statement{text: text})
		return nil, s.shrink()
	}
	s.order.MoveToFront(element)
	st := element.Value.(*statement)
	if st.busy {
		return nil, nil
	}
	if st.stmt == nil {
		stmt, err := s.session.PrepareContext(ctx, text)
		if err != nil {
			return nil, err
		}
		able, ok := stmt.(prepared)
		if !ok {
			return nil, errors.Join(errors.New("prepared: the driver's statements take no context"), stmt.Close())
		}
		st.stmt = able
	}
	return st, nil
}

// shrink forgets those that were used least lately.
func (s *Statements) shrink() error {
	for element := s.order.Back(); element != nil && s.order.Len() > most; {
		before := element.Prev()
		if st := element.Value.(*statement); !st.busy {
			if err := s.forget(st); err != nil {
				return err
			}
		}
		element = before
	}
	return nil
}

func (s *Statements) forget(st *statement) error {
	s.order.Remove(s.texts[st.text])
	delete(s.texts, st.text)
	if st.stmt == nil {
		return nil
	}
	return st.stmt.Close()
}

// forgets forgets a statement that the database does not take any more, if that is
// what the error says. Outside of a transaction its text can still be run.
func (s *Statements) forgets(st *statement, err error) bool {
	if s.stale == nil || !s.stale(err) {
		return false
	}
	_ = s.forget(st) // the database may have done so itself
	return true
}

// Close forgets all statements: for drivers that do not do so when a session ends.
func (s *Statements) Close() error {
	var errs []error
	for s.order.Len() > 0 {
		errs = append(errs, s.forget(s.order.Front().Value.(*statement)))
	}
	return errors.Join(errs...)
}

// Cut reports that a statement's context was done before the statement was: the
// driver may have asked the database to cancel what the session does, and that may
// arrive when the session does something else.
func (s *Statements) Cut() bool { return s.cut }

func (s *Statements) ended(ctx context.Context) {
	s.cut = s.cut || ctx.Err() != nil
}

// heldRows are rows of a statement that cannot be asked again before they are
// closed.
type heldRows struct {
	driver.Rows
	statements *Statements
	of         *statement
	ctx        context.Context
}

// Close implements driver.Rows.
func (r *heldRows) Close() error {
	r.of.busy = false
	err := r.Rows.Close()
	r.statements.ended(r.ctx)
	return err
}

// ColumnTypeDatabaseTypeName implements driver.RowsColumnTypeDatabaseTypeName.
func (r *heldRows) ColumnTypeDatabaseTypeName(index int) string {
	if typed, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return typed.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}
