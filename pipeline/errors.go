package pipeline

import (
	"errors"
	"fmt"
	"time"
)

// permanentError is an error that is the record's own: trying again is no use.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks an error of Handle, Prepare or Apply as caused by a record.
// The stage finds the record by halving the batch and puts it into the dead
// letters.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether err was marked by Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// retryAfterError is an error that says when to try again.
type retryAfterError struct {
	after time.Duration
	err   error
}

func (e *retryAfterError) Error() string { return fmt.Sprintf("%v (again after %v)", e.err, e.after) }
func (e *retryAfterError) Unwrap() error { return e.err }

// RetryAfter is the pause: the engine asks for it.
func (e *retryAfterError) RetryAfter() time.Duration { return e.after }

// RetryAfter marks an error as one that passes: the stage tries the batch again
// after d instead of by its own backoff.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{d, err}
}
