package pricefiles

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
)

// Run implements pipeline.Runner: it compresses finished files while others are written.
func (h *handler) Run(ctx context.Context, _ pipeline.Emitter) error {
	for {
		if h.settings.Gzip {
			if err := h.compress(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("compressing files of %s: %w", Name, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.finished:
		}
	}
}

// compress compresses all finished files.
func (h *handler) compress(ctx context.Context) error {
	for {
		h.mu.Lock()
		s := h.series
		var names []string
		var err error
		if s != nil {
			names, err = s.finishedFiles()
		}
		h.mu.Unlock()
		if err != nil || len(names) == 0 {
			return err
		}
		if err := h.compressFile(ctx, s, names[0]); err != nil {
			return err
		}
	}
}

// compressFile replaces a finished file by a compressed one. There is always one of them
// that is complete; where it is interrupted, it begins again.
func (h *handler) compressFile(ctx context.Context, s *series, name string) error {
	source, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was moved away
	}
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
	target := strings.TrimSuffix(name, plain) + compressed
	if err := s.replace(target, func(w io.Writer) error {
		packed := gzip.NewWriter(w)
		if _, err := io.Copy(packed, reader{ctx, source}); err != nil {
			return err
		}
		return packed.Close()
	}); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if h.series != s {
		return nil
	}
	return s.measure()
}

// reader reads a file until ctx is done.
type reader struct {
	ctx  context.Context
	file *os.File
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.file.Read(p)
}
