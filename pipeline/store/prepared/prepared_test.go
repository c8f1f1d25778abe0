package prepared

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeSession notes what it is asked.
type fakeSession struct {
	log  []string
	open int
	// fails is what statements that were prepared return.
	fails error
}

func (s *fakeSession) PrepareContext(_ context.Context, text string) (driver.Stmt, error) {
	s.log, s.open = append(s.log, "prepare "+text), s.open+1
	return &fakeStmt{session: s, text: text}, nil
}

func (s *fakeSession) ExecContext(_ context.Context, text string, _ []driver.NamedValue) (driver.Result, error) {
	s.log = append(s.log, "text "+text)
	return driver.RowsAffected(1), nil
}

func (s *fakeSession) QueryContext(_ context.Context, text string, _ []driver.NamedValue) (driver.Rows, error) {
	s.log = append(s.log, "text "+text)
	return &fakeRows{}, nil
}

type fakeStmt struct {
	driver.Stmt
	session *fakeSession
	text    string
}

func (s *fakeStmt) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	s.session.log = append(s.session.log, "prepared "+s.text)
	return driver.RowsAffected(1), s.session.fails
}

func (s *fakeStmt) QueryContext(context.Context, []driver.NamedValue) (driver.Rows, error) {
	s.session.log = append(s.session.log, "prepared "+s.text)
	return &fakeRows{}, s.session.fails
}

func (s *fakeStmt) Close() error { s.session.open--; return nil }

type fakeRows struct{}

func (*fakeRows) Columns() []string         { return nil }
func (*fakeRows) Close() error              { return nil }
func (*fakeRows) Next([]driver.Value) error { return io.EOF }

func query(t *testing.T, s *Statements, text string) driver.Rows {
	t.Helper()
	rows, err := s.Query(t.Context(), text, nil)
	require.NoError(t, err)
	return rows
}

func exec(t *testing.T, s *Statements, text string) {
	t.Helper()
	_, err := s.Exec(t.Context(), text, nil)
	require.NoError(t, err)
}

func TestPreparedWhenItComesAgain(t *testing.T) {
	t.Parallel()
	session := &fakeSession{}
	s := New(session, nil)
	for range 3 {
		require.NoError(t, query(t, s, "a").Close())
	}
	exec(t, s, "a")
	assert.Equal(t, []string{"text a", "prepare a", "prepared a", "prepared a", "prepared a"}, session.log)
	require.NoError(t, s.Close())
	assert.Zero(t, session.open)
}

func TestAStatementWhoseRowsAreReadIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	session := &fakeSession{}
	s := New(session, nil)
	require.NoError(t, query(t, s, "a").Close())
	rows := query(t, s, "a")
	require.NoError(t, query(t, s, "a").Close())
	for i := range 2 * most { // nor forgotten
		exec(t, s, fmt.Sprint(i))
	}
	assert.Equal(t, 1, session.open)
	require.NoError(t, rows.Close())
	session.log = nil
	require.NoError(t, query(t, s, "a").Close())
	assert.Equal(t, []string{"prepared a"}, session.log)
}

func TestOnlySoManyAreKept(t *testing.T) {
	t.Parallel()
	session := &fakeSession{}
	s := New(session, nil)
	for i := range 3 * most {
		for range 2 {
			exec(t, s, fmt.Sprint(i))
		}
	}
	assert.Equal(t, most, session.open)
	assert.Len(t, s.texts, most)
	long := string(make([]byte, longest+1))
	session.log = nil
	for range 3 {
		exec(t, s, long)
	}
	assert.Equal(t, []string{"text " + long, "text " + long, "text " + long}, session.log)
}

func TestAStatementThatIsStaleIsPreparedAnew(t *testing.T) {
	t.Parallel()
	stale, other := errors.New("stale"), errors.New("other")
	session := &fakeSession{}
	s := New(session, func(err error) bool { return errors.Is(err, stale) })
	for range 2 {
		require.NoError(t, query(t, s, "a").Close())
	}
	session.fails, session.log = other, nil
	_, err := s.Query(t.Context(), "a", nil)
	require.ErrorIs(t, err, other)
	session.fails = stale
	rows := query(t, s, "a") // as a text
	require.NoError(t, rows.Close())
	assert.Equal(t, []string{"prepared a", "prepared a", "text a"}, session.log)
	assert.Zero(t, session.open)

	session.fails, session.log = nil, nil
	for range 2 {
		exec(t, s, "a")
	}
	session.fails = stale
	_, err = s.Exec(t.Context(), "a", nil) // what it did is not known to be nothing
	require.ErrorIs(t, err, stale)
	assert.Equal(t, []string{"text a", "prepare a", "prepared a", "prepared a"}, session.log)
}

// A session is of no more use once the context of a statement ended before it: anyone who
// was asked to cancel it may meet the next one.
func TestAContextThatEndsFirstCutsTheSession(t *testing.T) {
	t.Parallel()
	use := map[string]func(context.Context, context.CancelFunc, *Statements){
		"exec": func(ctx context.Context, end context.CancelFunc, s *Statements) {
			end()
			_, err := s.Exec(ctx, "a", nil)
			require.NoError(t, err)
		},
		"rows": func(ctx context.Context, end context.CancelFunc, s *Statements) {
			rows, err := s.Query(ctx, "a", nil)
			require.NoError(t, err)
			require.False(t, s.Cut())
			end()
			require.NoError(t, rows.Close())
		},
	}
	for name, f := range use {
		s := New(&fakeSession{}, nil)
		exec(t, s, "a") // as a text
		exec(t, s, "a")
		require.False(t, s.Cut())
		ctx, end := context.WithCancel(t.Context())
		f(ctx, end, s)
		assert.True(t, s.Cut(), name)
	}
}
