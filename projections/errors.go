package projections

import (
	"database/sql"
	"errors"
	"fmt"
)

// ErrNotFound is returned by queries that have nothing to answer with.
var ErrNotFound = errors.New("not found")

// ErrUnavailable is wrapped by queries that the database did not answer.
var ErrUnavailable = errors.New("the database did not answer")

// QueryError turns an error of the database into one of a query; what says what
// was asked for.
func QueryError(what string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return fmt.Errorf("reading %s: %w: %w", what, ErrUnavailable, err)
}
