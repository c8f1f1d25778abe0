package projections_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// heldLog is a log whose partition 1 has records with these numbers, from an offset on.
type heldLog struct {
	numbers []int64
	oldest  int64
}

func (l heldLog) Offsets(context.Context, schema.Topic) ([]log.OffsetRange, error) {
	return []log.OffsetRange{{}, {Oldest: l.oldest, End: int64(len(l.numbers))}, {}}, nil
}

func (l heldLog) Read(_ context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	if from < l.oldest {
		return errors.New("out of range")
	}
	for offset := from; offset < to; offset++ {
		links := chain.LinkHeaders([]byte("chain"), l.numbers[offset])
		if err := f([]pipeline.Record{{TopicPartition: tp, Offset: offset, Headers: links[:]}}); err != nil {
			return err
		}
	}
	return nil
}

// TestPlacesInTheLog: a number is that of a record also where some came twice, and a place that
// cannot be told, or read any more, is an error.
func TestPlacesInTheLog(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	p, err := moduleOf(projections.PriceListName).New(pipeline.Env{})
	require.NoError(t, err)
	_, err = projections.Open(t.Context(), rig.DB, p)
	require.NoError(t, err)
	exec := func(statement string, args ...any) {
		t.Helper()
		require.NoError(t, rig.DB.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), statement, args...)
			return err
		}))
	}
	var epoch int64
	require.NoError(t, rig.DB.Get(t.Context(), &epoch, `SELECT epoch FROM topics WHERE name = $1`, schema.PriceEvents))
	exec(`DELETE FROM chains WHERE epoch = $1 AND part = 1`, epoch)
	exec(`INSERT INTO chains (epoch, part, outbox, last, sent) VALUES ($1, 1, 'chain', 6, 6)`, epoch)
	applied := func(next, number int64) {
		exec(`DELETE FROM positions WHERE part = 1 AND topic = $1`, schema.PriceEvents)
		exec(`INSERT INTO positions (stage, topic, part, topic_id, next_offset, chain_outbox, chain_seq, halted, moved_at)
			SELECT 'processed-prices.g1', name, 1, topic_id, $1, 'chain', $2, '', '2026-01-01T00:00:00Z' FROM topics WHERE epoch = $3`, next, number, epoch)
	}
	find := func(l heldLog, part int32, number int64) (int64, error) {
		places := projections.Places{DB: rig.DB, Log: l}
		id, err := places.RowID(t.Context(), []string{projections.PriceListName}, part, number)
		if err != nil {
			return 0, err
		}
		assert.Equal(t, part, rowid.PartitionOf(id))
		return rowid.Offset(id), nil
	}
	refused := func(l heldLog, part int32, number int64, want string) {
		t.Helper()
		_, err := find(l, part, number)
		var place *projections.PlaceError
		require.ErrorAs(t, err, &place)
		assert.True(t, strings.Contains(place.Reason, want), place.Reason)
	}

	plain := heldLog{numbers: []int64{1, 2, 3, 4, 5}}
	applied(5, 5)
	offset, err := find(plain, 1, 4)
	require.NoError(t, err)
	assert.Equal(t, int64(3), offset)
	_, err = find(plain, 1, 6)
	require.ErrorIs(t, err, projections.ErrNotApplied)
	refused(plain, 1, 7, "beyond the end of the log, which is price-events:1:6")
	refused(plain, 9, 1, "has 3 partitions")
	refused(heldLog{plain.numbers, 3}, 1, 3, "deleted")

	twice := heldLog{numbers: []int64{1, 2, 1, 2, 3, 4, 4, 5}} // a relay sent some again
	applied(8, 5)
	for number, want := range map[int64]int64{1: 0, 2: 1, 3: 4, 4: 5, 5: 7} {
		offset, err := find(twice, 1, number)
		require.NoError(t, err)
		assert.Equal(t, want, offset, "number %d", number)
	}
	refused(heldLog{twice.numbers, 5}, 1, 3, "deleted")
	number, err := projections.Places{DB: rig.DB}.Applied(t.Context(), []string{projections.PriceListName}, 1)
	require.NoError(t, err)
	assert.Equal(t, int64(5), number)

	exec(`INSERT INTO retired_chains (epoch, part, ordinal, outbox, sent, given) VALUES ($1, 1, 1, 'before', 3, 3)`, epoch)
	refused(twice, 1, 4, "began again")
	exec(`DELETE FROM retired_chains`)
	exec(`INSERT INTO topics (epoch, name, topic_id, partitions, seen) VALUES ($1, $2, 'another', 3, 3)`, epoch+50, schema.PriceEvents)
	exec(`INSERT INTO chains (epoch, part, outbox, last, sent) VALUES ($1, 1, 'new', 6, 6)`, epoch+50)
	refused(twice, 1, 4, "began again")
}
