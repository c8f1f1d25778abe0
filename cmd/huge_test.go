package cmd_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// memoryOf samples the memory of a process that is its own, without the pages of
// files that it maps, until stop is called, which returns the most.
func memoryOf(t testing.TB, pid int) (stop func() int) {
	t.Helper()
	done := make(chan struct{})
	most := 0
	var sampling sync.WaitGroup
	sampling.Go(func() {
		for {
			most = max(most, anonymousMemory(t, pid))
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return func() int {
		close(done)
		sampling.Wait()
		return most
	}
}

// anonymousMemory is RssAnon of a process, in bytes; 0 once it is gone.
func anonymousMemory(t testing.TB, pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if value, found := bytes.CutPrefix(line, []byte("RssAnon:")); found {
			fields := bytes.Fields(value)
			kilobytes, err := strconv.Atoi(string(fields[0]))
			assert.NoError(t, err)
			return kilobytes << 10
		}
	}
	return 0
}

// mostMemory is what a process may need for whatever is in the log. It has four
// stages on one topic here, each with two lanes and four partitions.
const mostMemory = 1 << 30

// TestFaultsHugeRecords writes records of 900 kB in a row to a topic that four
// stages read. What a stage holds of them at a time is bounded, in bytes.
func TestFaultsHugeRecords(t *testing.T) {
	s := newScenario(t, "records of 900 kB in a row", everyStack...)
	n := pick(s, 100, 1000)
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	process, l := spawn(t, env)
	l.await(t, "pipeline running")
	answers := makeAnswers(s.random, 1000, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	feed(t, env, answers[:500])
	awaitDrained(t, env)
	before := anonymousMemory(t, process.Process.Pid)
	stop := memoryOf(t, process.Process.Pid)

	broker := connect(t, env)
	huge := bytes.Repeat([]byte("x"), tooLarge)
	for i := range n {
		errs := broker.Send(t.Context(), []log.PartitionBatch{{
			TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: int32(i % partitionsInTests)},
			Records:        []log.OutgoingRecord{{Value: huge}}}})
		require.NoError(t, errs[0])
	}
	feed(t, env, answers[500:])
	awaitDrained(t, env)
	most := stop()
	t.Logf("%d records of %d bytes: %d MB before, at most %d MB meanwhile", n, tooLarge, before>>20, most>>20)
	assert.Less(t, most, mostMemory)
	s.cycles, s.letters = n, 4*n
	s.check(env, answers)
}
