package embedded

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kfake"
)

// logger hands kfake's lines to slog. What kfake calls information is a line
// per odd request, so it is debug here.
type logger struct{ to *slog.Logger }

var _ kfake.Logger = logger{}

// Logf implements kfake.Logger.
func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
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
