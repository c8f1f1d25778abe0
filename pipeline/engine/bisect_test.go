package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/internal/state"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// picky refuses prices that end in a digit, after it has already written them, and
// counts in Cache, and after the commit, the records that it took.
type picky struct {
	Recorder
	refuses string
	calls   int
	counted []int // by commit
}

func (h *picky) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	h.calls++
	count := pipeline.CacheFor[string, int](tx, h)
	for range in {
		n, _ := count.Get("taken")
		count.Put("taken", n+1)
	}
	tx.OnCommit(func() { h.counted = append(h.counted, len(in)) })
	events, err := h.Recorder.Handle(ctx, tx, in)
	for i := range in {
		if text := in[i].Event.Payload.(schema.PriceObserved).Price.String(); h.refuses != "" && strings.HasSuffix(text, h.refuses) {
			return nil, errors.Join(err, pipeline.Permanent(fmt.Errorf("%s is refused", text)))
		}
	}
	return events, err
}

// Many records that only the handler can tell from good ones cost their batch one
// transaction, not one each.
func TestWhatAHandlerRefusesIsFoundByBisecting(t *testing.T) {
	t.Parallel()
	const n, bad = 2000, 200
	h := &picky{refuses: "0"} // 10, 20, 30 …
	r := NewRig(t, h)
	commits := 0
	r.Stage.committed = func() { commits++ }
	r.Stage.limit, r.Stage.bisectTime = time.Hour, time.Hour // whatever the machine is
	for range n {
		r.Append(1, 0, nil)
	}
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Equal(t, 1, commits)
	assert.LessOrEqual(t, h.calls, 10*bad, "parts rise with the bad records, and hardly with the others")
	assert.Len(t, r.effects(), n-bad)
	assert.Equal(t, int64(n), r.position(1).Next)
	letters := r.letters()
	require.Len(t, letters, bad)
	for i, letter := range letters { // the newest first
		assert.Equal(t, int64(n-1-10*i), letter.Offset)
		assert.Contains(t, letter.Reason, "0 is refused")
	}
	rows, err := r.DB.ReadOutbox(t.Context(), n, 1<<30, store.Behind{Epoch: r.Epoch(schema.QuoteOutcomes), Part: 1})
	require.NoError(t, err)
	require.Len(t, rows, n-bad)
	for i, row := range rows {
		assert.Equal(t, int64(i+1), row.Seq)
	}
	total := 0
	for _, taken := range h.counted {
		total += taken
	}
	assert.Equal(t, n-bad, total, "what was left for after the commit")
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		lane := r.Stage.lane(r.Stage.current(), 0)
		taken, _ := pipeline.CacheFor[string, int](&pipeline.Tx{Tx: tx, State: state.Tx{Caches: lane.caches}}, h).Get("taken")
		assert.Equal(t, n-bad, taken, "what is remembered")
		return nil
	}))
}

// Bisecting that one transaction has no time for continues in several.
func TestBisectingIsBounded(t *testing.T) {
	t.Parallel()
	const n = 32
	var r *Rig
	slow := 0
	h := &picky{refuses: "7"}
	r = NewRig(t, handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
		if h.calls > 0 && slow == 0 { // bisected as a whole
			slow++
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return h.Handle(ctx, tx, in)
	}))
	r.Stage.limit = 200 * time.Millisecond
	for range n {
		r.Append(1, 0, nil)
	}
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Positive(t, slow)
	assert.Len(t, r.effects(), n-3)
	assert.Len(t, r.letters(), 3, "7, 17, 27")
}

func BenchmarkBisect(b *testing.B) {
	for name, refuses := range map[string]string{"none": "", "a hundredth": "00", "a tenth": "0"} {
		b.Run(name, func(b *testing.B) {
			const n = 2000
			records := 0
			for b.Loop() {
				b.StopTimer()
				r := NewRig(b, &picky{refuses: refuses})
				for range n {
					r.Append(1, 0, nil)
				}
				r.assign()
				b.StartTimer()
				require.NoError(b, r.Deliver(b.Context(), r.LogOf(1)...))
				records += n
			}
			b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
