package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files beside the log.
const (
	lockFile    = "broker.lock"
	addressFile = "broker.addr"
	logDir      = "log"
)

// addressVersion is that of the record in addressFile.
const addressVersion = 1

// ErrNotRunning is returned by Address for a directory that no broker has open
// or whose broker closed properly.
var ErrNotRunning = errors.New("no embedded broker is running")

// holder is who has the directory open, as recorded in addressFile.
type holder struct {
	Version int    `json:"version"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
}

// Address returns the host:port of the broker that has dir open, from the
// record it left there. A process that was killed leaves its record behind: the
// address is then of a broker that is gone, which connecting to it will show.
func Address(dir string) (string, error) {
	h, err := readHolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w in %s", ErrNotRunning, dir)
	}
	if err != nil {
		return "", err
	}
	return h.Address, nil
}

func readHolder(dir string) (holder, error) {
	path := filepath.Join(dir, addressFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return holder{}, fmt.Errorf("reading the broker's address: %w", err)
	}
	var h holder
	if err := json.Unmarshal(data, &h); err != nil {
		return holder{}, fmt.Errorf("reading the broker's address from %s: %w", path, err)
	}
	if h.Version != addressVersion {
		return holder{}, fmt.Errorf("reading the broker's address from %s: version %d is not %d", path, h.Version, addressVersion)
	}
	return h, nil
}

// writeHolder replaces the record as a whole: a reader sees the old one or the
// new one, never a half.
func writeHolder(dir string, h holder) error {
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("recording the broker's address: %w", err)
	}
	temp, err := os.CreateTemp(dir, addressFile+".*")
	if err != nil {
		return fmt.Errorf("recording the broker's address: %w", err)
	}
	_, err = temp.Write(append(data, '\n'))
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), filepath.Join(dir, addressFile))
	}
	if err != nil {
		return fmt.Errorf("recording the broker's address: %w", errors.Join(err, os.Remove(temp.Name())))
	}
	return nil
}

func removeHolder(dir string) error {
	err := os.Remove(filepath.Join(dir, addressFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the broker's address: %w", err)
	}
	return nil
}
