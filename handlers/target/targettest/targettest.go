// Package targettest kills processes between what they send to a target and the position
// that says so. It is for tests alone.
package targettest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// Now is the clock of Records, and of the processes that send them.
var Now = time.Date(2026, 1, 5, 14, 30, 0, 0, time.UTC)

// symbols are those of the prices, so that several partitions have some.
var symbols = []schema.Symbol{"A", "B", "C", "D", "E"}

// Records puts n prices into the log of a rig, 1 to n.
func Records(t pipelinetest.TB, rig *pipelinetest.Rig, n int) []pipeline.Record {
	t.Helper()
	at := schema.NewTime(Now)
	payloads := make([]schema.Payload, n)
	for i := range payloads {
		payloads[i] = schema.PriceObserved{Symbol: symbols[i%len(symbols)], Source: "p", Price: schema.MustDecimal(fmt.Sprint(i + 1)), Timestamp: at, ReceivedAt: at}
	}
	records := rig.AppendAll(t, payloads...)
	for i := range records {
		records[i].Timestamp = Now
	}
	return records
}

// childVariable holds the task of a process that is to be killed.
const childVariable = "PRICEMILL_TEST_TARGET_CHILD"

// task is what such a process does.
type task struct {
	Database string         `json:"database"`
	Handler  string         `json:"handler"`
	Settings map[string]any `json:"settings"`
	Prices   int            `json:"prices"`
	Batch    int            `json:"batch"`
	// HangAfter is after how many batches that were sent the process does nothing more; 0:
	// it continues to the end.
	HangAfter int `json:"hang_after"`
}

// sentLine is what the process says before it hangs.
const sentLine = "sent"

// RunIfChild has a process do its task and end, where Kill has started it for that. It is for
// the begin of TestMain; create makes a handler, as in a HandlerModule.
func RunIfChild(create func(name string) func(pipeline.Env) (pipeline.Handler, error)) {
	text := os.Getenv(childVariable)
	if text == "" {
		return
	}
	var todo task
	if err := json.Unmarshal([]byte(text), &todo); err != nil {
		panic(err)
	}
	if err := todo.run(create(todo.Handler)); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func (todo task) run(create func(pipeline.Env) (pipeline.Handler, error)) error {
	t := pipelinetest.Panic{}
	engine, err := sqlite.Open(todo.Database)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	db, err := store.Open(context.Background(), pipelinetest.Clocked(engine))
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	h, err := create(pipeline.Env{Settings: todo.Settings, Now: func() time.Time { return Now }})
	if err != nil {
		return fmt.Errorf("making the handler: %w", err)
	}
	log, remove, err := pipelinetest.Temporary()
	if err != nil {
		return fmt.Errorf("making a log: %w", err)
	}
	defer remove()
	records := Records(t, log, todo.Prices)
	stage := log.Again(t, db).StartHandler(t, todo.Handler, &hanging{Preparer: h.(pipeline.Preparer), left: todo.HangAfter})
	for batch := range slices.Chunk(records, todo.Batch) {
		if err := stage.Deliver(batch...); err != nil {
			return fmt.Errorf("delivering: %w", err)
		}
	}
	stage.Close(t)
	return db.Close()
}

// hanging is a handler that hangs after what it sent.
type hanging struct {
	pipeline.Preparer
	left int
}

// Prepare sends, and hangs where it is time to.
func (h *hanging) Prepare(ctx context.Context, in []pipeline.Record) error {
	if err := h.Preparer.Prepare(ctx, in); err != nil {
		return err
	}
	if h.left--; h.left == 0 {
		fmt.Println(sentLine)
		select {}
	}
	return nil
}

// Kill runs processes that send the prices of Records, n of them, until all are sent and
// their positions have moved. Each process but the last is killed after something was sent
// and before its position has moved; each has batches of another size.
func Kill(t *testing.T, handler string, settings map[string]any, n int) {
	t.Helper()
	todo := task{Database: filepath.Join(t.TempDir(), "db"), Handler: handler, Settings: settings, Prices: n}
	for i, hangAfter := range []int{1, 1, 3, 1, 2, 0} {
		todo.Batch, todo.HangAfter = []int{7, 3, 11, 5}[i%4], hangAfter
		text, err := json.Marshal(todo)
		require.NoError(t, err)
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env, child.Stderr = append(os.Environ(), childVariable+"="+string(text)), os.Stderr
		said, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		lines := bufio.NewScanner(said)
		if hangAfter == 0 {
			require.False(t, lines.Scan(), lines.Text())
			require.NoError(t, child.Wait())
			return
		}
		require.True(t, lines.Scan(), "the process ended before it had sent enough")
		require.Equal(t, sentLine, lines.Text())
		require.NoError(t, child.Process.Kill())
		_ = child.Wait() // it was killed
	}
}
