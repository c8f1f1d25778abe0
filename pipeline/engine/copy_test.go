package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

const copyTopic schema.Topic = "a-copy"

// target is a log in memory that several may write to, with what its user does in
// between.
type target struct {
	*logtest.Memory
	mu sync.Mutex
	// before is called before each batch is appended, with its number from 1, and
	// says what Send answers although it appends.
	before func(ctx context.Context, batch int) error
	sent   int
}

func (b *target) Send(ctx context.Context, batches []log.PartitionBatch) []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent++
	errs := b.Memory.Send(ctx, batches)
	if b.before != nil {
		errs[0] = b.before(ctx, b.sent)
	}
	return errs
}

// copying is a source with some records on each partition, and an empty target.
func copying(each int) (CopyConfig, *logtest.Memory, *target) {
	source, to := newMemory(), &target{Memory: newMemory()}
	to.Infos[copyTopic] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
	cfg := CopyConfig{Source: source, Target: to, To: copyTopic}
	for p := range int32(Partitions) {
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
		for i := range each {
			source.Log[tp] = append(source.Log[tp], pipeline.Record{TopicPartition: tp, Offset: int64(i), Timestamp: time.UnixMilli(int64(1000*each - i)),
				Key: []byte("k"), Headers: []schema.Header{{Key: chain.HeaderNumber, Value: fmt.Append(nil, i)}}, Value: fmt.Append(nil, p, "/", i)})
		}
		cfg.Spans = append(cfg.Spans, Span{tp, 0, int64(each)})
	}
	return cfg, source, to
}

func TestCopyKeepsWhatARecordHas(t *testing.T) {
	t.Parallel()
	const each = 2*log.BatchRecords + 1
	cfg, source, to := copying(each)
	cfg.Spans[1].From, cfg.Spans[1].To = 5, each-5
	cfg.Spans[2].From = each
	var seen int
	cfg.Progress = func(n int) { seen += n }
	cfg.Spans = cfg.Spans[:3]
	single := cfg
	var all []Copied
	for i := range cfg.Spans { // one after the other, so that seen needs no lock
		single.Spans = cfg.Spans[i : i+1]
		copied, err := Copy(t.Context(), single)
		require.NoError(t, err)
		all = append(all, copied...)
	}
	assert.Equal(t, []Copied{
		{Partition: 0, To: each, Next: each, Records: each},
		{Partition: 1, From: 5, To: each - 5, Next: each - 5, Records: each - 10},
		{Partition: 2, From: each, To: each, Next: each},
	}, all)
	assert.Equal(t, 2*each-10, seen)
	got := to.Log[pipeline.TopicPartition{Topic: copyTopic, Partition: 1}]
	for i, want := range source.Log[cfg.Spans[1].TopicPartition][5 : each-5] {
		require.Equal(t, want.Key, got[i].Key)
		require.Equal(t, want.Headers, got[i].Headers, "also those of a chain")
		require.Equal(t, want.Value, got[i].Value)
		require.Equal(t, want.Timestamp, got[i].Timestamp)
	}
}

func TestCopyAllAtOnce(t *testing.T) {
	t.Parallel()
	cfg, _, to := copying(100)
	copied, err := Copy(t.Context(), cfg)
	require.NoError(t, err)
	for i, c := range copied {
		assert.True(t, c.Done())
		assert.EqualValues(t, 100, c.Records)
		assert.Len(t, to.Log[pipeline.TopicPartition{Topic: copyTopic, Partition: int32(i)}], 100)
	}
}

// What is under way when a copy is stopped is still awaited, so that where to continue
// is exact.
func TestCopyIsStopped(t *testing.T) {
	t.Parallel()
	cfg, _, to := copying(3 * log.BatchRecords)
	cfg.Spans, cfg.Grace = cfg.Spans[:1], time.Minute
	ctx, stop := context.WithCancel(t.Context())
	to.before = func(sending context.Context, batch int) error {
		if batch == 2 {
			stop()
		}
		return sending.Err()
	}
	copied, err := Copy(ctx, cfg)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []Copied{{To: 3 * log.BatchRecords, Next: 2 * log.BatchRecords, Records: 2 * log.BatchRecords}}, copied)
	assert.False(t, copied[0].Done())

	to.before = nil
	cfg.Spans[0].From = copied[0].Next
	_, err = Copy(t.Context(), cfg)
	require.NoError(t, err)
	got := to.Log[pipeline.TopicPartition{Topic: copyTopic, Partition: 0}]
	require.Len(t, got, 3*log.BatchRecords)
	for i, r := range got {
		require.Equal(t, fmt.Sprint("0/", i), string(r.Value))
	}
}

// A batch whose answer was lost lies beyond what is known to be copied.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	cfg, _, to := copying(3 * log.BatchRecords)
	cfg.Spans = cfg.Spans[:1]
	lost := errors.New("no answer")
	to.before = func(_ context.Context, batch int) error {
		if batch == 2 {
			return lost
		}
		return nil
	}
	copied, err := Copy(t.Context(), cfg)
	require.ErrorIs(t, err, lost)
	assert.ErrorContains(t, err, "price-events/0")
	assert.Equal(t, []Copied{{To: 3 * log.BatchRecords, Next: log.BatchRecords, Records: log.BatchRecords, Beyond: log.BatchRecords}}, copied)

	to.Infos[copyTopic] = log.TopicInfo{ID: "topic-9", Partitions: 1}
	cfg.Spans = []Span{{pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}, 0, 1}}
	_, err = Copy(t.Context(), cfg)
	assert.ErrorContains(t, err, "partitions 0 to 0")
}
