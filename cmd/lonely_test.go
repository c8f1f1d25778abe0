package cmd_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// What a process may take with a log of lonely records, however many there are.
const (
	lonelyVariable = "PRICEMILL_TEST_LONELY" // how many; `make test-lonely` sets a day's worth
	standardLonely = 5_000
	lonelyMemory   = 150 << 20 // bytes, resident
	lonelyStart    = 2 * time.Second
	lonelyBatch    = 500
)

// TestLonelyRecords: prices that come one by one leave a segment each, the worst that a
// log can be made of. Neither the memory of a process nor the time of its start grows with
// them, after kill -9 neither.
func TestLonelyRecords(t *testing.T) {
	total := standardLonely
	if text := os.Getenv(lonelyVariable); text != "" {
		var err error
		total, err = strconv.Atoi(text)
		require.NoError(t, err)
	} else {
		t.Parallel()
	}
	env := newStack(t, environment{"KAFKA_BOOTSTRAP_SERVERS": ""}) // it is about the log in the database
	process, l := spawn(t, env)
	l.await(t, "pipeline running")

	// The first half comes while the service runs, the second while it does not.
	appendLonely(t, env, 0, total/2)
	awaitLonely(t, env, process, total/2)
	require.NoError(t, process.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(t, process.Wait(), &exit)
	appendLonely(t, env, total/2, total)

	for _, name := range []string{"after kill -9, before half of the log is applied", "after kill -9, with all of it applied"} {
		began := time.Now()
		process, l = spawn(t, env)
		l.await(t, "pipeline running")
		took := time.Since(began)
		awaitLonely(t, env, process, total)
		awaitDrained(t, env) // the other read models
		t.Logf("%d records, %s: started in %v", total, name, took.Round(time.Millisecond))
		if onQuietMachine() {
			assert.LessOrEqual(t, took, lonelyStart, name)
		}
		require.NoError(t, process.Process.Kill())
		require.ErrorAs(t, process.Wait(), &exit)
	}
	rows := counted(t, env)
	assert.Equal(t, total, rows["answers"])
	assert.Equal(t, total, rows["prices"])
	if total <= standardLonely {
		proven(t, env)
	}
}

// onQuietMachine reports whether times and memory are held to limits: where the test was
// asked for, and so has the machine to itself, and runs without the race detector.
func onQuietMachine() bool { return os.Getenv(lonelyVariable) != "" }

// appendLonely appends answers, each as a segment of its own, which is what an append of one
// record leaves. Many share a transaction, so that a day is over in minutes.
func appendLonely(t *testing.T, env environment, from, to int) {
	t.Helper()
	logger, partitions, err := reach(env)
	require.NoError(t, err)
	defer func() { assert.NoError(t, logger.Close()) }()
	began := time.Now()
	for ; from < to; from += lonelyBatch {
		random := rand.New(rand.NewPCG(uint64(from), 0))
		var batches []log.PartitionBatch
		for i := range min(lonelyBatch, to-from) {
			batches = append(batches, batchesOf(t, []fedAnswer{lonelyAnswer(random, from+i)}, partitions)...)
		}
		for _, err := range logger.Send(t.Context(), batches) {
			require.NoError(t, err)
		}
	}
	t.Logf("appended up to %d in %v", to, time.Since(began).Round(time.Second))
}

// lonelyAnswer is the nth answer, a tenth of a second after the one before.
func lonelyAnswer(random *rand.Rand, n int) fedAnswer {
	at := time.Date(2025, 6, 15, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second / 10)
	symbol := schema.Symbol("S" + strconv.Itoa(n%10))
	payload := fmt.Sprintf(`{"simulated":true,"provider":"simulated","symbol":%q,"price":"%d.%02d","time":%q}`,
		symbol, 1+random.IntN(1000), random.IntN(100), at.Format(time.RFC3339Nano))
	return fedAnswer{"lonely-" + strconv.Itoa(n), schema.QuoteFetched{Quote: schema.Quote{Provider: "simulated", Symbol: symbol},
		RawResponse: schema.RawResponse(payload), ReceivedAt: schema.NewTime(at)}}
}

// awaitLonely waits until so many prices have become averages, and looks at the memory of
// the process meanwhile.
func awaitLonely(t *testing.T, env environment, process *exec.Cmd, n int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	most, begun := int64(0), time.Now()
	require.Eventually(t, func() bool {
		resident, err := residentBytes(process.Process.Pid)
		if !assert.NoError(t, err) {
			return true
		}
		most = max(most, resident)
		count, err := applied(t.Context(), db)
		return err == nil && count >= n
	}, time.Hour, 20*time.Millisecond, "%d applied", n)
	t.Logf("%d applied, waited %v, most memory %d MB", n, time.Since(begun).Round(time.Second), most>>20)
	if onQuietMachine() {
		assert.LessOrEqual(t, most, int64(lonelyMemory), "resident bytes")
	}
}

// residentBytes is the memory of a process that is in RAM, where the system says it as
// Linux does; elsewhere it is 0.
func residentBytes(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if os.IsNotExist(err) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		if text, found := strings.CutPrefix(lines.Text(), "VmRSS:"); found {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kB << 10, err
		}
	}
	return 0, lines.Err()
}
