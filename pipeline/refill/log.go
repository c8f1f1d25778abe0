package refill

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Cluster is the Kafka cluster whose topics are filled again.
type Cluster interface {
	log.Broker
	// DeleteTopics deletes topics with all their records.
	DeleteTopics(ctx context.Context, topics []schema.Topic) error
}

// LogConfig says which topics to fill again. All but Step and Progress is required.
type LogConfig struct {
	Store *store.Store
	// Cluster connects to Kafka, where topics are created with so many partitions.
	Cluster func(ctx context.Context, partitions int32) (Cluster, error)
	// Run is the run that store.BeginLogRefill returned.
	Run store.LogRefill
	// Lost are the topics to fill, as the database knows them.
	Lost []store.Topic
	// Lay returns what is to be on the partitions of a lost topic, in their order, and
	// Records makes the records.
	Lay     func(topic store.Topic) []*Partition
	Records Records
	// Step is told what is being done, and Progress how many records more were written or
	// compared, from several goroutines.
	Step     func(what string)
	Progress func(records int)
}

// FilledTopic is what was done for a topic.
type FilledTopic struct {
	Topic      schema.Topic `json:"topic"`
	Partitions int          `json:"partitions"`
	// Records were given again, Gaps stand for those that the database does not know, and
	// Appended of the records come after all that stages had applied.
	Records  int64 `json:"records"`
	Gaps     int64 `json:"gaps"`
	Appended int64 `json:"appended"`
}

// FillLog creates lost topics, fills them from the database, compares them, and has the database
// know them in the place of the lost ones. It can be run again after an error or a kill.
func FillLog(ctx context.Context, cfg LogConfig) ([]FilledTopic, error) {
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int) {}
	}
	l := &logFiller{LogConfig: cfg}
	var filled []FilledTopic
	var adopted []store.FilledTopic
	for _, topic := range cfg.Lost {
		if err := l.create(ctx, topic); err != nil {
			return nil, err
		}
		partitions := cfg.Lay(topic)
		result := FilledTopic{Topic: schema.Topic(topic.Name), Partitions: len(partitions)}
		adopt := store.FilledTopic{Topic: topic, NewID: l.Run.Topics[topic.Name], LinkedBefore: func(part int32, offset int64) int64 { return partitions[part].linkedBefore(offset) }}
		for _, p := range partitions {
			p.seal()
			result.Records += int64(len(p.slots))
			result.Gaps += p.End - int64(len(p.slots))
			result.Appended += p.End - p.Known
			adopt.Linked = append(adopt.Linked, p.before[len(p.slots)])
		}
		if err := l.fill(ctx, topic, partitions); err != nil {
			return nil, err
		}
		filled, adopted = append(filled, result), append(adopted, adopt)
	}
	l.Step("adopting the new topics")
	l.Run.Written = true
	return filled, l.Store.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		for i, topic := range adopted {
			if err := l.relink(ctx, tx, topic.ID, cfg.Lay(cfg.Lost[i])); err != nil {
				return err
			}
			if err := tx.AdoptTopic(ctx, topic, l.Run.Timeline); err != nil {
				return err
			}
		}
		return tx.SaveLogRefill(ctx, l.Run)
	})
}

type logFiller struct{ LogConfig }

// create creates the topic, unless this run has.
func (l *logFiller) create(ctx context.Context, topic store.Topic) error {
	name := schema.Topic(topic.Name)
	cluster, err := l.Cluster(ctx, topic.Partitions)
	if err != nil {
		return err
	}
	infos, err := cluster.EnsureTopics(ctx, []schema.Topic{name})
	if err != nil {
		return err
	}
	info := infos[name]
	if info.Partitions != topic.Partitions {
		return fmt.Errorf("topic %s of the cluster has %d partitions, and the lost one had %d: delete it, and it is created as it must be", name, info.Partitions, topic.Partitions)
	}
	limited, err := cluster.LimitedRetention(ctx, []schema.Topic{name})
	if err != nil {
		return err
	}
	if limited[name] != "" {
		return fmt.Errorf("topic %s of the cluster would delete what is filled into it (%s): delete it, and it is created as it must be", name, limited[name])
	}
	if l.Run.Topics[topic.Name] == info.ID {
		return nil
	}
	// It is empty, since CheckLost has found it so, or has just been made.
	l.Run.Topics[topic.Name] = info.ID
	return l.Store.Write(ctx, func(tx *store.Tx) error { return tx.SaveLogRefill(ctx, l.Run) })
}

// fill writes what a topic lacks, and compares all of it.
func (l *logFiller) fill(ctx context.Context, topic store.Topic, partitions []*Partition) error {
	name := schema.Topic(topic.Name)
	cluster, err := l.Cluster(ctx, topic.Partitions)
	if err != nil {
		return err
	}
	l.Step("writing topic " + topic.Name)
	held, err := cluster.Offsets(ctx, name)
	if err != nil {
		return fmt.Errorf("asking for the ends of %s: %w", name, err)
	}
	err = log.EachPartition(ctx, name, len(partitions), func(ctx context.Context, tp pipeline.TopicPartition) error {
		p := partitions[tp.Partition]
		return log.WriteSequence(ctx, cluster, tp, l.expected(p, held[p.Partition].End).some, l.Progress)
	})
	if err != nil {
		return fmt.Errorf("filling %w", err)
	}
	l.Step("comparing topic " + topic.Name)
	err = log.EachPartition(ctx, name, len(partitions), func(ctx context.Context, tp pipeline.TopicPartition) error {
		p := partitions[tp.Partition]
		return log.CompareSequence(ctx, cluster, tp, 0, p.End, false, l.expected(p, 0).some, l.Progress)
	})
	if errors.Is(err, log.ErrOtherRecords) {
		err = fmt.Errorf("%w; it is deleted: run the command again", errors.Join(err, cluster.DeleteTopics(ctx, []schema.Topic{name})))
	}
	return err
}

// slotsAtOnce bounds the records that are made at once: each may be large.
const slotsAtOnce = 200

// expected are the records of a partition, in their order and without omission.
type expected struct {
	*logFiller
	p *Partition
	// next is the offset of the next one, and slot the first of the slots that is not before it.
	next int64
	slot int
}

func (l *logFiller) expected(p *Partition, from int64) *expected {
	return &expected{l, p, from, p.at(from)}
}

// some are the next records; none at the end.
func (e *expected) some(ctx context.Context) ([]log.OutgoingRecord, error) {
	if e.next >= e.p.End {
		return nil, nil
	}
	to := min(e.next+log.BatchRecords, e.p.End)
	if e.slot+slotsAtOnce < len(e.p.slots) {
		to = min(to, e.p.slots[e.slot+slotsAtOnce].Offset)
	}
	upTo := e.p.at(to)
	known, err := e.make(ctx, e.p, e.slot, upTo)
	if err != nil {
		return nil, err
	}
	all := make([]log.OutgoingRecord, 0, to-e.next)
	for ; e.next < to; e.next++ {
		if e.slot < upTo && e.p.slots[e.slot].Offset == e.next {
			all, known = append(all, known[0]), known[1:]
			e.slot++
			continue
		}
		gap, err := log.Gap(e.p.TopicPartition, e.next, refillEvents, e.Run.BeganAt)
		if err != nil {
			return nil, err
		}
		all = append(all, gap)
	}
	return all, nil
}

// make makes the records of some slots, with their links.
func (l *logFiller) make(ctx context.Context, p *Partition, from, to int) ([]log.OutgoingRecord, error) {
	var wanted []Slot
	for _, s := range p.slots[from:to] {
		if s.Record == nil {
			wanted = append(wanted, s)
		}
	}
	made, err := l.Records.Make(ctx, p.TopicPartition, wanted)
	if err != nil {
		return nil, err
	}
	all := make([]log.OutgoingRecord, 0, to-from)
	for i := from; i < to; i++ {
		s := p.slots[i]
		var r log.OutgoingRecord
		if s.Record != nil {
			r = *s.Record
		} else {
			r, made = made[0], made[1:]
		}
		r.Headers = l.linked(r.Headers, s, p.before[i+1])
		all = append(all, r)
	}
	return all, nil
}

// linked are the headers of a record with its link.
func (l *logFiller) linked(headers []schema.Header, s Slot, number int64) []schema.Header {
	if s.Link == Unlinked {
		return headers
	}
	// A dead letter has had a link, and keeps the order of its headers.
	all := slices.DeleteFunc(slices.Clone(headers), func(h schema.Header) bool {
		return h.Key == chain.HeaderTimeline || h.Key == chain.HeaderNumber
	})
	if s.Link == LinkedDerived && !slices.ContainsFunc(all, func(h schema.Header) bool { return h.Key == chain.HeaderDerived }) {
		all = append(all, schema.Header{Key: chain.HeaderDerived, Value: []byte("true")})
	}
	link := chain.LinkHeaders([]byte(l.Run.Timeline), number)
	return append(all, link[:]...)
}

// refillEvents is the source of events that this package makes up.
const refillEvents = pipeline.SourcePrefix + "refill"

// relink gives dead letters the headers that their records have now.
func (l *logFiller) relink(ctx context.Context, tx *store.Tx, topicID string, partitions []*Partition) error {
	for _, p := range partitions {
		for i, s := range p.slots {
			if !s.Letter || s.Link == Unlinked {
				continue
			}
			if err := tx.RelinkLetters(ctx, topicID, p.Partition, s.Offset, l.linked(s.Record.Headers, s, p.before[i+1])); err != nil {
				return err
			}
		}
	}
	return nil
}
