package table_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/schema"
)

func noCommit(context.Context) error { return nil }

// Some records get others in their place, whatever the segments are; all else stays, to the
// byte, and the log continues.
func TestReplace(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		d := newDamaged(t, open(t))
		tp, other := at(d.topic, 0), at(d.topic, 2)
		former, untouched := recordsOf(t, d.log, tp), recordsOf(t, d.log, other)
		replaced := func(r *pipeline.Record) bool {
			n, err := strconv.Atoi(string(r.Value))
			return err == nil && n%3 == 0
		}
		instead := &table.Replacement{Headers: []schema.Header{{Key: "ce_type", Value: []byte("gone")}}, Value: []byte("-")}
		replace := func(r *pipeline.Record) (*table.Replacement, error) {
			if replaced(r) {
				return instead, nil
			}
			return nil, nil
		}
		// Killed before its commit, it has changed nothing.
		stop := errors.New("stop")
		require.ErrorIs(t, d.log.Replace(t.Context(), tp, perPartition, replace, func(context.Context) error { return stop }), stop)
		assert.Equal(t, former, recordsOf(t, d.log, tp))

		const before = perPartition - 7
		require.NoError(t, d.log.Replace(t.Context(), tp, before, replace, noCommit))
		commits := 0
		require.NoError(t, d.log.Replace(t.Context(), tp, before, replace, func(context.Context) error { commits++; return nil }))
		assert.Zero(t, commits, "again, there is nothing to do")
		now := recordsOf(t, openLog(t, open(t)), tp)
		require.Len(t, now, perPartition)
		count := 0
		for i, was := range former {
			want := was
			if i < before && replaced(&was) {
				count++
				want.Key, want.Value = nil, []byte("-")
				want.Headers = append(slices.Clone(instead.Headers), was.Headers[len(was.Headers)-2:]...) // its place in the chain
			}
			assert.Equal(t, want, now[i], "offset %d", i)
		}
		assert.Greater(t, count, 10)
		assert.Equal(t, untouched, recordsOf(t, d.log, other))
		send(t, d.log, tp, log.OutgoingRecord{Value: []byte("more")})
		assert.Len(t, recordsOf(t, d.log, tp), perPartition+1)

		refused := errors.New("refused")
		require.ErrorIs(t, d.log.Replace(t.Context(), tp, perPartition, func(*pipeline.Record) (*table.Replacement, error) { return nil, refused }, noCommit), refused)
		require.ErrorIs(t, d.log.Replace(t.Context(), at("none", 0), 1, replace, noCommit), table.ErrUnknownTopic)
		require.NoError(t, d.exec(t.Context(), `DELETE FROM log_segments WHERE id = $1`, d.segments[1].ID))
		require.ErrorIs(t, d.log.Replace(t.Context(), tp, perPartition, replace, noCommit), table.ErrDamaged)
		require.NoError(t, d.exec(t.Context(), `UPDATE log_segments SET checksum = checksum + 1 WHERE id = $1`, d.segments[0].ID))
		require.ErrorIs(t, d.log.Replace(t.Context(), tp, perPartition, replace, noCommit), table.ErrDamaged)
	})
}

// Many segments take several transactions.
func TestReplaceInTransactions(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		l := openLog(t, open(t))
		tp := at(newTopic(t, l), 1)
		const n = 300
		for i := range n {
			send(t, l, tp, log.OutgoingRecord{Value: bytes.Repeat([]byte{byte(i)}, 100)})
		}
		commits := 0
		require.NoError(t, l.Replace(t.Context(), tp, n, func(*pipeline.Record) (*table.Replacement, error) {
			return &table.Replacement{Value: []byte("-")}, nil
		}, func(context.Context) error { commits++; return nil }))
		assert.Equal(t, 3, commits)
		for _, r := range recordsOf(t, l, tp) {
			assert.Equal(t, "-", string(r.Value))
		}
	})
}

// recordsOf are all records of a partition.
func recordsOf(t testing.TB, l *table.Log, tp pipeline.TopicPartition) []pipeline.Record {
	t.Helper()
	ranges, err := l.Offsets(t.Context(), tp.Topic)
	require.NoError(t, err)
	var all []pipeline.Record
	require.NoError(t, l.Read(t.Context(), tp, 0, ranges[tp.Partition].End, func(records []pipeline.Record) error {
		all = append(all, records...)
		return nil
	}))
	return all
}
