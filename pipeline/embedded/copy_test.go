package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// checkRun fails unless values are 0, 1, 2, ….
func checkRun(t *testing.T, values []string) {
	t.Helper()
	for i, value := range values {
		if value != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, value)
		}
	}
}

// count returns how many records the topic has.
func count(t *testing.T, address string) int {
	t.Helper()
	client := connect(t, address, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// The end of the log is where a record that is appended now lies.
	record := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("end")})
	if err := record.FirstErr(); err != nil {
		t.Fatal(err)
	}
	return int(record[0].Record.Offset)
}

func copyLog(t *testing.T, c *Copier) {
	t.Helper()
	if err := c.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func newCopier(t *testing.T, from, to string) *Copier {
	t.Helper()
	c, err := NewCopier(from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestCopyOfARunningBroker: the copy begins as the original does, has all that
// was acknowledged before, and goes on as a log of its own.
func TestCopyOfARunningBroker(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	b := open4test(t, Config{Dir: from})
	client := connect(t, b.Addr())
	if err := createTopic(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	var acknowledged atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	hundreds := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; produce(ctx, client, i) == nil; i++ {
			acknowledged.Store(int64(i + 1))
			if i%100 == 99 {
				select {
				case hundreds <- struct{}{}:
				case <-ctx.Done():
				}
			}
		}
	}()
	copier := newCopier(t, from, to)
	least := 0
	for range 3 {
		<-hundreds
		least = int(acknowledged.Load())
		copyLog(t, copier)
	}
	stop()
	<-stopped

	copied := open4test(t, Config{Dir: to})
	got := count(t, copied.Addr())
	if got < least {
		t.Errorf("%d records, of %d that were acknowledged before the copy", got, least)
	}
	checkRun(t, values(t, copied.Addr(), got)[:got])
	checkRun(t, values(t, b.Addr(), int(acknowledged.Load()))[:int(acknowledged.Load())])
}

// TestCopyOfATornLog: wherever the last batch was cut off, the copy is a
// beginning of the log, and what is appended to it survives the next start.
func TestCopyOfATornLog(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	b := open4test(t, Config{Dir: from})
	client := connect(t, b.Addr())
	if err := createTopic(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	const records = 5
	for i := range records {
		if err := produce(t.Context(), client, i); err != nil {
			t.Fatal(err)
		}
	}
	client.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(logDir, "partitions", topic+"-0", "0.dat")
	info, err := os.Stat(filepath.Join(from, segment))
	if err != nil {
		t.Fatal(err)
	}
	batch := info.Size() / records // each is as long as the others
	for _, cut := range []int64{1, batch / 2, batch - 1, batch, batch + 1} {
		to := t.TempDir()
		copyLog(t, newCopier(t, from, to))
		if err := os.Truncate(filepath.Join(to, segment), info.Size()-cut); err != nil {
			t.Fatal(err)
		}
		whole := int((info.Size() - cut) / batch)
		for round := range 2 { // the second start reads what the first one left
			copied := open4test(t, Config{Dir: to})
			got := values(t, copied.Addr(), whole+round)
			checkRun(t, got[:whole])
			if n := count(t, copied.Addr()); n != whole+round {
				t.Errorf("cut by %d: %d records in round %d, want %d", cut, n, round, whole+round)
			}
			if err := copied.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCopyFaults(t *testing.T) {
	t.Parallel()
	if _, err := NewCopier(t.TempDir(), t.TempDir()); !errors.Is(err, ErrNoLog) {
		t.Errorf("an empty folder: %v", err)
	}
	from := t.TempDir()
	b := open4test(t, Config{Dir: from})
	client := connect(t, b.Addr())
	if err := errors.Join(createTopic(t.Context(), client), produce(t.Context(), client, 0)); err != nil {
		t.Fatal(err)
	}
	client.Close()
	beside := newCopier(t, from, t.TempDir())
	copyLog(t, beside)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := beside.Copy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a copy that was given up: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := beside.Copy(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("the broker stopped: %v", err)
	}

	// While the folder is held no broker starts, and others may hold it too.
	held := newCopier(t, from, t.TempDir())
	release, err := Hold(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(held.Close(), beside.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: from}); !errors.Is(err, ErrLocked) {
		t.Errorf("opening what is held: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	b = open4test(t, Config{Dir: from})
	if _, err := Hold(from); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), b.Addr()) {
		t.Errorf("holding what is open: %v", err)
	}
	if err := beside.Copy(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("the broker is another: %v", err)
	}
	short := t.TempDir()
	again := newCopier(t, from, short)
	copyLog(t, again)
	longer := filepath.Join(short, logDir, "partitions", topic+"-0", "0.dat")
	content, err := os.ReadFile(longer)
	if err == nil {
		err = os.WriteFile(longer, slices.Concat(content, content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Copy(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("a segment that became shorter: %v", err)
	}
}
