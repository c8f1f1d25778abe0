package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// logger hands kfake's lines to slog, and remembers what it could not write. What
// kfake calls information is a line per odd request, so it is debug here.
type logger struct {
	to     *slog.Logger
	failed atomic.Pointer[failure]
}

// failure is that something could not be written.
type failure struct {
	err error
	at  time.Time
}

var _ kfake.Logger = (*logger)(nil)

// Logf implements kfake.Logger.
func (l *logger) Logf(level kfake.LogLevel, format string, args ...any) {
	for _, arg := range args {
		// A client learns no more of it than that something unknown went wrong.
		var file *fs.PathError
		if err, ok := arg.(error); ok && errors.As(err, &file) {
			l.failed.Store(&failure{err, time.Now()})
		}
	}
	severity := slog.LevelDebug
	switch level {
	case kfake.LogLevelNone:
		return
	case kfake.LogLevelError:
		severity = slog.LevelError
	case kfake.LogLevelWarn:
		severity = slog.LevelWarn
	}
	ctx := context.Background()
	if l.to.Enabled(ctx, severity) {
		l.to.Log(ctx, severity, fmt.Sprintf(format, args...), slog.String("component", "embedded broker"))
	}
}

// troubleTime is for how long a failure counts. Whatever cannot be written is tried
// again within two seconds, by the relay and by streams.
const troubleTime = 5 * time.Second

// Trouble is why the log could not be written a moment ago, as when the disk is
// full; nil where it could, or where nobody tried. No client can be told: the
// protocol has no such error.
func (b *Broker) Trouble() error {
	failed := b.logger.failed.Load()
	if failed == nil || time.Since(failed.at) > troubleTime {
		return nil
	}
	return fmt.Errorf("writing the log: %w", failed.err)
}
