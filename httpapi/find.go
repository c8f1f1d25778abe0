package httpapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/projections"
)

// finder finds what clients command by its id.
type finder[T any] interface {
	Get(ctx context.Context, id string) (T, error)
	WaitCaughtUp(ctx context.Context) error
}

// find finds what its client knows of, because it has the id. It may have been commanded a
// moment ago, and be on its way through the log: that there is none is said only once what was
// commanded before has arrived. missing says it, of an error that wraps projections.ErrNotFound.
func find[T any](ctx context.Context, among finder[T], kind, id string, missing func(id string, err error) error) (T, error) {
	var none T
	if !isText(id) { // no database has that
		return none, missing(id, projections.ErrNotFound)
	}
	found, err := among.Get(ctx, id)
	if errors.Is(err, projections.ErrNotFound) {
		if err := among.WaitCaughtUp(ctx); err != nil {
			return none, fmt.Errorf("waiting for %s %s: %w", kind, id, err)
		}
		found, err = among.Get(ctx, id)
	}
	switch {
	case errors.Is(err, projections.ErrNotFound):
		return none, missing(id, err)
	case err != nil:
		return none, fmt.Errorf("reading %s %s: %w", kind, id, err)
	}
	return found, nil
}

// noSuch is the missing of most kinds.
func noSuch(kind string) func(id string, err error) error {
	return func(id string, _ error) error {
		return &apiError{codeNotFound, fmt.Sprintf("There is no %s %q", kind, abbreviate(id)), projections.ErrNotFound}
	}
}
