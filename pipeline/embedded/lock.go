package embedded

import (
	"errors"
	"fmt"
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
	// The holder records itself a moment after it took the lock, and a killed
	// one before it may have left its own record: the name is a help to a
	// person, not a proof.
	if h, err := readHolder(dir); err == nil {
		err = fmt.Errorf("%w: %s: by process %d, serving on %s", ErrLocked, dir, h.PID, h.Address)
		return nil, errors.Join(err, l.Close())
	}
	return nil, errors.Join(fmt.Errorf("%w: %s", ErrLocked, dir), l.Close())
}
