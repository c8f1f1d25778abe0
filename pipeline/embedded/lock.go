package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// ErrLocked is wrapped by the error of Open for a directory that a broker, of
// this process or another, has open.
var ErrLocked = errors.New("data directory is in use")

// lock takes the directory for this broker. The lock is the kernel's: it ends
// with the process, however that ends, so a file left behind means nothing.
func lock(dir string) (*flock.Flock, error) {
	l := flock.New(filepath.Join(dir, lockFile))
	taken, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, l.Close()))
	}
	if taken {
		return l, nil
	}
	return nil, errors.Join(lockedError(dir), l.Close())
}

// lockedError names who has the directory. The holder records itself a moment
// after it took the lock, and a killed one before it may have left its own
// record: the name is a help to a person, not a proof.
func lockedError(dir string) error {
	if h, err := readHolder(dir); err == nil {
		return fmt.Errorf("%w: %s: by process %d, serving on %s", ErrLocked, dir, h.PID, h.Address)
	}
	return fmt.Errorf("%w: %s", ErrLocked, dir)
}

// Hold keeps brokers away from dir until release is called; it creates dir where
// it does not exist. Any number of processes may hold it at once, and Open is
// refused meanwhile. An error that wraps ErrLocked means that a broker has it.
func Hold(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("holding %s: %w", dir, err)
	}
	l := flock.New(filepath.Join(dir, lockFile))
	taken, err := l.TryRLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("holding %s: %w", dir, errors.Join(err, l.Close()))
	case !taken:
		return nil, errors.Join(lockedError(dir), l.Close())
	}
	return l.Close, nil
}
