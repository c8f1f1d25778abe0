package target_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func at(offset int64) target.Place { return target.Place{Log: "l/1", Offset: offset} }

// What is due, of a memory of three events that has those of the offsets 5, 6 and 9.
func TestRecent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		id     string
		offset int64
		late   bool
		due    bool
		fails  bool
	}{
		"the next one":                       {"10", 10, false, true, false},
		"one that is known":                  {"6", 6, false, false, false},
		"one that is known, at another one":  {"6", 12, false, false, false},
		"one that was not wanted before":     {"7", 7, false, true, false},
		"another one at a known offset":      {"six", 6, false, false, true},
		"one before all that is remembered":  {"4", 4, false, false, true},
		"one that comes late":                {"4", 4, true, true, false},
		"one that is known, and comes late":  {"9", 9, true, false, false},
		"one late, of an offset that is one": {"nine", 9, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := target.NewRecent(3)
			for _, offset := range []int64{4, 5, 9, 6} {
				r.Add(fmt.Sprint(offset), offset, false)
			}
			due, err := r.Due(test.id, at(test.offset), test.late)
			assert.Equal(t, test.due, due)
			assert.Equal(t, test.fails, errors.Is(err, target.ErrSetBack), "%v", err)
		})
	}
}

// Before the memory is full, an event of a low offset may be one that was not wanted.
func TestRecentOfFew(t *testing.T) {
	t.Parallel()
	r := target.NewRecent(3)
	due, err := r.Due("1", at(0), false)
	require.NoError(t, err)
	assert.True(t, due)
	r.Add("9", 9, false)
	due, err = r.Due("4", at(4), false)
	require.NoError(t, err)
	assert.True(t, due)
}

// What came late is remembered as long as what came just before it.
func TestRecentKeepsWhatCameLate(t *testing.T) {
	t.Parallel()
	r := target.NewRecent(3)
	for offset := range int64(5) {
		r.Add(fmt.Sprint(offset), offset, false)
	}
	r.Add("late", 0, true)
	r.Add("late", 0, true)
	r.Add("5", 5, false)
	assert.Equal(t, []target.Sent{{ID: "4", Offset: 4}, {ID: "late", Offset: 4}, {ID: "5", Offset: 5}}, r.All())
	due, err := r.Due("late", at(0), true)
	require.NoError(t, err)
	assert.False(t, due)
}

// Two incarnations of a topic, and two partitions, are two Logs.
func TestPlaces(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, id := range []string{"a", "b"} {
		for partition := range int32(2) {
			for epoch := range int64(2) {
				r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partition}, TopicID: id, Offset: 7}
				r.State.Epoch = epoch
				place, err := target.PlaceOf(&r)
				require.NoError(t, err)
				assert.EqualValues(t, 7, place.Offset)
				assert.False(t, seen[place.Log], place.Log)
				seen[place.Log] = true
			}
		}
	}
	_, err := target.PlaceOf(&pipeline.Record{Offset: 1 << 40})
	assert.Error(t, err)
}

func TestFilter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 5, 14, 30, 0, 0, time.UTC)
	when := schema.NewTime(now)
	about := schema.Correction{FactID: "1", Symbol: "A", Source: "p", Timestamp: when, Reason: "a typo"}
	records := pipelinetest.New(t).AppendAll(t,
		schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: when, ReceivedAt: when},
		schema.PriceObserved{Symbol: "A", Source: "q", Price: schema.MustDecimal("1"), Timestamp: when, ReceivedAt: when},
		schema.PriceRetracted{Correction: about, RetractedAt: when})
	for text, want := range map[string][]bool{
		"a":   {true, true, true},
		"p/A": {true, false, true},
		"B":   {false, false, false},
	} {
		f, err := target.NewFilter([]string{text}, time.Hour, func() time.Time { return now })
		require.NoError(t, err)
		for i := range records {
			assert.Equal(t, want[i], f.Wants(&records[i]), "%s %d", text, i)
		}
		assert.False(t, f.TooOld(&records[0]), "a dead letter that is retried has no time")
		for age, old := range map[time.Duration]bool{time.Hour: false, time.Hour + 1: true} {
			r := records[0]
			r.Timestamp = now.Add(-age)
			assert.Equal(t, old, f.TooOld(&r), age)
		}
	}
	_, err := target.NewFilter([]string{"", "p/"}, -1, nil)
	require.ErrorContains(t, err, `symbols: "": want [provider/]SYMBOL`)
	require.ErrorContains(t, err, `symbols: "p/"`)
	require.ErrorContains(t, err, "max_age: -1ns is negative")
}
