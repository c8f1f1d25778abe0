package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const topic = "prices"

func open4test(t *testing.T, cfg Config) *Broker {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func connect(t testing.TB, address string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(address))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func createTopic(ctx context.Context, client *kgo.Client) error {
	request := kmsg.NewPtrCreateTopicsRequest()
	wanted := kmsg.NewCreateTopicsRequestTopic()
	wanted.Topic, wanted.NumPartitions, wanted.ReplicationFactor = topic, 1, 1
	request.Topics = append(request.Topics, wanted)
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if code := response.Topics[0].ErrorCode; code != 0 {
		return fmt.Errorf("creating the topic: code %d", code)
	}
	return nil
}

func produce(ctx context.Context, client *kgo.Client, value int) error {
	return client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: fmt.Append(nil, value)}).FirstErr()
}

// values reads the topic from its start until n records have come.
func values(t *testing.T, address string, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := connect(t, address, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	var got []string
	for len(got) < n {
		fetched := client.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			t.Fatalf("read %d of %d records: %v", len(got), n, err)
		}
		fetched.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	return got
}

func TestDataSurvivesCloseAndOpen(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "by", "open")
	for round := range 3 {
		b := open4test(t, Config{Dir: dir})
		client := connect(t, b.Addr())
		if round == 0 {
			if err := createTopic(t.Context(), client); err != nil {
				t.Fatal(err)
			}
		}
		if err := produce(t.Context(), client, round); err != nil {
			t.Fatal(err)
		}
		if got := values(t, b.Addr(), round+1); got[round] != fmt.Sprint(round) {
			t.Errorf("round %d: the log holds %v", round, got)
		}
		client.Close() // or it would look for the broker while the next round runs
		if bytes, err := b.LogBytes(); err != nil || bytes == 0 {
			t.Errorf("the log has %d bytes: %v", bytes, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open4test(t, Config{Dir: dir})
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{dir, b.Addr(), fmt.Sprint(os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	// The refused one has done no harm.
	if address, err := Address(dir); err != nil || address != b.Addr() {
		t.Errorf("the address is %q: %v", address, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	open4test(t, Config{Dir: dir})
}

func TestAddress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Address(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before: %v", err)
	}
	b := open4test(t, Config{Dir: dir})
	address, err := Address(dir)
	if err != nil || address != b.Addr() {
		t.Errorf("the address is %q: %v", address, err)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "127.0.0.1" || port == "0" {
		t.Errorf("the address is %q: %v", address, err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Address(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after: %v", err)
	}
	for name, content := range map[string]string{"damaged": "{", "later": `{"version":2}`} {
		if err := os.WriteFile(filepath.Join(dir, addressFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Address(dir); err == nil || errors.Is(err, ErrNotRunning) {
			t.Errorf("%s record: %v", name, err)
		}
	}
}

func TestTopicsDoNotComeByThemselves(t *testing.T) {
	t.Parallel()
	b := open4test(t, Config{Dir: t.TempDir()})
	client := connect(t, b.Addr(), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(0))
	if err := produce(t.Context(), client, 1); err == nil {
		t.Error("a topic was created by being asked for")
	}
}

func TestBrokerKeepsForEver(t *testing.T) {
	t.Parallel()
	b := open4test(t, Config{Dir: t.TempDir()})
	client := connect(t, b.Addr())
	request := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeBroker, "0"
	request.Resources = append(request.Resources, resource)
	response, err := request.RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range response.Resources[0].Configs {
		if config.Name == "log.retention.ms" && config.Value != nil && *config.Value == "-1" {
			return
		}
	}
	t.Error("log.retention.ms is not -1")
}

func TestOpenFaults(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Config{Port: -1})
	for _, want := range []string{"directory", "port"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name the %s: %v", want, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{Dir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error does not name the directory: %v", err)
	}
	// A port that is taken: the directory is free again afterwards.
	b := open4test(t, Config{Dir: t.TempDir()})
	_, port, _ := net.SplitHostPort(b.Addr())
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := Open(t.Context(), Config{Dir: dir, Port: number}); err == nil {
		t.Error("two brokers on one port")
	}
	open4test(t, Config{Dir: dir})
}

func TestSizeWarning(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := sizeWarning{slog.New(slog.NewTextHandler(&log, nil)), LargeLog}
	for _, step := range []struct {
		bytes    int64
		warnings int
	}{{1, 0}, {LargeLog, 0}, {LargeLog + 1, 1}, {LargeLog * 2, 1}, {LargeLog*5 + 1, 2}, {LargeLog * 8, 2}, {LargeLog * 9, 3}} {
		w.look(step.bytes)
		if got := strings.Count(log.String(), "level=WARN"); got != step.warnings {
			t.Errorf("at %d bytes: %d warnings, want %d", step.bytes, got, step.warnings)
		}
	}
}

func TestLoggerLevels(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	l := logger{to: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, level := range []kfake.LogLevel{kfake.LogLevelNone, kfake.LogLevelError, kfake.LogLevelWarn, kfake.LogLevelInfo} {
		l.Logf(level, "line of level %d", level)
	}
	for _, want := range []string{`level=ERROR msg="line of level 1"`, `level=WARN msg="line of level 2"`, `level=DEBUG msg="line of level 3"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in %s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "level 0") {
		t.Error("a line of no level was logged")
	}
}

// What kfake says of a file that it could not write is why the log is in trouble,
// for a while; clients only learn that something went wrong.
func TestTroubleOfTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open4test(t, Config{Dir: dir})
	if err := b.Trouble(); err != nil {
		t.Fatal(err)
	}
	b.logger.Logf(kfake.LogLevelWarn, "persist batch %s: %v", "t-0", errors.New("not of a file"))
	if err := b.Trouble(); err != nil {
		t.Fatal(err)
	}
	full := &fs.PathError{Op: "write", Path: "0.dat", Err: syscall.ENOSPC}
	b.logger.Logf(kfake.LogLevelWarn, "persist batch %s: %v", "t-0", full)
	if err := b.Trouble(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	b.logger.failed.Store(&failure{full, time.Now().Add(-troubleTime - time.Second)})
	if err := b.Trouble(); err != nil {
		t.Errorf("a failure of long ago still counts: %v", err)
	}
}
