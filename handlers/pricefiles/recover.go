package pricefiles

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pricemill/pricemill/handlers/target"
)

// maxLine bounds a line, in bytes: no record of the log is as large.
const maxLine = 64 * mib

func (s *series) recover() error {
	if err := s.removeUnfinished(); err != nil {
		return err
	}
	names, err := s.names()
	if err != nil {
		return err
	}
	known, err := s.readSent()
	if err != nil {
		return err
	}
	if !known && len(names) > 0 {
		return fmt.Errorf("%w: %s is missing, which says what finished files hold; move those elsewhere", ErrDamaged, sentName)
	}
	if len(names) > 0 {
		if newest := names[len(names)-1]; strings.HasSuffix(newest, plain) {
			if err := s.resume(newest); err != nil {
				return fmt.Errorf("%s: %w", newest, err)
			}
		}
	}
	return s.measure()
}

// removeUnfinished removes what a process left that was killed while it made a file.
func (s *series) removeUnfinished() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, isUnfinished := strings.CutSuffix(entry.Name(), unfinished)
		if isUnfinished && (name == sentName || fileName.MatchString(name)) {
			if err := s.root.Remove(entry.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// resume continues a file.
func (s *series) resume(name string) error {
	opened, err := s.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.file, s.name = s.wrap(opened), name
	if s.length, err = s.scan(opened); err != nil {
		return err
	}
	size, err := opened.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	s.cut = size - s.length
	// What a process wrote that was killed may not be on the disk, and the position will
	// move by it.
	return errors.Join(s.file.Truncate(s.length), s.file.Sync())
}

// scan notes the events of all complete lines, and returns where the last of them ends.
func (s *series) scan(from io.Reader) (end int64, err error) {
	lines := bufio.NewReaderSize(from, mib)
	for number := 1; ; number++ {
		text, err := readLine(lines)
		if errors.Is(err, io.EOF) { // without a new line: it is torn, if it is anything
			return end, nil
		}
		if err != nil {
			return 0, err
		}
		var l struct {
			ID       string `json:"id"`
			Position string `json:"position"`
		}
		if err := json.Unmarshal(text, &l); err != nil || l.ID == "" {
			return 0, fmt.Errorf("%w: line %d, from byte %d, is none of %s", ErrDamaged, number, end, Name)
		}
		at, err := placeOf(l.Position)
		if err != nil {
			return 0, fmt.Errorf("%w: line %d, from byte %d: %w", ErrDamaged, number, end, err)
		}
		s.recent(at.Log).Add(l.ID, at.Offset, false)
		end += int64(len(text))
	}
}

// readLine reads a line with its end; io.EOF where there is no complete one.
func readLine(from *bufio.Reader) (text []byte, err error) {
	for {
		part, err := from.ReadSlice('\n')
		text = append(text, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, err
		}
		if len(text) > maxLine {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrDamaged, maxLine)
		}
	}
}

// sentVersion is of the form of sentName.
const sentVersion = 1

// sentFile is what sentName holds.
type sentFile struct {
	Version int                      `json:"version"`
	Logs    map[string][]target.Sent `json:"logs"`
}

// readSent reads which events finished files have; false where that was never kept.
func (s *series) readSent() (bool, error) {
	text, err := s.root.ReadFile(sentName)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var kept sentFile
	if err := json.Unmarshal(text, &kept); err != nil || kept.Version != sentVersion {
		return false, fmt.Errorf("%w: %s is none of this version", ErrDamaged, sentName)
	}
	for log, events := range kept.Logs {
		recent := s.recent(log)
		for _, e := range events {
			recent.Add(e.ID, e.Offset, false)
		}
	}
	return true, nil
}

func (s *series) writeSent() error {
	kept := sentFile{sentVersion, map[string][]target.Sent{}}
	for log, recent := range s.logs {
		if all := recent.All(); len(all) > 0 {
			kept.Logs[log] = all
		}
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", sentName, err)
	}
	return s.replace(sentName, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}
