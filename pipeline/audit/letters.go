package audit

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// checkLetter holds a dead letter against its record.
func (w *stageWalk) checkLetter(r *pipeline.Record, fate string, l store.DeadLetter) {
	if fate != wasDead {
		w.finding.Duplicate("the record at offset %d of %s is a dead letter, and should not be: it is among the %q", r.Offset, w.tp, fate)
		return
	}
	var wrong []string
	for _, part := range []struct {
		name         string
		kept, logged []byte
	}{{"key", l.Key, r.Key}, {"headers", l.Headers, store.EncodeHeaders(r.Headers)}, {"value", l.Payload, r.Value}} {
		if !bytes.Equal(part.kept, part.logged) || (part.kept == nil) != (part.logged == nil) {
			wrong = append(wrong, part.name)
		}
	}
	if len(wrong) > 0 {
		w.finding.Missing("the dead letter of offset %d of %s does not have the %s of the record", r.Offset, w.tp, strings.Join(wrong, " and the "))
	}
}

// letterAt returns the dead letter of a record, if it has one, and says what is
// wrong with those that were passed.
func (w *stageWalk) letterAt(ctx context.Context, offset int64) (*store.DeadLetter, error) {
	for {
		l, err := w.letters.head(ctx)
		switch {
		case err != nil || l == nil || l.Offset > offset:
			return nil, err
		case l.Offset == offset:
			w.letters.pop()
			return l, nil
		case l.Offset < w.held.Oldest:
			w.finding.NotChecked("dead letters of %s are older than what the log holds", w.tp)
		case l.Offset >= w.position.Next:
			w.finding.Duplicate("there is a dead letter of offset %d of %s, and the stage is at %d", l.Offset, w.tp, w.position.Next)
		default:
			w.finding.Duplicate("there is a dead letter of offset %d of %s, and no record", l.Offset, w.tp)
		}
		w.letters.pop()
	}
}

// letterCursor reads the dead letters of a stage on a partition, by offset.
type letterCursor struct {
	view    store.Querier
	stage   string
	topicID string
	part    int32
	after   int64
	page    []store.DeadLetter
	ended   bool
}

// letterPage is how many dead letters are read at once: each may be large.
const letterPage = 8

func (c *letterCursor) head(ctx context.Context) (*store.DeadLetter, error) {
	if len(c.page) == 0 && !c.ended {
		var err error
		if c.page, err = store.DeadLettersOf(ctx, c.view, c.stage, c.topicID, c.part, c.after, letterPage); err != nil {
			return nil, err
		}
		c.ended = len(c.page) < letterPage
	}
	if len(c.page) == 0 {
		return nil, nil
	}
	return &c.page[0], nil
}

func (c *letterCursor) pop() { c.after, c.page = c.page[0].Offset, c.page[1:] }

// checkLetters is for dead letters that no walk has met.
func (a *audit) checkLetters(ctx context.Context) error {
	var groups []struct {
		Stage   string       `db:"stage"`
		Topic   schema.Topic `db:"topic"`
		TopicID string       `db:"topic_id"`
		Part    int32        `db:"part"`
		N       int64        `db:"n"`
	}
	err := a.View.Select(ctx, &groups, `SELECT stage, topic, topic_id, part, COUNT(*) AS n FROM dead_letters
		WHERE substr(stage, 1, $1) <> $2 GROUP BY stage, topic, topic_id, part`, len(store.Scratch), store.Scratch)
	if err != nil {
		return fmt.Errorf("counting dead letters: %w", err)
	}
	for _, g := range groups {
		a.letters.Count("dead letters", g.N)
		tp := pipeline.TopicPartition{Topic: g.Topic, Partition: g.Part}
		at := slices.IndexFunc(a.Stages, func(s engine.StageSpec) bool { return s.Name == g.Stage })
		_, stands := a.positions[stagePartition{g.Stage, tp}]
		switch {
		case at < 0:
			a.letters.NotChecked("this binary does not have stage %s: its dead letters are not looked at", g.Stage)
		case g.TopicID != a.topicID(tp) && a.epochs[g.Topic] > 1:
			a.letters.NotChecked("dead letters of %s are of a topic that is gone", tp)
		case g.TopicID != a.topicID(tp) || !stands || !slices.Contains(a.Stages[at].Topics(), g.Topic):
			a.letters.Add(g.N, 0, g.N, fmt.Sprintf("%s has %d dead letters of %s (%s), of which it takes nothing", g.Stage, g.N, tp, g.TopicID))
		}
	}
	return nil
}
