package projections_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// latestRig is the read model of latest prices.
func latestRig(t *testing.T) (*pipelinetest.Rig, *pipelinetest.Stage, string) {
	t.Helper()
	rig := pipelinetest.New(t)
	for _, module := range pipeline.Projections() {
		if module.Name == latestprices.Name {
			p, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			spec, err := projections.Open(t.Context(), rig.DB, p)
			require.NoError(t, err)
			stage := rig.Start(t, spec)
			t.Cleanup(func() { stage.Close(t) })
			return rig, stage, spec.Name
		}
	}
	require.Fail(t, "not registered")
	return nil, nil, ""
}

func priceOf(symbol schema.Symbol, n int) schema.PriceObserved {
	at := schema.NewTime(time.Unix(int64(n), 0))
	return schema.PriceObserved{Symbol: symbol, Source: "p", Price: schema.MustDecimal(strconv.Itoa(n)), Timestamp: at, ReceivedAt: at}
}

// TestKeptRowsAreDropped: whatever writes the rows of a read model, the next answer has what
// it wrote, although those before it came from memory.
func TestKeptRowsAreDropped(t *testing.T) {
	t.Parallel()
	rig, stage, name := latestRig(t)
	require.NoError(t, stage.Deliver(rig.AppendAll(t, priceOf("A", 1), priceOf("B", 1))...))
	reader := latestprices.NewReader(rig.DB)
	read := func() string {
		one, err := reader.Latest(t.Context(), "p", "A")
		require.NoError(t, err)
		both, err := reader.LatestOf(t.Context(), "p", []schema.Symbol{"NONE", "B", "A"})
		require.NoError(t, err)
		require.Nil(t, both[0])
		require.Equal(t, one, *both[2])
		return both[1].Price.String() + " " + one.Price.String()
	}
	// write changes the row of A, and whatever else f does, in one transaction.
	number := 1
	write := func(f func(tx *store.Tx) error) {
		number++
		require.NoError(t, rig.DB.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(t.Context(), `UPDATE latest_prices SET price = $1 WHERE symbol = 'A'`, strconv.Itoa(number)); err != nil || f == nil {
				return err
			}
			return f(tx)
		}))
	}
	// keeps waits until answers come from memory, which a row that changes by itself shows.
	keeps := func() {
		require.Eventually(t, func() bool {
			before := read()
			write(nil)
			return read() == before
		}, 20*time.Second, time.Millisecond)
	}
	topic := string(schema.PriceEvents)
	for what, f := range map[string]func(tx *store.Tx) error{
		"a retry of dead letters": func(tx *store.Tx) error {
			_, err := tx.FenceRetry(t.Context(), name, topic, 0)
			return err
		},
		"another log": func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE positions SET topic_id = topic_id || 'x' WHERE stage = $1`, name)
			return err
		},
		"a step back": func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE positions SET next_offset = 0 WHERE stage = $1`, name)
			return err
		},
	} {
		keeps()
		write(f)
		assert.Equal(t, fmt.Sprint("1 ", number), read(), what)
	}
	keeps()
	write(func(tx *store.Tx) error { // the last one, since the stage is another then
		_, err := tx.Exec(t.Context(), `UPDATE generations SET number = number + 1 WHERE projection = $1`, latestprices.Name)
		return err
	})
	assert.Equal(t, fmt.Sprint("1 ", number), read(), "another generation")
}

// TestReadersSeeWhatWasCommitted: while a stage writes, with rests in which rows are kept, no
// one who asks after a commit gets an answer of before it.
func TestReadersSeeWhatWasCommitted(t *testing.T) {
	t.Parallel()
	rig, stage, _ := latestRig(t)
	reader := latestprices.NewReader(rig.DB)
	symbols := []schema.Symbol{"A", "B", "C"}
	var committed atomic.Int64
	deliver := func(n int) {
		var payloads []schema.Payload
		for _, symbol := range symbols {
			payloads = append(payloads, priceOf(symbol, n))
		}
		require.NoError(t, stage.Deliver(rig.AppendAll(t, payloads...)...))
		committed.Store(int64(n))
	}
	deliver(1)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var kept atomic.Int64
	for r := range 4 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				least := committed.Load()
				if (r+i)%2 == 0 {
					one, err := reader.Latest(t.Context(), "p", symbols[i%3])
					if assert.NoError(t, err) {
						assert.GreaterOrEqual(t, one.Timestamp.Unix(), least)
					}
					continue
				}
				all, err := reader.LatestOf(t.Context(), "p", symbols)
				if !assert.NoError(t, err) {
					return
				}
				for _, price := range all {
					assert.GreaterOrEqual(t, price.Timestamp.Unix(), least)
				}
				kept.Add(1)
			}
		})
	}
	for n := 2; n < 60; n++ {
		deliver(n)
		if n%4 == 0 { // until what is read was kept
			before := kept.Load()
			require.Eventually(t, func() bool { return kept.Load() > before+20 }, 20*time.Second, time.Millisecond)
		}
	}
	close(stop)
	readers.Wait()
}
