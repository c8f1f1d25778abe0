package logtest

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
)

// errEnough ends a follower that has seen what it waits for.
var errEnough = errors.New("enough")

// await follows a partition until it has seen the numbered records from one offset up to
// but not including another, and returns how far it came.
func (r *rig) await(ctx context.Context, l Log, tp pipeline.TopicPartition, from, to int64) (int64, error) {
	next := from
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := l.Follow(ctx, tp, from, func(records []pipeline.Record) error {
		for _, record := range records {
			assert.Equal(r, next, record.Offset)
			assert.Equal(r, strconv.FormatInt(record.Offset, 10), string(record.Value))
			next++
		}
		if next >= to {
			return errEnough
		}
		return nil
	})
	return next, err
}

func testFollow(r *rig) { r.follows(r.log(), nil) }

func testFollowOther(r *rig) {
	writer := r.log()
	r.follows(writer, r.log())
}

// follows has a partition followed while another one grows too.
func (r *rig) follows(writer, reader Log) {
	const before, after = 300, 700
	if reader == nil {
		reader = writer
	}
	topic := r.topic(writer)
	r.send(writer, at(topic, 2), numbered(0, before)...)
	for _, from := range []int64{0, 17, before} {
		ended := make(chan int64, 1)
		go func() {
			reached, err := r.await(r.Context(), reader, at(topic, 2), from, before+after)
			assert.Equal(r, errEnough, err)
			ended <- reached
		}()
		if from == 0 {
			for sent := before; sent < before+after; sent += 7 {
				r.send(writer, at(topic, 2), numbered(sent, min(7, before+after-sent))...)
				r.send(writer, at(topic, 1), numbered(sent, 1)...)
			}
		}
		require.EqualValues(r, before+after, wait(r, "the follower's end", ended))
	}
}

func testFollowOutOfRange(r *rig) {
	l := r.log()
	topic := r.topic(l)
	r.send(l, at(topic, 0), numbered(0, 10)...)
	for _, from := range []int64{-1, 11} {
		err := l.Follow(r.Context(), at(topic, 0), from, func([]pipeline.Record) error {
			assert.Fail(r, "records were read", from)
			return nil
		})
		assert.ErrorIs(r, err, r.cfg.OutOfRange, from)
	}
	assert.ErrorIs(r, l.Follow(r.Context(), at(topic, 99), 0, nil), r.cfg.UnknownTopic)
}

func testFollowEnds(r *rig) {
	l := r.log()
	topic := r.topic(l)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(r.Context())
	go func() { ended <- l.Follow(ctx, at(topic, 0), 0, nil) }()
	select {
	case err := <-ended:
		assert.Fail(r, "it ended by itself", err)
	case <-time.After(10 * time.Millisecond): // whether it waits already or not, the end is the same
	}
	cancel()
	assert.ErrorIs(r, wait(r, "the end of its context", ended), context.Canceled)
	go func() { ended <- l.Follow(r.Context(), at(topic, 0), 0, nil) }()
	require.NoError(r, l.Close())
	assert.ErrorIs(r, wait(r, "the end of the log", ended), r.cfg.Closed)
}
