package pricefiles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/pricemill/pricemill/handlers/target"
)

const (
	lockName = ".lock"
	// sentName is the file of the ids that finished files hold, those that were last.
	sentName = ".sent.json"
	// unfinished ends the name of a file that is being made.
	unfinished = ".tmp"
	plain      = ".jsonl"
	compressed = ".jsonl.gz"
)

// fileName is a file of a series: its names sort in the order in which they were written.
var fileName = regexp.MustCompile(`^prices-([0-9]{8})-[0-9]{6}\.jsonl(\.gz)?$`)

// maxNumber is the highest number of a file of one day.
const maxNumber = 999_999

var (
	// ErrFull is wrapped where the files may not grow.
	ErrFull = errors.New("the files have reached max_disk_mib")
	// ErrDamaged is wrapped where a file is not as it was written.
	ErrDamaged = errors.New("the file is damaged")
)

// file is what a series needs of *os.File.
type file interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// limits bound a series.
type limits struct {
	maxFile int64 // bytes of a file
	maxDisk int64 // bytes of all of them; 0 for no bound
	// deleteOldest says that files make room for those that follow.
	deleteOldest bool
}

// series is the files of a directory, of which the newest one is written to. It is not safe
// for concurrent use.
type series struct {
	limits
	dir  string
	root *os.Root
	lock *flock.Flock
	wrap func(file) file
	logs map[string]*target.Recent

	file   file   // nil where there is none yet
	name   string // its name
	length int64  // of what is complete and on the disk
	torn   bool   // there may be something after length
	cut    int64  // bytes of a last line without its end, which were removed at the start
	rest   int64  // bytes of all other files
}

// open opens the files of a directory: it removes a torn line, and reads which
// events the files have.
func open(dir string, limits limits, wrap func(file) file) (*series, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of %s: %w", Name, err)
	}
	s := &series{limits: limits, dir: dir, root: root, wrap: wrap, logs: map[string]*target.Recent{}, lock: flock.New(filepath.Join(dir, lockName))}
	if s.wrap == nil {
		s.wrap = func(f file) file { return f }
	}
	locked, err := s.lock.TryLock()
	if err == nil && !locked {
		err = errors.New("another process writes there")
	}
	if err == nil {
		err = s.recover()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", dir, err), s.close())
	}
	return s, nil
}

// close lets go of the directory.
func (s *series) close() error {
	var err error
	if s.file != nil {
		err = s.file.Close()
	}
	return errors.Join(err, s.lock.Close(), s.root.Close())
}

// recent is what the files have of a Log.
func (s *series) recent(log string) *target.Recent {
	if s.logs[log] == nil {
		s.logs[log] = target.NewRecent(target.MaxRecent)
	}
	return s.logs[log]
}

// names lists the files of the series, the oldest first.
func (s *series) names() ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if fileName.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil // ReadDir has sorted them
}

// measure counts the bytes of all files but the one that is written.
func (s *series) measure() error {
	names, err := s.names()
	if err != nil {
		return err
	}
	s.rest = 0
	for _, name := range names {
		if name == s.name {
			continue
		}
		info, err := s.root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // someone has moved it away
		}
		if err != nil {
			return err
		}
		s.rest += info.Size()
	}
	return nil
}

// append writes complete lines, and has them on the disk. finished says that it has finished
// a file before.
func (s *series) append(now time.Time, lines []byte) (finished bool, err error) {
	size := int64(len(lines))
	day := now.UTC().Format("20060102")
	if s.file == nil || day > s.day() || s.length > 0 && s.length+size > s.maxFile {
		finished = s.file != nil
		if err := s.next(day); err != nil {
			return false, fmt.Errorf("beginning a file in %s: %w", s.dir, err)
		}
	}
	if err := s.room(size); err != nil {
		return finished, err
	}
	if s.torn {
		if err := s.file.Truncate(s.length); err != nil {
			return finished, fmt.Errorf("removing what was not completed: %w", err)
		}
	}
	s.torn = true
	_, err = s.file.WriteAt(lines, s.length)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return finished, fmt.Errorf("writing %s in %s: %w", s.name, s.dir, err)
	}
	s.length, s.torn = s.length+size, false
	return finished, nil
}

// day is that of the file that is written.
func (s *series) day() string {
	if found := fileName.FindStringSubmatch(s.name); found != nil {
		return found[1]
	}
	return ""
}

// next finishes the file that is written, and begins the next one.
func (s *series) next(day string) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	number := 1
	if len(names) > 0 {
		newest := names[len(names)-1]
		newestDay := fileName.FindStringSubmatch(newest)[1]
		if day = max(day, newestDay); day == newestDay { // a clock may go back, and names do not
			if _, err := fmt.Sscanf(newest, "prices-"+day+"-%06d", &number); err != nil {
				return fmt.Errorf("reading the number of %s: %w", newest, err)
			}
			number++
		}
	}
	if number > maxNumber {
		return fmt.Errorf("there are %d files of %s", maxNumber, day)
	}
	if s.torn {
		if err := errors.Join(s.file.Truncate(s.length), s.file.Sync()); err != nil {
			return fmt.Errorf("removing what was not completed of %s: %w", s.name, err)
		}
		s.torn = false
	}
	// Before there is another file, it is kept which events the ones before it have.
	if err := s.writeSent(); err != nil {
		return err
	}
	name := fmt.Sprintf("prices-%s-%06d%s", day, number, plain)
	opened, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	if err := s.syncDir(); err != nil {
		return errors.Join(err, opened.Close(), s.root.Remove(name))
	}
	var closed error
	if s.file != nil {
		closed = s.file.Close()
	}
	s.rest += s.length
	s.file, s.name, s.length = s.wrap(opened), name, 0
	return closed
}

// room makes sure that a write does not go beyond the bound.
func (s *series) room(size int64) error {
	if s.maxDisk == 0 || s.rest+s.length+size <= s.maxDisk {
		return nil
	}
	if err := s.measure(); err != nil { // someone may have made room
		return fmt.Errorf("measuring %s: %w", s.dir, err)
	}
	for s.rest+s.length+size > s.maxDisk {
		names, err := s.names()
		if err != nil {
			return err
		}
		if !s.deleteOldest || len(names) == 0 || names[0] == s.name {
			return fmt.Errorf("%s: %w, %d MiB", s.dir, ErrFull, s.maxDisk/mib)
		}
		if err := s.root.Remove(names[0]); err != nil {
			return fmt.Errorf("deleting the oldest file: %w", err)
		}
		if err := s.measure(); err != nil {
			return fmt.Errorf("measuring %s: %w", s.dir, err)
		}
	}
	return nil
}

// replace makes a file of what fill writes, or leaves what there is. It is on the disk when
// replace returns.
func (s *series) replace(name string, fill func(io.Writer) error) error {
	made, err := s.root.OpenFile(name+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	err = fill(made)
	if err == nil {
		err = made.Sync()
	}
	if err = errors.Join(err, made.Close()); err != nil {
		return errors.Join(err, s.root.Remove(name+unfinished))
	}
	if err := s.root.Rename(name+unfinished, name); err != nil {
		return err
	}
	return s.syncDir()
}

// syncDir has the names in the directory on the disk.
func (s *series) syncDir() error {
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// finishedFiles lists the finished files that are not compressed, the oldest first.
func (s *series) finishedFiles() ([]string, error) {
	names, err := s.names()
	return slices.DeleteFunc(names, func(name string) bool { return name == s.name || !strings.HasSuffix(name, plain) }), err
}
