package table_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// segment is a row of the log.
type segment struct {
	ID       int64  `db:"id"`
	First    int64  `db:"first"`
	Newest   int64  `db:"newest"`
	Codec    int64  `db:"codec"`
	Checksum int64  `db:"checksum"`
	Body     []byte `db:"body"`
}

// numberMask cuts the last number out of an id.
const numberMask = 1<<38 - 1

func (s segment) last() int64 { return s.ID & numberMask }

// damaged is a log of two partitions of one lane, of which the first is to be damaged.
type damaged struct {
	db       *store.Store
	log      *table.Log
	topic    schema.Topic
	epoch    int64
	segments []segment // of the first partition
}

// perPartition is how many records each of them has.
const perPartition = 60

func newDamaged(t *testing.T, db *store.Store) *damaged {
	d := &damaged{db: db, log: openLog(t, db)}
	d.topic = newTopic(t, d.log)
	for _, partition := range []int32{0, 2} {
		for sent, n := 0, 1; sent < perPartition; sent, n = sent+n, n%20+3 {
			n = min(n, perPartition-sent)
			send(t, d.log, at(d.topic, partition), numbered(sent, n)...)
		}
	}
	topics, err := db.Topics(t.Context())
	require.NoError(t, err)
	d.epoch = topics[len(topics)-1].Epoch
	require.NoError(t, db.Select(t.Context(), &d.segments, `SELECT * FROM log_segments WHERE id > $1 AND id < $2 ORDER BY id`,
		d.epoch<<50, d.epoch<<50+1<<38))
	require.Greater(t, len(d.segments), 5)
	require.EqualValues(t, perPartition, d.segments[len(d.segments)-1].last())
	codecs := map[int64]bool{}
	for _, s := range d.segments {
		codecs[s.Codec] = true
	}
	require.Len(t, codecs, 2, "plain and compressed ones")
	return d
}

// exec changes the database as no pricemill would.
func (d *damaged) exec(ctx context.Context, query string, args ...any) error {
	return d.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, query, args...)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s: nothing was changed", query)
		}
		return err
	})
}

// readTo is what a reader of the first partition gets: how many records, in order from the
// first, and the error.
func (d *damaged) readTo(ctx context.Context, partition int32) (next int64, err error) {
	err = d.log.Read(ctx, at(d.topic, partition), 0, perPartition, func(records []pipeline.Record) error {
		for _, r := range records {
			if r.Offset != next || string(r.Value) != strconv.FormatInt(next, 10) {
				return fmt.Errorf("offset %d with %q comes after %d records", r.Offset, r.Value, next)
			}
			next++
		}
		return nil
	})
	return next, err
}

// TestAnyFlippedBitIsNamed: whichever bit of whichever column of a segment flips, what was
// written before it is read, nothing after it, and the error names the place.
func TestAnyFlippedBitIsNamed(t *testing.T) {
	t.Parallel()
	d := newDamaged(t, onSQLite(t)(t))
	ctx := t.Context()
	var ids []int64
	require.NoError(t, d.db.Select(ctx, &ids, `SELECT id FROM log_segments`))
	taken := map[int64]bool{}
	for _, id := range ids {
		taken[id] = true
	}
	for _, column := range []string{"id", "first", "newest", "codec", "checksum", "body"} {
		t.Run(column, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				index := rapid.IntRange(0, len(d.segments)-1).Draw(t, "segment")
				before := d.segments[index]
				after := before
				bit := rapid.IntRange(0, 62).Draw(t, "bit")
				switch column {
				case "id":
					after.ID ^= 1 << bit
				case "first":
					after.First ^= 1 << bit
				case "newest":
					after.Newest ^= 1 << bit
				case "codec":
					after.Codec ^= 1 << bit
				case "checksum":
					after.Checksum ^= 1 << bit
				case "body":
					after.Body = append([]byte{}, before.Body...)
					after.Body[rapid.IntRange(0, len(after.Body)-1).Draw(t, "byte")] ^= 1 << (bit % 8)
				}
				if after.ID != before.ID && taken[after.ID] {
					t.Skip("the database does not allow two rows of one id")
				}
				set := func(from, to segment) {
					require.NoError(t, d.exec(ctx, `UPDATE log_segments SET id = $1, first = $2, newest = $3, codec = $4, checksum = $5, body = $6 WHERE id = $7`,
						to.ID, to.First, to.Newest, to.Codec, to.Checksum, to.Body, from.ID))
				}
				set(before, after)
				defer set(after, before)
				next, err := d.readTo(ctx, 0)
				require.ErrorIs(t, err, table.ErrDamaged)
				// An id that became smaller lies before its place.
				require.LessOrEqual(t, next, before.First-1)
				if after.ID >= before.ID || after.ID < d.segments[0].ID-d.segments[0].last() {
					require.Equal(t, before.First-1, next, "what lies before it")
				}
				require.ErrorContains(t, err, fmt.Sprintf("%s/0 from offset %d: ", d.topic, next))
			})
		})
	}
	next, err := d.readTo(ctx, 0)
	require.NoError(t, err)
	assert.EqualValues(t, perPartition, next)
}

// kinds of damage to segments i and j of the first partition, of which i is read first.
var kinds = map[string]func(ctx context.Context, d *damaged, i, j segment) error{
	"a missing row": func(ctx context.Context, d *damaged, i, _ segment) error {
		return d.exec(ctx, `DELETE FROM log_segments WHERE id = $1`, i.ID)
	},
	"missing rows to the end": func(ctx context.Context, d *damaged, i, _ segment) error {
		return d.exec(ctx, `DELETE FROM log_segments WHERE id >= $1 AND id <= $2`, i.ID, d.segments[len(d.segments)-1].ID)
	},
	"a pair of rows that were swapped": func(ctx context.Context, d *damaged, i, j segment) error {
		for _, pair := range [][2]int64{{i.ID, -1}, {j.ID, i.ID}, {-1, j.ID}} {
			if err := d.exec(ctx, `UPDATE log_segments SET id = $1 WHERE id = $2`, pair[1], pair[0]); err != nil {
				return err
			}
		}
		return nil
	},
	"bodies that were swapped": func(ctx context.Context, d *damaged, i, j segment) error {
		if err := d.exec(ctx, `UPDATE log_segments SET body = $1, checksum = $2, codec = $3 WHERE id = $4`, j.Body, j.Checksum, j.Codec, i.ID); err != nil {
			return err
		}
		return d.exec(ctx, `UPDATE log_segments SET body = $1, checksum = $2, codec = $3 WHERE id = $4`, i.Body, i.Checksum, i.Codec, j.ID)
	},
	"a body that was cut": func(ctx context.Context, d *damaged, i, _ segment) error {
		return d.exec(ctx, `UPDATE log_segments SET body = $1 WHERE id = $2`, i.Body[:len(i.Body)-1], i.ID)
	},
	"a body without bytes": func(ctx context.Context, d *damaged, i, _ segment) error {
		return d.exec(ctx, `UPDATE log_segments SET body = $1 WHERE id = $2`, []byte{}, i.ID)
	},
	"zeros": func(ctx context.Context, d *damaged, i, _ segment) error {
		return d.exec(ctx, `UPDATE log_segments SET body = $1 WHERE id = $2`, make([]byte, len(i.Body)), i.ID)
	},
	"a row of zeros": func(ctx context.Context, d *damaged, i, _ segment) error {
		return d.exec(ctx, `UPDATE log_segments SET first = 0, newest = 0, codec = 0, checksum = 0, body = $1 WHERE id = $2`, []byte{}, i.ID)
	},
}

// TestDamageIsNamed: readers and subscribers get what lies before the damage and then say
// what is damaged; the other partition of the lane is consumed, and the report stays.
func TestDamageIsNamed(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		db := open(t)
		for kind, damage := range kinds {
			for _, place := range []string{"first", "middle", "last"} {
				t.Run(kind+"/"+place, func(t *testing.T) {
					d := newDamaged(t, db)
					i := map[string]int{"first": 0, "middle": len(d.segments) / 2, "last": len(d.segments) - 2}[place]
					if place == "last" && kind != "a pair of rows that were swapped" && kind != "bodies that were swapped" {
						i++
					}
					require.NoError(t, damage(t.Context(), d, d.segments[i], d.segments[min(i+1, len(d.segments)-1)]))
					want := d.segments[i].First - 1
					next, err := d.readTo(t.Context(), 0)
					require.ErrorIs(t, err, table.ErrDamaged)
					assert.ErrorContains(t, err, string(d.topic)+"/0 ")
					assert.Equal(t, want, next)
					t.Log(err)
					next, err = d.readTo(t.Context(), 2)
					require.NoError(t, err)
					assert.EqualValues(t, perPartition, next)
					d.consume(t, want, table.ErrDamaged)
				})
			}
		}
	})
}

// consume consumes both partitions in one lane: the first up to want, where it fails, the
// other one on and on.
func (d *damaged) consume(t *testing.T, want int64, failure error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reports := make(chan error, 1000)
	subscriber, err := d.log.Subscriber(log.SubscriberConfig{Group: unique("group"), Lanes: 1, BatchSize: 7, Report: func(err error) { reports <- err }})
	require.NoError(t, err)
	defer func() { assert.NoError(t, subscriber.Close()) }()
	messages, err := subscriber.Subscribe(ctx, string(d.topic))
	require.NoError(t, err)
	next := map[int32]int64{}
	var report error
	failures := 0
	note := func(err error) {
		if report = err; err != nil {
			failures++
		}
	}
	for sent := int64(perPartition); next[0] < want || next[2] < sent || report == nil; {
		select {
		case err := <-reports:
			note(err)
			continue
		default:
		}
		if next[0] == want && next[2] == sent {
			note(wait(t, "a report", reports))
			continue
		}
		msg := wait(t, "a message", messages)
		batch, _ := log.BatchOf(msg)
		for _, r := range batch.Records {
			require.Equal(t, next[r.Partition], r.Offset)
			require.Equal(t, strconv.FormatInt(r.Offset, 10), string(r.Value))
			next[r.Partition]++
		}
		msg.Ack()
		if next[2] == perPartition && sent == perPartition { // it is still followed
			send(t, d.log, at(d.topic, 2), numbered(perPartition, 10)...)
			sent += 10
		}
	}
	assert.Equal(t, want, next[0])
	for len(reports) > 0 {
		note(<-reports)
	}
	assert.Equal(t, 1, failures, "it is not tried again and again")
	require.ErrorIs(t, report, failure, "it stays")
	assert.ErrorContains(t, report, string(d.topic)+"/0 ")
}

// TestAFormatOfANewerVersion is no damage, and is refused by partition and number.
func TestAFormatOfANewerVersion(t *testing.T) {
	t.Parallel()
	d := newDamaged(t, onSQLite(t)(t))
	s := d.segments[3]
	checksum := table.Checksum(store.Segment{Epoch: d.epoch, First: s.First, Last: s.last(), Newest: s.Newest, Codec: 77, Body: s.Body})
	require.NoError(t, d.exec(t.Context(), `UPDATE log_segments SET codec = 77, checksum = $1 WHERE id = $2`, checksum, s.ID))
	next, err := d.readTo(t.Context(), 0)
	require.ErrorIs(t, err, table.ErrUnknownFormat)
	assert.NotErrorIs(t, err, table.ErrDamaged)
	assert.ErrorContains(t, err, fmt.Sprintf("this version does not know: format 77, numbers %d to %d", s.First, s.last()))
	assert.Equal(t, s.First-1, next)
	d.consume(t, s.First-1, table.ErrUnknownFormat)
}

// TestAColumnOfAnotherType: SQLite keeps what it is given.
func TestAColumnOfAnotherType(t *testing.T) {
	t.Parallel()
	d := newDamaged(t, onSQLite(t)(t))
	require.NoError(t, d.exec(t.Context(), `UPDATE log_segments SET first = 'x' WHERE id = $1`, d.segments[2].ID))
	next, err := d.readTo(t.Context(), 0)
	require.ErrorIs(t, err, table.ErrDamaged)
	assert.ErrorContains(t, err, string(d.topic)+"/0 ")
	assert.Equal(t, d.segments[2].First-1, next)
	d.consume(t, d.segments[2].First-1, table.ErrDamaged)
}
