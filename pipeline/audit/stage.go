package audit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// stageAudit is what is found of one stage.
type stageAudit struct {
	*audit
	spec    engine.StageSpec
	finding *Finding
	auditor Auditor // nil where the handler has none
}

func newStageAudit(ctx context.Context, a *audit, spec engine.StageSpec) (*stageAudit, error) {
	s := &stageAudit{audit: a, spec: spec, finding: NewFinding("stage "+spec.Name, a.Most)}
	if audited, ok := spec.Handler.(Audited); ok {
		var err error
		if s.auditor, err = audited.Audit(ctx, &View{Querier: a.View, Finding: s.finding, audit: a, produces: spec.Produces}); err != nil {
			return nil, fmt.Errorf("looking at stage %s: %w", spec.Name, err)
		}
	}
	return s, nil
}

func (s *stageAudit) end(ctx context.Context) error {
	if s.auditor == nil {
		return nil
	}
	if err := s.auditor.End(ctx); err != nil {
		return fmt.Errorf("looking at stage %s: %w", s.spec.Name, err)
	}
	return nil
}

// walkStages judges each record of a partition as each of its stages did that has
// gone beyond it: one was a repeat, one became a dead letter, one was none of its
// events, and of all others the effects must be there.
func (a *audit) walkStages(ctx context.Context, tp pipeline.TopicPartition, held log.OffsetRange) error {
	topic, _ := a.Topics.Topic(tp.Topic)
	var walks []*stageWalk
	end := held.Oldest
	for _, s := range a.stages {
		p, stands := a.positions[stagePartition{s.spec.Name, tp}]
		if !stands || p.TopicID != topic.ID || !slices.Contains(s.spec.Topics(), tp.Topic) {
			continue
		}
		w := &stageWalk{stageAudit: s, chainWalk: a.newChainWalk(tp, held), position: p, next: held.Oldest, truncations: topic.Renewed,
			repeats: map[eventKey]place{}, letters: letterCursor{view: a.View, stage: p.Stage, topicID: p.TopicID, part: p.Part, after: -1}, counts: map[string]int64{}}
		if s.auditor != nil {
			w.auditor = s.auditor.Partition(tp)
		}
		walks = append(walks, w)
		end = max(end, min(p.Next, held.End))
	}
	err := a.Broker.Read(ctx, tp, held.Oldest, end, func(records []pipeline.Record) error {
		for i := range records {
			r := &records[i]
			r.Decode(topic)
			for _, w := range walks {
				if r.Offset >= w.position.Next {
					continue
				}
				if !w.stopped {
					if err := w.record(ctx, r); err != nil && !w.stops(err) {
						return err
					}
				}
				if w.stopped {
					w.derived(r) // so that its events do not count as events of nothing
				}
			}
		}
		a.Progress(len(records))
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.judgeStageRepeats(ctx, tp, held, end, walks); err != nil {
		return err
	}
	for _, w := range walks {
		if w.stopped {
			continue
		}
		if err := w.end(ctx); err != nil && !w.stops(err) {
			return err
		}
	}
	return nil
}

// judgeStageRepeats looks whether the event of each record that a stage skipped
// as a repeat was met under a number that is none. It reads the partition again
// where there are repeats.
func (a *audit) judgeStageRepeats(ctx context.Context, tp pipeline.TopicPartition, held log.OffsetRange, end int64, walks []*stageWalk) error {
	walks = slices.DeleteFunc(slices.Clone(walks), func(w *stageWalk) bool { return len(w.repeats) == 0 })
	if len(walks) == 0 {
		return nil
	}
	chains := make([]chainWalk, len(walks))
	for i := range walks {
		chains[i] = a.newChainWalk(tp, held)
	}
	err := a.Broker.Read(ctx, tp, held.Oldest, end, func(records []pipeline.Record) error {
		for _, r := range records {
			link, derived, err := chain.LinkOf(r.Headers)
			for i, w := range walks {
				if r.Offset >= w.position.Next || err != nil {
					continue
				}
				what, err := chains[i].step(ctx, link, derived, r.Offset)
				if err != nil {
					return err
				}
				if what == chain.Apply || what == chain.StepOver {
					delete(w.repeats, keyOf(schema.EventID(r.Headers)))
				}
			}
		}
		return nil
	})
	if errors.Is(err, log.ErrDamaged) {
		for _, w := range walks {
			w.finding.Inconclusive("%v", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, w := range walks {
		for _, r := range w.repeats {
			w.finding.Missing("the %s was skipped as a repeat, and its event was never applied", r)
		}
	}
	return nil
}

// chainWalk follows the chain of a partition as a stage does that was told to skip
// each break.
type chainWalk struct {
	audit *audit
	tp    pipeline.TopicPartition
	held  log.OffsetRange
	names chain.Timelines
	last  chain.Link
}

func (a *audit) newChainWalk(tp pipeline.TopicPartition, held log.OffsetRange) chainWalk {
	return chainWalk{a, tp, held, a.limited[tp], startLink(held)}
}

// step is what the stage does with the record at next; foreign where it skips
// a stray one.
func (c *chainWalk) step(ctx context.Context, next chain.Link, derived bool, offset int64) (chain.Verdict, error) {
	what := c.last.Follow(next, derived, c.names)
	if what == chain.Gap || what == chain.Foreign {
		to, stray, err := c.audit.skip(ctx, halt.ChainBreak{TopicPartition: c.tp, What: what, Last: c.last, Next: next, Offset: offset,
			End: c.held.End, Names: c.names})
		if err != nil || stray {
			return chain.Foreign, err
		}
		c.last = to
		what = c.last.Follow(next, derived, c.names)
	}
	if what == chain.Apply || what == chain.StepOver {
		c.last = c.last.Advance(next)
	}
	return what, nil
}

// stops ends the walk at a row that cannot be read, which is a difference.
func (w *stageWalk) stops(err error) bool {
	if !errors.Is(err, store.ErrUnreadable) {
		return false
	}
	w.stopped = true
	w.finding.Differ("%s: %v; what the stage made of offset %d and the records after it was not looked at", w.tp, err, w.next-1)
	return true
}

// stageWalk is a stage on its way through a partition.
type stageWalk struct {
	*stageAudit
	chainWalk
	position    store.Position
	truncations int        // how often the log of the topic lost its end
	first       chain.Link // the first link that was met
	next        int64
	letters     letterCursor
	auditor     PartitionAuditor
	counts      map[string]int64
	stopped     bool // at a row that cannot be read
	// repeats are the records that were skipped as repeats.
	repeats map[eventKey]place
}

// What becomes of a record, as it is counted. Their sum is what lies before the
// position.
const (
	wasApplied    = "applied"
	wasRepeat     = "repeats"
	wasDead       = "dead letters"
	wasOther      = "not for it"
	wasSuperseded = "superseded"
	wasStray      = "stray"
	wasNothing    = "offsets without a record"
)

func (w *stageWalk) record(ctx context.Context, r *pipeline.Record) error {
	w.counts[wasNothing] += r.Offset - w.next
	w.next = r.Offset + 1
	link, derived, broken := chain.LinkOf(r.Headers)
	what, err := w.step(ctx, link, derived, r.Offset)
	if err != nil {
		return err
	}
	if w.first == (chain.Link{}) {
		w.first = link
	}
	if what == chain.Repeat && !w.beforeHead(link) {
		id := schema.EventID(r.Headers)
		w.repeats[keyOf(id)] = place{w.tp, fmt.Sprintf("offset %d", r.Offset), id}
	}
	var fault error
	if what == chain.Apply {
		fault = engine.FaultOf(w.Topics, r, link, broken)
	}
	letter, err := w.letterAt(ctx, r.Offset)
	if err != nil {
		return err
	}
	fate := w.fate(r, what, fault, letter)
	w.counts[fate]++
	if letter != nil {
		w.checkLetter(r, fate, *letter)
	}
	events := w.derived(r)
	switch {
	case fate == wasApplied && w.auditor != nil:
		return w.auditor.Applied(ctx, r, events)
	case fate != wasApplied && events > 0:
		w.finding.Add(1, 0, int64(events), fmt.Sprintf("from the record at offset %d of %s follow %d events, and it was not applied: %s",
			r.Offset, w.tp, events, fate))
	}
	return nil
}

// beforeHead reports whether a number may have been in what the log no longer has.
func (w *stageWalk) beforeHead(link chain.Link) bool {
	if w.held.Oldest == 0 {
		return false
	}
	if link.Timeline == w.first.Timeline {
		return link.Seq < w.first.Seq
	}
	return w.names[link.Timeline].Order < w.names[w.first.Timeline].Order
}

// fate says what became of a record.
func (w *stageWalk) fate(r *pipeline.Record, what chain.Verdict, fault error, letter *store.DeadLetter) string {
	switch {
	case what == chain.Repeat:
		return wasRepeat
	case what == chain.StepOver:
		return wasSuperseded
	case what == chain.Foreign:
		return wasStray
	case fault != nil:
		if letter == nil {
			w.finding.Missing("the record at offset %d of %s should be a dead letter, and is not: %v", r.Offset, w.tp, fault)
		}
		return wasDead
	case !slices.Contains(w.spec.Consumes, r.Event.Payload.EventType()):
		return wasOther
	case letter != nil:
		return wasDead // its handler refused it
	}
	return wasApplied
}

// derived counts the events that were derived from a record, and claims them.
// Where the log lost its end, the record may be from before or from since; those
// of a lost record of the same offset are claimed, but not counted.
func (w *stageWalk) derived(r *pipeline.Record) int {
	if !w.index.gives(w.spec.Name) {
		return 0
	}
	events := 0
	for renewed := w.truncations; renewed >= 0; renewed-- {
		n := 0
		for w.index.claim(pipeline.DerivedID(w.spec.Name, r, renewed, n), w.spec.Name) {
			n++
		}
		if events == 0 {
			events = n
		}
	}
	return events
}

func (w *stageWalk) end(ctx context.Context) error {
	if w.auditor != nil {
		if err := w.auditor.End(ctx); err != nil {
			return err
		}
	}
	// What follows is seen as well: no offset is so high.
	if _, err := w.letterAt(ctx, math.MaxInt64); err != nil {
		return err
	}
	before := min(w.position.Next, w.held.End)
	w.counts[wasNothing] += max(0, before-w.next)
	w.finding.Count("records", max(0, before-w.held.Oldest))
	for what, n := range w.counts {
		if n > 0 || what == wasApplied {
			w.finding.Count(what, n)
		}
	}
	w.checkLink()
	return nil
}

// checkLink holds the link that the position keeps against the log.
func (w *stageWalk) checkLink() {
	kept := w.position.Reached
	if kept.Mode != chain.InOrder || w.first == (chain.Link{}) && w.held.Oldest > 0 {
		return // an operator decided what is next, or the log does not tell
	}
	if kept.Timeline != w.last.Timeline || kept.Seq != w.last.Seq {
		w.places.Differ("%s has applied %s up to number %d of chain %s, by its position, and by the log up to number %d of %s",
			w.spec.Name, w.tp, kept.Seq, chain.NameOrNone(kept.Timeline), w.last.Seq, chain.NameOrNone(w.last.Timeline))
	}
}

// checkUnclaimed is for events that no walk has met the record of.
func (a *audit) checkUnclaimed() {
	left := a.index.unclaimed()
	for _, s := range a.stages {
		keys := left[s.spec.Name]
		delete(left, s.spec.Name)
		if len(keys) > 0 {
			s.unclaimed(keys)
		}
	}
	for stage, keys := range left {
		a.chains.NotChecked("%d events were derived by stage %s, which this binary does not have", len(keys), stage)
	}
}

// mostOlder bounds the records whose ids are made only to know their events.
const mostOlder = 20_000_000

// unclaimed says which events of a stage follow from none of the records that it
// applied. What follows from records that are gone can be told by its id, as long
// as the topic is the same.
func (s *stageAudit) unclaimed(keys []eventKey) {
	of := make(map[eventKey]bool, len(keys))
	for _, key := range keys {
		of[key] = true
	}
	older := int64(0)
	for _, topic := range s.spec.Topics() {
		if s.epochs[topic] > 1 {
			s.finding.NotChecked("%s was created again, or its log lost its end: what follows from records that are gone cannot be told from what follows from none", topic)
			return
		}
		for part, held := range s.ends[topic] {
			if older += held.Oldest; older > mostOlder {
				s.finding.NotChecked("what follows from records of %s that are gone cannot be told from what follows from none", topic)
				return
			}
			known, _ := s.Topics.Topic(topic)
			for offset := range held.Oldest {
				r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: topic, Partition: int32(part)}, Offset: offset}
				r.TopicID = known.ID
				r.Locate(known)
				for n := 0; ; n++ {
					key := keyOf(pipeline.DerivedID(s.spec.Name, &r, 0, n))
					if !of[key] {
						break
					}
					delete(of, key)
				}
			}
		}
	}
	for key := range of {
		s.finding.Duplicate("event %s follows from no record that the stage applied", key)
	}
}
