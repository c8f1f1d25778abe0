package pipeline

import (
	"fmt"
	"strings"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// plan is what one transaction will do with a run of records.
type plan struct {
	moves   []store.Move
	letters []Record // each with its fault
	input   []Record // what the handler gets
}

// plan follows the chain of each partition through records and sorts them: to
// be applied, dead, or only to be stepped over. At a gap the partition halts
// before the record behind it.
func (s *Stage) plan(sess *session, records []Record) plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p plan
	moves := map[TopicPartition]int{} // index into p.moves
	for _, r := range records {
		position, assigned := sess.positions[r.TopicPartition]
		if !assigned || position.Halted != "" || r.TopicID != position.TopicID {
			continue
		}
		i, begun := moves[r.TopicPartition]
		if !begun {
			i = len(p.moves)
			p.moves = append(p.moves, store.Move{From: position, Next: position.Next, Outbox: position.Outbox, Seq: position.Seq})
			moves[r.TopicPartition] = i
		}
		if m := &p.moves[i]; m.Halted == "" && r.Offset >= m.Next {
			s.planRecord(&p, m, r)
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

func (s *Stage) planRecord(p *plan, m *store.Move, r Record) {
	last := Link{m.Outbox, m.Seq}
	link, err := linkOf(r.Headers)
	if err == nil {
		switch last.follow(link) {
		case repeat:
			m.Next = r.Offset + 1
			return
		case gap:
			m.Halted = gapReason(last, link, r.Offset)
			return
		}
		if link != (Link{}) {
			err = s.misplaced(r)
		}
	}
	m.Next = r.Offset + 1
	after := last.advance(link)
	m.Outbox, m.Seq = after.Outbox, after.Seq
	switch {
	case err != nil && r.fault == nil:
		r.fault = err
		fallthrough
	case r.fault != nil:
		p.letters = append(p.letters, r)
	case !r.unwanted:
		p.input = append(p.input, r)
	}
}

// misplaced reports a record of an outbox on another partition than its key's:
// whoever wrote it has another partitioner, and order by key is lost.
func (s *Stage) misplaced(r Record) error {
	topology := s.outbox.topology
	if want := topology.partition(r.Key, topology.topics[r.Topic].Partitions); want != r.Partition {
		return fmt.Errorf("%w: key %q lies on partition %d, not on its own, %d", schema.ErrEnvelope, r.Key, r.Partition, want)
	}
	return nil
}

func gapReason(last, next Link, offset int64) string {
	switch {
	case last == Link{}:
		return fmt.Sprintf("the chain begins with number %d of outbox %s at offset %d: numbers 1 to %d are missing",
			next.Seq, next.Outbox, offset, next.Seq-1)
	case last.Outbox != next.Outbox:
		return fmt.Sprintf("the chain of outbox %s ends with number %d and that of %s goes on with %d at offset %d: was a database restored?",
			last.Outbox, last.Seq, next.Outbox, next.Seq, offset)
	default:
		return fmt.Sprintf("the chain of outbox %s jumps from number %d to %d at offset %d: the log lost %d records",
			last.Outbox, last.Seq, next.Seq, offset, next.Seq-last.Seq-1)
	}
}

// printable replaces what not every engine takes for text: a reason may quote
// the record.
func printable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// deadLetters turns records into rows, byte for byte.
func deadLetters(stage string, at schema.Time, records []Record) []store.DeadLetter {
	letters := make([]store.DeadLetter, len(records))
	for i, r := range records {
		letters[i] = store.DeadLetter{Stage: stage, Topic: string(r.Topic), TopicID: r.TopicID, Part: r.Partition,
			Offset: r.Offset, Key: r.Key, Headers: store.EncodeHeaders(r.Headers), Payload: r.Value,
			Reason: printable(r.fault.Error()), CreatedAt: at}
	}
	return letters
}
