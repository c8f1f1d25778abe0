package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Copier copies the log of a directory into another one, from which a broker can
// be opened then, while a broker may be appending to the original.
//
// Each partition of the copy is a beginning of the original's: kfake only ever
// appends to a segment and its index, replaces every other file as a whole, and
// cuts off a batch that is not complete, by its checksum, when it reads a segment
// again. Where retention or compaction took segments away, none of this would
// hold; the broker has neither.
//
// It is not safe for concurrent use.
type Copier struct {
	from, to string
	release  func() error // nil while a broker has the directory
	holder   holder       // that broker
}

// ErrChanged says that the broker was started or stopped while its log was
// copied. What it does to its files then is not what Copier counts on.
var ErrChanged = errors.New("the broker was started or stopped during the copy")

// ErrNoLog says that a directory holds no log.
var ErrNoLog = errors.New("there is no log")

// NewCopier prepares to copy the log in from. Where no broker runs there, none
// can be opened until Close.
func NewCopier(from, to string) (*Copier, error) {
	c := &Copier{from: from, to: to}
	_, err := os.Stat(filepath.Join(from, logDir, "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("copying the log: %w in %s", ErrNoLog, from)
	}
	if err == nil {
		c.release, err = Hold(from)
	}
	if errors.Is(err, ErrLocked) {
		c.holder, err = readHolder(from)
	}
	if err != nil {
		return nil, fmt.Errorf("copying the log: %w", err)
	}
	return c, nil
}

// Copy adds to the copy what it lacks. All that was acknowledged before the call
// is in the copy after it. Called again, it copies little.
func (c *Copier) Copy(ctx context.Context) error {
	from, to := filepath.Join(c.from, logDir), filepath.Join(c.to, logDir)
	// A topic is listed before it has records. So the list is copied after the
	// records: a partition of a topic that is not listed would be taken for that
	// of another topic of its name.
	err := c.copyPartitions(ctx, filepath.Join(from, "partitions"), filepath.Join(to, "partitions"))
	if err == nil {
		err = copyState(from, to)
	}
	if err == nil && c.release == nil {
		var now holder
		if now, err = readHolder(c.from); err != nil || now != c.holder {
			err = errors.Join(ErrChanged, err)
		}
	}
	if err != nil {
		return fmt.Errorf("copying the log in %s: %w", c.from, err)
	}
	return nil
}

func (c *Copier) copyPartitions(ctx context.Context, from, to string) error {
	// Everything is listed before anything is read: a segment that is not the
	// last of its partition is then complete.
	var segments []string
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // no records yet, or a file that was replaced
			return nil
		}
		if err == nil && strings.HasSuffix(path, ".dat") {
			segments = append(segments, strings.TrimPrefix(path, from))
		}
		return err
	})
	for _, segment := range segments {
		if err == nil {
			err = ctx.Err()
		}
		// The index after the records: entries that are too many are cut off,
		// and none is missing that the broker wrote before the call.
		for _, name := range []string{segment, strings.TrimSuffix(segment, ".dat") + ".idx"} {
			if err == nil {
				err = appendRest(filepath.Join(from, name), filepath.Join(to, name))
			}
		}
	}
	return err
}

// appendRest appends to a file what another one has beyond its length.
func appendRest(from, to string) (err error) {
	source, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(from, ".idx") {
		return nil // the segment was made a moment ago
	}
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	length, err := target.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	info, err := source.Stat()
	if err == nil && info.Size() < length {
		err = fmt.Errorf("%s became shorter: %w", from, ErrChanged)
	}
	if err != nil {
		return err
	}
	if _, err := source.Seek(length, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return err
}

// copyState copies the files beside the partitions: topics, settings, groups.
// What a partition has besides its segments is a summary of them, which the
// broker can do without.
func copyState(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() || strings.HasSuffix(entry.Name(), ".tmp") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, entry.Name()), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Close lets brokers have the directory again.
func (c *Copier) Close() error {
	if c.release == nil {
		return nil
	}
	return c.release()
}
