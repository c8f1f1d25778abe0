package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"
)

// LargeLog is the size, in bytes, from which the log is warned of: reading it
// after a crash takes long enough to be noticed.
const LargeLog = 1 << 30

// sizeInterval is how often the size of the log is looked at.
const sizeInterval = time.Minute

// LogBytes is the size of the log on disk.
func (b *Broker) LogBytes() (int64, error) { return dirBytes(filepath.Join(b.dir, logDir)) }

func dirBytes(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				total += info.Size()
			}
		}
		// The broker replaces files while we walk.
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measuring the log: %w", err)
	}
	return total, nil
}

// sizeWarning warns when the log passes LargeLog, and again each time it has
// doubled since.
type sizeWarning struct {
	log *slog.Logger
	at  int64
}

func (w *sizeWarning) look(bytes int64) {
	if bytes <= w.at {
		return
	}
	w.log.Warn("the embedded broker's log is large: after a crash all of it is read before anything is served, and where its batches lie is kept in memory; consider Apache Kafka",
		slog.Int64("bytes", bytes))
	for w.at < bytes {
		w.at *= 2
	}
}

// watchSize looks at the size at once and then every interval, until ctx is done.
func (b *Broker) watchSize(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	warning := sizeWarning{b.log, LargeLog}
	for {
		if bytes, err := b.LogBytes(); err != nil {
			b.log.Warn("the size of the embedded broker's log is unknown", slog.Any("error", err))
		} else {
			warning.look(bytes)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
