package cmd

import (
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema/names"
)

// The values of LOG_FORMAT.
const (
	textFormat = "text"
	jsonFormat = "json"
)

// logLevels are the values of LOG_LEVEL.
var logLevels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// readLogging reads what is logged, and how. DEBUG is the original service's name for
// LOG_LEVEL=debug.
func (c *config) readLogging(level, format string, debug bool, wrong *faults) {
	level = strings.ToLower(level)
	chosen, known := logLevels[level]
	switch {
	case debug && level != "" && level != "debug":
		wrong.add("log_level", "%q contradicts DEBUG=true; unset one of them", level)
	case debug:
		c.LogLevel = new(slog.LevelDebug)
	case level == "":
	case !known:
		wrong.add("log_level", "there is no level %q; %s", level, names.Hint(level, slices.Sorted(maps.Keys(logLevels))))
	default:
		c.LogLevel = &chosen
	}
	if formats := []string{textFormat, jsonFormat}; format != "" && !slices.Contains(formats, format) {
		wrong.add("log_format", "there is no format %q; %s", format, names.Hint(format, formats))
	}
	c.LogFormat = format
}

func (c *config) readAccessLog(text string, wrong *faults) {
	switch strings.ToLower(text) {
	case "off":
		return
	case "errors":
		c.AccessLog.Errors = true
		return
	}
	share, err := strconv.ParseFloat(text, 64)
	if err != nil || !(share > 0 && share <= 1) {
		wrong.add("access_log", "%q is neither off nor errors, nor a share above 0 and up to 1", text)
		return
	}
	c.AccessLog = httpapi.AccessLog{Errors: true, Share: share}
}

// logger writes what LOG_LEVEL says, or else from info on.
func (a *app) logger(c config) *slog.Logger { return a.loggerAt(c, slog.LevelInfo) }

// loggerAt writes from a level on, unless LOG_LEVEL names one.
func (a *app) loggerAt(c config, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if c.LogLevel != nil {
		options.Level = *c.LogLevel
	}
	if a.logsText(c) {
		return slog.New(slog.NewTextHandler(a.stderr, options))
	}
	options.ReplaceAttr = func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Value.Kind() == slog.KindDuration { // with its unit, as in text
			attr.Value = slog.StringValue(attr.Value.Duration().String())
		}
		return attr
	}
	return slog.New(slog.NewJSONHandler(a.stderr, options))
}

// logsText reports whether people read the log: on a terminal, unless LOG_FORMAT says
// otherwise.
func (a *app) logsText(c config) bool {
	return c.LogFormat == textFormat || c.LogFormat == "" && isTerminal(a.stderr)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	return term.IsTerminal(int(f.Fd()))
}
