// Package pricefiles is the handler price-files: it writes prices, bars, corrections and
// retractions to files, a line of JSON each, and each exactly once.
//
// A line is an event as CloudEvents 1.0 has it in JSON, with its place in the log as the
// attribute position. Lines are on the disk before the position of the stage moves. What
// was written and not committed comes again, and is told by the lines themselves: they are
// read when a directory is opened, and a line that was cut off in the middle is removed. Of
// files that are finished, the directory keeps the ids that were last, so they can be moved
// away. One process writes to a directory; a lock keeps others out.
package pricefiles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the handler.
const Name = "price-files"

// Settings of the handler.
type Settings struct {
	Dir          string        `mapstructure:"dir" doc:"directory for the files, which must exist; nothing outside of it is written"`
	MaxFileMiB   int64         `mapstructure:"max_file_mib" doc:"a file is finished before it grows beyond this many MiB, 1 to 65536, and at midnight UTC"`
	MaxDiskMiB   int64         `mapstructure:"max_disk_mib" doc:"most MiB of all files together; 0: no bound"`
	DeleteOldest bool          `mapstructure:"delete_oldest" doc:"at max_disk_mib delete the oldest finished files, rather than stop"`
	Gzip         bool          `mapstructure:"gzip" doc:"compress finished files"`
	Symbols      []string      `mapstructure:"symbols" doc:"events of these alone, each [provider/]SYMBOL; empty: all"`
	MaxAge       time.Duration `mapstructure:"max_age" doc:"events that have been in the log for longer are not written; 0: all are"`
}

var defaults = Settings{MaxFileMiB: 256, MaxDiskMiB: 10 << 10}

const (
	mib        = 1 << 20
	maxFileMiB = 64 << 10
	maxDiskMiB = 1 << 30
)

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name: Name, Doc: "Writes prices, bars and corrections to files as lines of JSON, exactly once.",
		Consumes: schema.FactTypes(),
		Settings: defaults, Optional: true, Delivers: true, New: New,
	})
}

// New makes the handler. Its error holds all faults of the settings. A handler without a
// directory skips events. It opens the directory when there is something to write.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	h := &handler{settings: settings, now: env.Now, log: env.Log, finished: make(chan struct{}, 1)}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	filter, err := target.NewFilter(settings.Symbols, settings.MaxAge, env.Now)
	errs := []error{err}
	h.filter = filter
	if settings.MaxFileMiB < 1 || settings.MaxFileMiB > maxFileMiB {
		errs = append(errs, fmt.Errorf("max_file_mib: want 1 to %d, not %d", maxFileMiB, settings.MaxFileMiB))
	}
	if settings.MaxDiskMiB < 0 || settings.MaxDiskMiB > maxDiskMiB {
		errs = append(errs, fmt.Errorf("max_disk_mib: want 0 to %d, not %d", maxDiskMiB, settings.MaxDiskMiB))
	}
	if settings.MaxDiskMiB > 0 && settings.MaxDiskMiB < 2*settings.MaxFileMiB {
		errs = append(errs, fmt.Errorf("max_disk_mib: want at least twice max_file_mib, %d, or 0: the file that is written is never deleted or moved, so no room could be made", 2*settings.MaxFileMiB))
	}
	if settings.DeleteOldest && settings.MaxDiskMiB == 0 {
		errs = append(errs, errors.New("delete_oldest: there is nothing to delete where max_disk_mib is 0"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrSettings, err)
	}
	h.limits = limits{settings.MaxFileMiB * mib, settings.MaxDiskMiB * mib, settings.DeleteOldest}
	h.metrics = target.NewMetrics(env.Metrics, Name)
	return h, nil
}

type handler struct {
	limits
	settings Settings
	filter   *target.Filter
	now      func() time.Time
	log      *slog.Logger
	metrics  target.Metrics
	wrap     func(file) file // for tests; nil for none
	finished chan struct{}   // tells Run that a file is finished

	mu     sync.Mutex
	series *series // nil where it is not open
}

var (
	_ pipeline.Preparer = (*handler)(nil)
	_ pipeline.Runner   = (*handler)(nil)
	_ pipeline.Starter  = (*handler)(nil)
)

// Start implements pipeline.Starter: a directory that is not there is a mistake.
func (h *handler) Start(context.Context) error {
	if h.settings.Dir == "" {
		h.log.Warn("no directory is set: events are skipped", "handler", Name, "setting", "modules."+Name+".dir")
		return nil
	}
	info, err := os.Stat(h.settings.Dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", h.settings.Dir)
	}
	if err != nil {
		return fmt.Errorf("dir: %w", err)
	}
	return nil
}

// Close lets go of the directory.
func (h *handler) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.series == nil {
		return nil
	}
	err := h.series.close()
	h.series = nil
	return err
}

// Handle implements pipeline.Handler: what there is to do is done before the transaction,
// which moves the position.
func (*handler) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return nil, nil
}

// Prepare writes the events of a batch, those that the files do not have. They are on the
// disk when it returns.
func (h *handler) Prepare(_ context.Context, in []pipeline.Record) error {
	var wanted []*pipeline.Record
	for i := range in {
		switch r := &in[i]; {
		case !h.filter.Wants(r):
		case h.settings.Dir == "" || h.filter.TooOld(r):
			h.metrics.Skipped.Inc()
		default:
			wanted = append(wanted, r)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	written, err := h.write(wanted)
	if err != nil {
		h.metrics.Failed.Inc()
		return err
	}
	h.metrics.Sent.Add(float64(written))
	return nil
}

// write writes the events that are due, and returns how many those are.
func (h *handler) write(records []*pipeline.Record) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.series == nil {
		series, err := open(h.settings.Dir, h.limits, h.wrap)
		if err != nil {
			return 0, err
		}
		h.series = series
		if series.cut > 0 {
			h.log.Warn("the newest file ended in a part of a line, which was removed: after the death of a process it is written again; "+
				"if something else has cut the file, events may be missing", "handler", Name, "file", series.name, "bytes", series.cut)
		}
		h.tellRun() // of files that were finished before
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	var due []sent
	seen := map[string]struct{}{}
	for _, r := range records {
		at, err := target.PlaceOf(r)
		if err != nil {
			return 0, pipeline.Permanent(err)
		}
		id, late := r.Event.ID, target.IsLate(r)
		if _, twice := seen[id]; twice {
			continue
		}
		isDue, err := h.series.recent(at.Log).Due(id, at, late)
		if err != nil {
			return 0, fmt.Errorf("%s: %w; see docs/targets.md", h.settings.Dir, err)
		}
		if !isDue {
			continue
		}
		seen[id] = struct{}{}
		if err := encoder.Encode(line{target.EventOf(r), at.Log + "/" + strconv.FormatInt(at.Offset, 10)}); err != nil {
			return 0, pipeline.Permanent(fmt.Errorf("encoding an event: %w", err))
		}
		due = append(due, sent{id, at, late})
	}
	if len(due) == 0 {
		return 0, nil
	}
	finished, err := h.series.append(h.now(), lines.Bytes())
	if finished {
		h.tellRun()
	}
	if err != nil {
		return 0, err
	}
	for _, s := range due {
		h.series.recent(s.at.Log).Add(s.id, s.at.Offset, s.late)
	}
	return len(due), nil
}

// sent is an event that goes into a file.
type sent struct {
	id   string
	at   target.Place
	late bool
}

// line is a line of a file.
type line struct {
	target.Event
	// Position is the Log, a slash and the offset.
	Position string `json:"position"`
}

// placeOf reads the position of a line.
func placeOf(position string) (target.Place, error) {
	cut := strings.LastIndexByte(position, '/')
	if cut <= 0 {
		return target.Place{}, fmt.Errorf("%q is no position", position)
	}
	offset, err := strconv.ParseInt(position[cut+1:], 10, 64)
	if err != nil || offset < 0 {
		return target.Place{}, fmt.Errorf("%q is no position", position)
	}
	return target.Place{Log: position[:cut], Offset: offset}, nil
}

// tellRun wakes Run.
func (h *handler) tellRun() {
	select {
	case h.finished <- struct{}{}:
	default: // it is awake
	}
}
