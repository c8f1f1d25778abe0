package move

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// errAgain says that a topic was deleted since it cannot be completed: the copy of it
// starts over.
var errAgain = errors.New("the topic does not hold the log as it is in the source")

// clusterTopic is a topic on its way to Kafka.
type clusterTopic struct {
	store.Topic
	name    schema.Topic
	cluster Cluster
}

// at is a partition of it.
func (t clusterTopic) at(part int) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: t.name, Partition: int32(part)}
}

// createTopics makes the topics, where the log goes to Kafka, and decides for those of an
// interrupted move whether their copy is continued.
func (m *mover) createTopics(ctx context.Context) ([]clusterTopic, error) {
	if m.Cluster == nil {
		return nil, nil
	}
	m.Step("creating topics")
	recorded, err := m.recordedTopics(ctx)
	if err != nil {
		return nil, err
	}
	var topics []clusterTopic
	for _, topic := range m.topics {
		cluster, err := m.Cluster(ctx, topic.Partitions)
		if err != nil {
			return nil, err
		}
		t := clusterTopic{topic, schema.Topic(topic.Name), cluster}
		topics = append(topics, t)
		id, err := m.createTopic(ctx, t, recorded[topic.Name])
		if err != nil {
			return nil, err
		}
		m.ids[topic.ID] = id
		if former := recorded[topic.Name]; former != "" && former != id {
			if err := m.recordTopic(ctx, former, id); err != nil {
				return nil, err
			}
		}
	}
	return topics, nil
}

// recordTopic gives a topic that was created again its new id wherever the former one was
// copied to.
func (m *mover) recordTopic(ctx context.Context, former, id string) error {
	return m.write(ctx, func(tx *store.Tx) error {
		for _, table := range []string{"topics", "positions", "dead_letters"} {
			if _, err := tx.Exec(ctx, "UPDATE "+table+" SET topic_id = $1 WHERE topic_id = $2", id, former); err != nil {
				return fmt.Errorf("renaming a topic in %s: %w", table, err)
			}
		}
		return nil
	})
}

// recordedTopics are the ids of the topics that an interrupted move has made.
func (m *mover) recordedTopics(ctx context.Context) (map[string]string, error) {
	topics, err := m.Target.Topics(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, topic := range topics {
		ids[topic.Name] = topic.ID
	}
	return ids, nil
}

// createTopic returns the id of a topic that holds the beginning of the log, or nothing.
func (m *mover) createTopic(ctx context.Context, t clusterTopic, recorded string) (id string, err error) {
	info, held, err := m.lookUp(ctx, t, recorded)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(held, hasRecords) {
		err := m.continues(ctx, t, held)
		if errors.Is(err, errAgain) {
			err, info.ID = m.deleteTopic(ctx, t, info.ID), ""
		}
		if err != nil {
			return "", err
		}
	}
	if info.ID == "" {
		infos, err := t.cluster.EnsureTopics(ctx, []schema.Topic{t.name})
		if err != nil {
			return "", err
		}
		info = infos[t.name]
	}
	limited, err := t.cluster.LimitedRetention(ctx, []schema.Topic{t.name})
	switch {
	case err != nil:
		return "", err
	case info.Partitions != t.Partitions:
		return "", fmt.Errorf("%w: topic %s of the cluster has %d partitions, and the log has %d: delete it, and it is created as it must be",
			ErrTarget, t.name, info.Partitions, t.Partitions)
	case limited[t.name] != "":
		return "", fmt.Errorf("%w: topic %s of the cluster would delete what is moved there, which is as old as it was (%s): "+
			"delete it, and it is created as it must be", ErrTarget, t.name, limited[t.name])
	}
	return info.ID, nil
}

// lookUp describes a topic, whose id is empty where it does not exist. It refuses one with
// the records of others.
func (m *mover) lookUp(ctx context.Context, t clusterTopic, recorded string) (info log.TopicInfo, held []log.OffsetRange, err error) {
	infos, err := t.cluster.Topics(ctx, []schema.Topic{t.name})
	if err != nil {
		return info, nil, err
	}
	info, exists := infos[t.name]
	if !exists {
		return info, nil, nil
	}
	if held, err = t.cluster.Offsets(ctx, t.name); err != nil {
		return info, nil, fmt.Errorf("asking for the ends of %s: %w", t.name, err)
	}
	if slices.ContainsFunc(held, hasRecords) && info.ID != recorded {
		return info, nil, fmt.Errorf("%w: topic %s of the cluster has records, and is not of this move: delete it, or choose another KAFKA_TOPIC_PREFIX", ErrTarget, t.name)
	}
	return info, held, nil
}

// hasRecords reports whether a partition holds, or held, records.
func hasRecords(r log.OffsetRange) bool { return r.End > 0 }

// deleteTopic deletes a topic, and waits until it is gone: the next one has the same name.
func (m *mover) deleteTopic(ctx context.Context, t clusterTopic, id string) error {
	m.Step("starting over with topic " + string(t.name))
	if err := t.cluster.DeleteTopics(ctx, []schema.Topic{t.name}); err != nil {
		return err
	}
	ticker := time.NewTicker(leasePoll)
	defer ticker.Stop()
	for {
		infos, err := t.cluster.Topics(ctx, []schema.Topic{t.name})
		if err != nil || infos[t.name].ID != id {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// deleteTopics deletes the topics that an interrupted move has made.
func (m *mover) deleteTopics(ctx context.Context) error {
	if m.Cluster == nil {
		return nil
	}
	recorded, err := m.recordedTopics(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(recorded)) {
		t := clusterTopic{name: schema.Topic(name)}
		if t.cluster, err = m.Cluster(ctx, 0); err != nil {
			return err
		}
		infos, err := t.cluster.Topics(ctx, []schema.Topic{t.name})
		if err != nil {
			return err
		}
		if infos[t.name].ID != recorded[name] {
			continue // another one, or none
		}
		if err := m.deleteTopic(ctx, t, recorded[name]); err != nil {
			return err
		}
	}
	return nil
}

// endsOf are the numbers of records of the partitions of topics, by epoch.
func endsOf(ctx context.Context, view *store.Snapshot, topics []store.Topic) (map[int64][]int64, error) {
	ends := map[int64][]int64{}
	for _, topic := range topics {
		ends[topic.Epoch] = make([]int64, topic.Partitions)
	}
	chains, err := store.Chains(ctx, view)
	for _, c := range chains {
		ends[c.Epoch][c.Part] = c.Last
	}
	return ends, err
}

// continues reports by errAgain a topic that does not hold the beginning of the log: an
// offset must be the number less one, so no record may be there twice.
func (m *mover) continues(ctx context.Context, t clusterTopic, held []log.OffsetRange) error {
	ends := m.ends[t.Epoch]
	if len(held) != len(ends) {
		return errAgain
	}
	for part, r := range held {
		if r.Oldest > 0 || r.End > ends[part] {
			return errAgain
		}
		if r.End == 0 {
			continue
		}
		if err := m.compare(ctx, t, part, r.End-1, r.End); err != nil {
			return err
		}
	}
	return nil
}

// copyLog copies what Kafka lacks of the log, with timelines and numbers, as the relay
// would have sent it.
func (m *mover) copyLog(ctx context.Context, topics []clusterTopic) error {
	for _, t := range topics {
		m.Step("copying topic " + string(t.name))
		ends := m.ends[t.Epoch]
		held, err := t.cluster.Offsets(ctx, t.name)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", t.name, err)
		}
		var spans []engine.Span
		for part, end := range ends {
			spans = append(spans, engine.Span{TopicPartition: t.at(part), From: min(held[part].End, end), To: end})
		}
		if _, err := engine.Copy(ctx, engine.CopyConfig{Source: m.Log, Target: t.cluster, Spans: spans, To: t.name, Grace: copyGrace, Progress: m.Progress}); err != nil {
			return err
		}
	}
	return nil
}

// copyGrace is how long a batch under way may take once the move is to stop.
const copyGrace = 3 * time.Second

// proveLog compares the log in Kafka with that of the source, and reads one in a table.
func (m *mover) proveLog(ctx context.Context, topics []clusterTopic) error {
	if m.Cluster == nil {
		return m.readBack(ctx)
	}
	for _, t := range topics {
		m.Step("comparing topic " + string(t.name))
		err := m.proveTopic(ctx, t)
		if errors.Is(err, errAgain) {
			err = errors.Join(err, m.deleteTopic(ctx, t, m.ids[t.ID]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readBack reads every record of a log in a table: its segments have checksums.
func (m *mover) readBack(ctx context.Context) error {
	for _, topic := range m.topics {
		t := clusterTopic{Topic: topic, name: schema.Topic(topic.Name)}
		m.Step("reading topic " + topic.Name)
		for part, end := range m.ends[topic.Epoch] {
			err := m.TargetTable.Read(ctx, t.at(part), 0, end, func(records []pipeline.Record) error {
				m.Progress(len(records))
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// compareRecords is how many records are compared at once.
const compareRecords = 50_000

// proveTopic compares a topic with the log, record by record.
func (m *mover) proveTopic(ctx context.Context, t clusterTopic) error {
	ends := m.ends[t.Epoch]
	held, err := t.cluster.Offsets(ctx, t.name)
	if err != nil {
		return fmt.Errorf("asking for the ends of %s: %w", t.name, err)
	}
	for part, end := range ends {
		if held[part].Oldest != 0 || held[part].End != end {
			return fmt.Errorf("%w: %s holds the offsets %d to %d, and the log has %d records", errAgain, t.at(part), held[part].Oldest, held[part].End, end)
		}
		for from := int64(0); from < end; from += compareRecords {
			to := min(from+compareRecords, end)
			if err := m.compare(ctx, t, part, from, to); err != nil {
				return err
			}
			m.Progress(int(to - from))
		}
	}
	return nil
}

// compare compares the records from an offset up to but not including another one.
func (m *mover) compare(ctx context.Context, t clusterTopic, part int, from, to int64) error {
	var want [][sha256.Size]byte
	err := m.Log.Read(ctx, t.at(part), from, to, func(records []pipeline.Record) error {
		for i := range records {
			want = append(want, digest(&records[i]))
		}
		return nil
	})
	if err != nil {
		return err
	}
	n := 0
	err = t.cluster.Read(ctx, t.at(part), from, to, func(records []pipeline.Record) error {
		for i := range records {
			if n >= len(want) || digest(&records[i]) != want[n] {
				return fmt.Errorf("%w: %s has another record at offset %d", errAgain, t.at(part), records[i].Offset)
			}
			n++
		}
		return nil
	})
	if err == nil && n < len(want) {
		err = fmt.Errorf("%w: %s lacks records from offset %d on", errAgain, t.at(part), from+int64(n))
	}
	return err
}

// digest is a hash of all that a record is, but for the id of its topic.
func digest(r *pipeline.Record) [sha256.Size]byte {
	b := binary.AppendVarint(nil, r.Offset)
	b = binary.AppendVarint(b, r.Timestamp.UnixMilli())
	add := func(part []byte) {
		if part == nil {
			b = append(b, 0)
			return
		}
		b = append(binary.AppendUvarint(b, uint64(len(part))+1), part...)
	}
	add(r.Key)
	add(r.Value)
	for _, h := range r.Headers {
		add([]byte(h.Key))
		add(h.Value)
	}
	return sha256.Sum256(b)
}

// countTopics counts the records that were moved.
func (m *mover) countTopics() {
	for _, topic := range m.topics {
		records := int64(0)
		for _, end := range m.ends[topic.Epoch] {
			records += end
		}
		m.result.Topics = append(m.result.Topics, TopicCount{schema.Topic(topic.Name), topic.Partitions, records})
	}
}
