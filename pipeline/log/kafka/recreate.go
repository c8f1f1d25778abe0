package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Shape is how a topic was created, and its own settings.
type Shape struct {
	Partitions  int32 `json:"partitions"`
	Replication int16 `json:"replication"`
	// Settings are those of the topic itself, and not of its brokers.
	Settings map[string]string `json:"settings,omitempty"`
	// WhileWritten are the settings that it has instead until its records are written again, so
	// that they are taken as they are and stay.
	WhileWritten map[string]string `json:"while_written,omitempty"`
}

// whileWritten has brokers keep what is written again, with its timestamps, whatever their age and
// size. Settings that a broker does not have are left out.
var whileWritten = map[string]string{
	cleanupPolicy: policyDelete, retentionMS: unlimited, retentionBytes: unlimited, timestampType: "CreateTime",
	"message.timestamp.before.max.ms": "9223372036854775807", "max.message.bytes": "67108864", "compression.type": "producer",
}

// Shape describes a topic that exists.
func (b *Broker) Shape(ctx context.Context, topic schema.Topic) (Shape, error) {
	s := Shape{Settings: map[string]string{}, WhileWritten: map[string]string{}}
	bounded, cancel := b.bounded(ctx)
	defer cancel()
	name := b.cfg.name(topic)
	err := b.retry(bounded, "describing topic "+name, func() error {
		metadata, err := b.metadata(bounded, []string{name})
		if err != nil {
			return err
		}
		for _, t := range metadata.Topics {
			if err := led(t); err != nil {
				return err
			}
			s.Partitions = int32(len(t.Partitions))
			for _, p := range t.Partitions {
				s.Replication = int16(len(p.Replicas))
			}
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	err = b.administer(bounded, "reading the settings of topic "+name, func(admin sarama.ClusterAdmin) error {
		entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: name})
		for _, e := range entries {
			if e.Source == sarama.SourceTopic {
				s.Settings[e.Name] = e.Value
			}
			if value, there := whileWritten[e.Name]; there {
				s.WhileWritten[e.Name] = value
			}
		}
		return err
	})
	return s, err
}

// Create creates a topic with the settings that it is to have while it is written, and describes it.
// With validateOnly, the cluster only says whether it would; one that exists is no error then.
func (b *Broker) Create(ctx context.Context, topic schema.Topic, s Shape, validateOnly bool) (log.TopicInfo, error) {
	bounded, cancel := b.bounded(ctx)
	defer cancel()
	settings := map[string]*string{}
	for _, of := range []map[string]string{s.Settings, s.WhileWritten} {
		for name, value := range of {
			settings[name] = &value
		}
	}
	name := b.cfg.name(topic)
	err := b.administer(bounded, "creating topic "+name, func(admin sarama.ClusterAdmin) error {
		err := admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: s.Partitions, ReplicationFactor: s.Replication, ConfigEntries: settings}, validateOnly)
		if errors.Is(err, sarama.ErrTopicAlreadyExists) {
			err = nil // an answer that was lost, or the other one is asked about
		}
		return err
	})
	if err != nil || validateOnly {
		return log.TopicInfo{}, err
	}
	infos, err := b.awaitTopics(bounded, []schema.Topic{topic})
	info := infos[topic]
	if err == nil && info.Partitions != s.Partitions {
		err = fmt.Errorf("topic %s was created with %d partitions instead of %d: does another client create topics?", name, info.Partitions, s.Partitions)
	}
	return info, err
}

// Delete deletes a topic, and waits until the cluster does not know it any more. One that does not
// exist is no error.
func (b *Broker) Delete(ctx context.Context, topic schema.Topic) error {
	if err := b.DeleteTopics(ctx, []schema.Topic{topic}); err != nil {
		return err
	}
	bounded, cancel := b.bounded(ctx)
	defer cancel()
	for attempt := 1; ; attempt++ {
		infos, err := b.describeTopics(bounded, []schema.Topic{topic})
		if err != nil || len(infos) == 0 {
			return err
		}
		if !log.Pause(bounded, backoff(attempt)) {
			return fmt.Errorf("waiting until topic %s is deleted: %w", b.cfg.name(topic), context.Cause(bounded))
		}
	}
}

// Finish gives a topic that was written again its own settings.
func (b *Broker) Finish(ctx context.Context, topic schema.Topic, s Shape) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	changes := map[string]sarama.IncrementalAlterConfigsEntry{}
	for name := range s.WhileWritten {
		changes[name] = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationDelete}
	}
	for name, value := range s.Settings {
		changes[name] = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
	}
	if len(changes) == 0 {
		return nil
	}
	name := b.cfg.name(topic)
	return b.administer(ctx, "changing the settings of topic "+name, func(admin sarama.ClusterAdmin) error {
		return admin.IncrementalAlterConfig(sarama.TopicResource, name, changes, false)
	})
}

// DeleteBefore deletes the records of each partition of a topic that are before an offset, where
// that is positive.
func (b *Broker) DeleteBefore(ctx context.Context, topic schema.Topic, offsets []int64) error {
	before := map[int32]int64{}
	for part, offset := range offsets {
		if offset > 0 {
			before[int32(part)] = offset
		}
	}
	if len(before) == 0 {
		return nil
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	name := b.cfg.name(topic)
	return b.administer(ctx, "deleting the first records of topic "+name, func(admin sarama.ClusterAdmin) error {
		return admin.DeleteRecords(name, before)
	})
}

// ErrRights is wrapped where the cluster does not let this user do what is necessary.
var ErrRights = errors.New("refused to this user by Kafka")

// CheckRights refuses if this user may not read, write, delete and configure a topic that exists.
// A cluster that does not say what a user may do is taken to allow it.
func (b *Broker) CheckRights(ctx context.Context, topic schema.Topic) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	name := b.cfg.name(topic)
	request := sarama.NewMetadataRequest(b.client.Config().Version, []string{name})
	request.IncludeTopicAuthorizedOperations = true
	var allowed int32
	err := b.retry(ctx, "asking for the rights on topic "+name, func() error {
		response, err := await(ctx, b, func() (*sarama.MetadataResponse, error) {
			broker := b.client.LeastLoadedBroker()
			if broker == nil {
				return nil, errors.Join(sarama.ErrOutOfBrokers, b.client.RefreshMetadata(name))
			}
			return broker.GetMetadata(request)
		})
		if err != nil {
			return err
		}
		for _, t := range response.Topics {
			if t.Err != sarama.ErrNoError {
				return t.Err
			}
			allowed = t.TopicAuthorizedOperations
		}
		return nil
	})
	if err != nil {
		return err
	}
	if unknown := int32(-1 << 31); allowed == unknown {
		return nil
	}
	var lacking []string
	for operation, name := range map[sarama.AclOperation]string{sarama.AclOperationRead: "Read", sarama.AclOperationWrite: "Write", sarama.AclOperationDelete: "Delete",
		sarama.AclOperationDescribeConfigs: "DescribeConfigs", sarama.AclOperationAlterConfigs: "AlterConfigs"} {
		if allowed&(1<<operation) == 0 {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	slices.Sort(lacking)
	return fmt.Errorf("%w: %s on topic %s", ErrRights, strings.Join(lacking, ", "), name)
}

// GroupOffsets are the offsets that consumer groups have committed on a topic, by group and
// partition: of all groups that this user may see.
func (b *Broker) GroupOffsets(ctx context.Context, topic schema.Topic) (map[string]map[int32]int64, error) {
	groups, err := b.Groups(ctx, "")
	if err != nil {
		return nil, err
	}
	all := map[string]map[int32]int64{}
	for _, group := range groups {
		committed, err := b.CommittedOffsets(ctx, group, []schema.Topic{topic})
		if err != nil {
			return nil, err
		}
		for tp, offset := range committed {
			if all[group] == nil {
				all[group] = map[int32]int64{}
			}
			all[group][tp.Partition] = offset
		}
	}
	return all, nil
}

// Commit commits offsets of a consumer group on a topic, which must not have members.
func (b *Broker) Commit(ctx context.Context, group string, topic schema.Topic, offsets map[int32]int64) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	name := b.cfg.name(topic)
	request := &sarama.OffsetCommitRequest{ConsumerGroup: group, ConsumerGroupGeneration: sarama.GroupGenerationUndefined, Version: 6}
	for _, part := range slices.Sorted(maps.Keys(offsets)) {
		request.AddBlockWithLeaderEpoch(name, part, offsets[part], -1, 0, "")
	}
	return b.retry(ctx, "committing the offsets of "+group, func() error {
		response, err := await(ctx, b, func() (*sarama.OffsetCommitResponse, error) {
			if err := b.client.RefreshCoordinator(group); err != nil {
				return nil, err
			}
			coordinator, err := b.client.Coordinator(group)
			if err != nil {
				return nil, err
			}
			return coordinator.CommitOffset(request)
		})
		if err != nil {
			return err
		}
		for part, code := range response.Errors[name] {
			if code != sarama.ErrNoError {
				return fmt.Errorf("%s: %w", pipeline.TopicPartition{Topic: topic, Partition: part}, code)
			}
		}
		return nil
	})
}

// Name is the name of a topic in the cluster.
func (b *Broker) Name(topic schema.Topic) string { return b.cfg.name(topic) }
