package pricefiles_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/pricefiles"
	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/handlers/target/targettest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	targettest.RunIfChild(func(string) func(pipeline.Env) (pipeline.Handler, error) { return pricefiles.New })
	goleak.VerifyTestMain(m)
}

// handler is what the tests use of one.
type handler interface {
	pipeline.Preparer
	pipeline.Runner
	pipeline.Starter
	io.Closer
}

// clock is one that tests set.
type clock struct{ nanoseconds atomic.Int64 }

func newClock() *clock {
	var c clock
	c.set(targettest.Now)
	return &c
}

func (c *clock) set(t time.Time) { c.nanoseconds.Store(t.UnixNano()) }
func (c *clock) now() time.Time  { return time.Unix(0, c.nanoseconds.Load()).UTC() }

// newHandler returns one that no one closes.
func newHandler(t *testing.T, c *clock, settings map[string]any) handler {
	t.Helper()
	h, err := pricefiles.New(pipeline.Env{Settings: settings, Now: c.now})
	require.NoError(t, err)
	return h.(handler)
}

func closed(t *testing.T, h handler) { t.Helper(); require.NoError(t, h.Close()) }

// files lists the files of a directory that users see.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names
}

// lines are those of all files, the oldest first.
func lines(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, name := range files(t, dir) {
		f, err := os.Open(filepath.Join(dir, name))
		require.NoError(t, err)
		var from io.Reader = f
		if strings.HasSuffix(name, ".gz") {
			from, err = gzip.NewReader(f)
			require.NoError(t, err)
		}
		scanner := bufio.NewScanner(from)
		for scanner.Scan() {
			all = append(all, scanner.Text())
		}
		require.NoError(t, scanner.Err())
		require.NoError(t, f.Close())
	}
	return all
}

// ids are those of the events of all files.
func ids(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, text := range lines(t, dir) {
		var l struct{ ID string }
		require.NoError(t, json.Unmarshal([]byte(text), &l), text)
		all = append(all, l.ID)
	}
	return all
}

// idsOf are the ids of records.
func idsOf(records []pipeline.Record) []string {
	all := make([]string, len(records))
	for i, r := range records {
		all[i] = r.Event.ID
	}
	return all
}

func TestALine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHandler(t, newClock(), map[string]any{"dir": dir})
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, pricefiles.Name, h)
	records := targettest.Records(t, rig, 1)
	require.NoError(t, stage.Deliver(records...))
	stage.Close(t)
	closed(t, h)
	assert.Equal(t, []string{"prices-20260105-000001.jsonl"}, files(t, dir))
	all := lines(t, dir)
	require.Len(t, all, 1)
	assert.Regexp(t, "^"+regexp.QuoteMeta(fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"pipelinetest","type":"market.price.observed.v1","subject":"p/A",`+
		`"time":"2026-01-05T14:30:00.000000Z","datacontenttype":"application/json","data":%s,"position":"id-of-price-events/`,
		records[0].Event.ID, records[0].Value))+`[0-9]+/0"}$`, all[0])
}

// Processes that are killed between what they wrote and their position write each event
// once, and those of a partition in order.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const prices = 60
	targettest.Kill(t, pricefiles.Name, map[string]any{"dir": dir}, prices)
	want := idsOf(targettest.Records(t, pipelinetest.New(t), prices))
	got := ids(t, dir)
	require.ElementsMatch(t, want, got)
	for partition := range pipelinetest.Partitions {
		of := func(all []string) []string {
			return slices.DeleteFunc(slices.Clone(all), func(id string) bool {
				return !strings.HasPrefix(id, fmt.Sprintf("%s/%d/", schema.PriceEvents, partition))
			})
		}
		assert.Equal(t, of(want), of(got))
	}
}

// A process dies in the middle of a write: whatever was written by then, the next one
// continues after the last complete line.
func TestATornLine(t *testing.T) {
	t.Parallel()
	records := targettest.Records(t, pipelinetest.New(t), 3)
	whole := t.TempDir()
	h := newHandler(t, newClock(), map[string]any{"dir": whole})
	require.NoError(t, h.Prepare(t.Context(), records))
	closed(t, h)
	name := filepath.Join(whole, "prices-20260105-000001.jsonl")
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	for length := 0; length <= len(text); length += 17 {
		require.NoError(t, os.WriteFile(name, text[:length], 0o600))
		h := newHandler(t, newClock(), map[string]any{"dir": whole})
		require.NoError(t, h.Prepare(t.Context(), records))
		closed(t, h)
		again, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, string(text), string(again), length)
	}
}

// failing is a file that fails.
type failing struct {
	pricefiles.File
	sync  error
	write error // after half of what there was to write
}

func (f *failing) WriteAt(p []byte, at int64) (int, error) {
	if f.write != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], at)
		return n, f.write
	}
	return f.File.WriteAt(p, at)
}

func (f *failing) Sync() error {
	if f.sync != nil {
		return f.sync
	}
	return f.File.Sync()
}

// What could not be written is written when it can be, and nothing of the attempt is left.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHandler(t, newClock(), map[string]any{"dir": dir})
	var current *failing
	pricefiles.Wrap(h, func(f pricefiles.File) pricefiles.File {
		current = &failing{File: f}
		return current
	})
	records := targettest.Records(t, pipelinetest.New(t), 9)
	require.NoError(t, h.Prepare(t.Context(), records[:3]))
	full := errors.New("no space left on device")
	current.write = full
	require.ErrorIs(t, h.Prepare(t.Context(), records), full)
	current.write, current.sync = nil, full
	require.ErrorIs(t, h.Prepare(t.Context(), records), full)
	current.sync = nil
	require.NoError(t, h.Prepare(t.Context(), records[:4])) // less than what was written before
	assert.Equal(t, idsOf(records[:4]), ids(t, dir))
	require.NoError(t, h.Prepare(t.Context(), records))
	closed(t, h)
	assert.Equal(t, idsOf(records), ids(t, dir))
}

// Files are finished by size and at midnight, and none is begun before its time though the
// clock goes back. What finished files have is known without them.
func TestRotation(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newClock()
	h := newHandler(t, c, map[string]any{"dir": dir})
	records := targettest.Records(t, pipelinetest.New(t), 8)
	pricefiles.SetLimits(h, 500, 0) // one line and a half
	require.NoError(t, h.Prepare(t.Context(), records[:1]))
	require.NoError(t, h.Prepare(t.Context(), records[:2]))
	pricefiles.SetLimits(h, 500, 0)
	c.set(targettest.Now.Add(24 * time.Hour))
	require.NoError(t, h.Prepare(t.Context(), records[:3]))
	c.set(targettest.Now)
	require.NoError(t, h.Prepare(t.Context(), records[:4]))
	closed(t, h)
	want := []string{"prices-20260105-000001.jsonl", "prices-20260105-000002.jsonl", "prices-20260106-000001.jsonl", "prices-20260106-000002.jsonl"}
	assert.Equal(t, want, files(t, dir))
	assert.Equal(t, idsOf(records[:4]), ids(t, dir))

	for _, name := range want[:3] { // moved away
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	h = newHandler(t, c, map[string]any{"dir": dir})
	require.NoError(t, h.Prepare(t.Context(), records[:5]))
	closed(t, h)
	assert.Equal(t, want[3:], files(t, dir))
	assert.Equal(t, idsOf(records[3:5]), ids(t, dir))

	require.NoError(t, os.Remove(filepath.Join(dir, ".sent.json")))
	h = newHandler(t, c, map[string]any{"dir": dir})
	require.ErrorIs(t, h.Prepare(t.Context(), records), pricefiles.ErrDamaged)
}

func TestGzip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHandler(t, newClock(), map[string]any{"dir": dir, "gzip": true})
	pricefiles.SetLimits(h, 500, 0)
	records := targettest.Records(t, pipelinetest.New(t), 3)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, nil) }()
	for i := range records {
		require.NoError(t, h.Prepare(t.Context(), records[:i+1]))
	}
	want := []string{"prices-20260105-000001.jsonl.gz", "prices-20260105-000002.jsonl.gz", "prices-20260105-000003.jsonl"}
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Equal(c, want, files(t, dir)) }, 20*time.Second, 5*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	closed(t, h)
	assert.Equal(t, idsOf(records), ids(t, dir))

	// A process was killed while it compressed, and one before it removed what it had.
	second := lines(t, dir)[1]
	for _, name := range []string{"prices-20260105-000001.jsonl.gz.tmp", ".sent.json.tmp"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prices-20260105-000002.jsonl"), []byte(second+"\n"), 0o600))
	h = newHandler(t, newClock(), map[string]any{"dir": dir, "gzip": true})
	ctx, stop = context.WithCancel(t.Context())
	go func() { ended <- h.Run(ctx, nil) }()
	require.NoError(t, h.Prepare(t.Context(), records))
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Equal(c, want, files(t, dir)) }, 20*time.Second, 5*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	closed(t, h)
	assert.Equal(t, idsOf(records), ids(t, dir))
}

// At the bound of the disk, a handler stops until there is room, or makes it.
func TestTheBoundOfTheDisk(t *testing.T) {
	t.Parallel()
	records := targettest.Records(t, pipelinetest.New(t), 6)
	for _, deleteOldest := range []bool{false, true} {
		dir := t.TempDir()
		h := newHandler(t, newClock(), map[string]any{"dir": dir, "delete_oldest": deleteOldest})
		pricefiles.SetLimits(h, 500, 1400) // three lines
		for i := range 3 {
			require.NoError(t, h.Prepare(t.Context(), records[:i+1]))
		}
		require.Len(t, files(t, dir), 3)
		if !deleteOldest {
			require.ErrorIs(t, h.Prepare(t.Context(), records[:4]), pricefiles.ErrFull)
			assert.Equal(t, idsOf(records[:3]), ids(t, dir))
			require.NoError(t, os.Remove(filepath.Join(dir, "prices-20260105-000001.jsonl")))
		}
		require.NoError(t, h.Prepare(t.Context(), records[:4]))
		closed(t, h)
		assert.Equal(t, idsOf(records[1:4]), ids(t, dir))
	}
}

// Two processes do not write to one directory.
func TestTheLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	records := targettest.Records(t, pipelinetest.New(t), 2)
	first := newHandler(t, newClock(), map[string]any{"dir": dir})
	second := newHandler(t, newClock(), map[string]any{"dir": dir})
	require.NoError(t, first.Prepare(t.Context(), records[:1]))
	require.ErrorContains(t, second.Prepare(t.Context(), records), "another process writes there")
	closed(t, first)
	require.NoError(t, second.Prepare(t.Context(), records))
	closed(t, second)
	assert.Equal(t, idsOf(records), ids(t, dir))
}

// A link in the directory does not lead out of it.
func TestNothingOutsideIsWritten(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".sent.json"), []byte(`{"version":1,"logs":{}}`), 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "prices-20260105-000001.jsonl")))
	h := newHandler(t, newClock(), map[string]any{"dir": dir})
	require.ErrorContains(t, h.Prepare(t.Context(), targettest.Records(t, pipelinetest.New(t), 1)), "escapes")
	text, err := os.ReadFile(outside)
	require.NoError(t, err)
	assert.Empty(t, text)
}

// A log that was set back, and files that are not as they were written, wait for a person.
func TestWhatWaitsForAPerson(t *testing.T) {
	t.Parallel()
	records := targettest.Records(t, pipelinetest.New(t), 2)
	dir := t.TempDir()
	h := newHandler(t, newClock(), map[string]any{"dir": dir})
	require.NoError(t, h.Prepare(t.Context(), records))
	again := slices.Clone(records)
	again[0].Event.ID = "another"
	require.ErrorIs(t, h.Prepare(t.Context(), again), target.ErrSetBack)
	closed(t, h)
	for text, want := range map[string]string{
		"{}\n":                                "line 1, from byte 0",
		"x\n":                                 "line 1, from byte 0",
		`{"id":"1","position":"7"}` + "\n":    `"7" is no position`,
		`{"id":"1","position":"a/-1"}` + "\n": `"a/-1" is no position`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "prices-20260105-000001.jsonl"), []byte(text), 0o600))
		err := newHandler(t, newClock(), map[string]any{"dir": dir}).Prepare(t.Context(), records)
		require.ErrorIs(t, err, pricefiles.ErrDamaged)
		require.ErrorContains(t, err, want)
		require.False(t, pipeline.IsPermanent(err))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".sent.json"), []byte(`{"version":2}`), 0o600))
	require.ErrorContains(t, newHandler(t, newClock(), map[string]any{"dir": dir}).Prepare(t.Context(), records), ".sent.json is none of this version")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for text, settings := range map[string]map[string]any{
		"max_file_mib: want 1 to 65536, not 0":  {"max_file_mib": 0},
		"max_disk_mib: want 0 to":               {"max_disk_mib": -1},
		"max_disk_mib: want at least twice max": {"max_disk_mib": 511},
		"delete_oldest: there is nothing":       {"delete_oldest": true, "max_disk_mib": 0},
		"max_age: -1s is negative":              {"max_age": "-1s"},
		`symbols: "": want [provider/]SYMBOL`:   {"symbols": []string{""}},
	} {
		_, err := pricefiles.New(pipeline.Env{Settings: settings})
		require.ErrorIs(t, err, pipeline.ErrSettings, text)
		require.ErrorContains(t, err, text)
	}
	require.ErrorContains(t, newHandler(t, newClock(), map[string]any{"dir": file}).Start(t.Context()), "is no directory")
	require.ErrorContains(t, newHandler(t, newClock(), map[string]any{"dir": file + "s"}).Start(t.Context()), "dir: stat")
	h := newHandler(t, newClock(), nil)
	require.NoError(t, h.Start(t.Context()))
	require.NoError(t, h.Prepare(t.Context(), targettest.Records(t, pipelinetest.New(t), 1)))
	closed(t, h)
}
