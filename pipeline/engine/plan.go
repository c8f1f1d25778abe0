package engine

import (
	"fmt"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// plan is what one transaction will do with a run of records.
type plan struct {
	moves   []store.Move
	letters []pipeline.Record // each with its fault
	input   []pipeline.Record // what the handler gets
	// broken says that a partition halts before a record.
	broken bool
	// leftToFence says that the fence has to see whether the database has given what was
	// read.
	leftToFence bool
	// bisectDeadline is until when the transaction looks for what the handler refuses;
	// where it is zero, it fails at once.
	bisectDeadline time.Time
	// published are the spans of the events that follow.
	published published
}

// plan follows the chain of each partition through records and sorts them: to
// be applied, dead, or only to be skipped. At a break the partition halts
// before the record after it.
func (s *Stage) plan(sess *session, records []pipeline.Record) plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := plan{input: make([]pipeline.Record, 0, len(records))} // nearly always all of them
	moves := map[pipeline.TopicPartition]int{}                 // index into p.moves
	for _, r := range records {
		position, assigned := sess.positions[r.TopicPartition]
		if !assigned || position.Halted != "" || r.TopicID != position.TopicID {
			continue
		}
		i, begun := moves[r.TopicPartition]
		if !begun {
			i = len(p.moves)
			p.moves = append(p.moves, store.Move{From: position, Next: position.Next, Reached: position.Reached})
			moves[r.TopicPartition] = i
		}
		if m := &p.moves[i]; m.Halted == "" && r.Offset >= m.Next {
			s.planRecord(&p, m, r, sess.namesFor(r))
		}
	}
	// A partition of which nothing new came is not touched.
	kept := p.moves[:0]
	for _, m := range p.moves {
		if m.Next != m.From.Next || m.Halted != "" {
			kept = append(kept, m)
		}
	}
	p.moves = kept
	return p
}

func (s *Stage) planRecord(p *plan, m *store.Move, r pipeline.Record, names chain.Timelines) {
	j := judge(s.topics, m.Reached, &r, names)
	if j.step == chain.Gap || j.step == chain.Foreign {
		m.Halted = halt.Before(m.From, m.Reached, j.link, r.Offset, j.step, names).String()
		p.broken = true
		return
	}
	m.Next = r.Offset + 1
	m.Reached = j.after
	switch r.State.Fault = j.fault; {
	case j.step != chain.Apply:
	case r.State.Fault != nil:
		p.letters = append(p.letters, r)
	case !r.State.Unwanted:
		p.input = append(p.input, r)
	}
}

// judgment is what a stage does with a record, but for what its handler says.
type judgment struct {
	step chain.Verdict
	// link is where the record is in its chain, after what the chain has
	// reached after it.
	link, after chain.Link
	// fault is why a record that is to be applied becomes a dead letter.
	fault error
}

// judge is a function of the record, decoded, and of what stands before it in the
// log.
func judge(topics *topics.Set, last chain.Link, r *pipeline.Record, names chain.Timelines) judgment {
	link, derived, err := chain.LinkOf(r.Headers)
	j := judgment{step: last.Follow(link, derived, names), link: link, after: last}
	if j.step == chain.Apply || j.step == chain.StepOver {
		j.after = last.Advance(link)
	}
	if j.step == chain.Apply {
		j.fault = FaultOf(topics, r, link, err)
	}
	return j
}

// FaultOf is why a record that is to be applied becomes a dead letter, whatever its
// handler says. broken is what is wrong with its link.
func FaultOf(topics *topics.Set, r *pipeline.Record, link chain.Link, broken error) error {
	switch {
	case r.State.Fault != nil:
		return r.State.Fault
	case broken != nil:
		return broken
	}
	return misplaced(topics, r, link)
}

// misplaced reports a record on another topic than its event's, or on another
// partition than the key of its event says: anyone who wrote it has another
// partitioner. The events of a key would be on two partitions and in two lanes,
// each of which remembers another state of it. A record of an outbox must lie
// where its own key says, too.
func misplaced(topics *topics.Set, r *pipeline.Record, link chain.Link) error {
	switch r.Event.Payload.(type) {
	case schema.LogGap, schema.RecordDeleted:
		return nil // they may be anywhere
	}
	if topic := r.Event.Payload.Topic(); topic != r.Topic {
		return fmt.Errorf("%w: %s belongs on topic %s", schema.ErrEnvelope, r.Event.Payload.EventType(), topic)
	}
	own := r.Event.Payload.Key()
	keys := [][]byte{[]byte(own)}
	// A bare symbol is the key under topics.Set.KeyBySymbol, today or when it was written.
	bare := r.Topic == schema.PriceEvents && string(r.Key) == schema.SymbolOfKey(own)
	if link != (chain.Link{}) && !chain.IsDirect(r.Headers) && !bare {
		keys = append(keys, r.Key)
	}
	for _, key := range keys {
		want, err := topics.PartitionOf(r.Topic, key)
		if err != nil {
			return err
		}
		if want != r.Partition {
			return fmt.Errorf("%w: key %q is on partition %d, not on its own, %d",
				schema.ErrEnvelope, key[:min(len(key), schema.MaxID)], r.Partition, want)
		}
	}
	return nil
}

// maxReason bounds the reason of a dead letter, in bytes: it may quote the record,
// whose bytes are kept next to it, or say where a handler panicked.
const maxReason = 4096

// printable replaces what not every engine takes for text: a reason may quote
// the record.
func printable(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason], "") + "…"
}

// deadLetters turns records into rows, byte for byte.
func deadLetters(stage string, at schema.Time, records []pipeline.Record) []store.DeadLetter {
	letters := make([]store.DeadLetter, len(records))
	for i, r := range records {
		letters[i] = store.DeadLetter{Stage: stage, Topic: string(r.Topic), TopicID: r.TopicID, Part: r.Partition,
			Offset: r.Offset, Key: r.Key, Headers: store.EncodeHeaders(r.Headers), Payload: r.Value,
			Reason: printable(r.State.Fault.Error()), CreatedAt: at, Epoch: r.State.Epoch}
	}
	return letters
}
