package prepared

import (
	"context"
	"database/sql/driver"
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
	return driver.RowsAffected(1), nil
}

func (s *fakeStmt) QueryContext(context.Context, []driver.NamedValue) (driver.Rows, error) {
	s.session.log = append(s.session.log, "prepared "+s.text)
	return &fakeRows{}, nil
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
	s := New(session)
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
	s := New(session)
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
	s := New(session)
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
