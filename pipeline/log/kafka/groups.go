package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// CommittedOffsets are the offsets of the next records of a consumer group, as it committed
// them last, of those partitions where it did. They may be behind what it has applied, and
// never ahead. Kafka forgets them some days after the last member has left.
func (b *Broker) CommittedOffsets(ctx context.Context, group string, topics []schema.Topic) (map[pipeline.TopicPartition]int64, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	named, asked := map[string]schema.Topic{}, map[string][]int32{}
	for topic := range unique(topics) {
		partitions, err := b.partitions(ctx, topic)
		if err != nil {
			return nil, err
		}
		name := b.cfg.name(topic)
		named[name] = topic
		for _, tp := range partitions {
			asked[name] = append(asked[name], tp.Partition)
		}
	}
	committed := map[pipeline.TopicPartition]int64{}
	err := b.administer(ctx, "asking for the offsets of "+group, func(admin sarama.ClusterAdmin) error {
		response, err := admin.ListConsumerGroupOffsets(group, asked)
		if err != nil {
			return err
		}
		if response.Err != sarama.ErrNoError {
			return response.Err
		}
		for name, blocks := range response.Blocks {
			for partition, block := range blocks {
				if block.Err != sarama.ErrNoError {
					return block.Err
				}
				if block.Offset >= 0 {
					committed[pipeline.TopicPartition{Topic: named[name], Partition: partition}] = block.Offset
				}
			}
		}
		return nil
	})
	return committed, err
}

// Groups are the consumer groups whose names begin with prefix, in their order, with members or
// without. Kafka forgets one some days after the last member has left.
func (b *Broker) Groups(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var ours []string
	err := b.administer(ctx, "listing consumer groups", func(admin sarama.ClusterAdmin) (err error) {
		ours, err = groupsOf(admin, prefix)
		return err
	})
	slices.Sort(ours)
	return ours, err
}

func groupsOf(admin sarama.ClusterAdmin, prefix string) (ours []string, err error) {
	groups, err := admin.ListConsumerGroups()
	for group := range groups {
		if strings.HasPrefix(group, prefix) {
			ours = append(ours, group)
		}
	}
	return ours, err
}

// ActiveGroups are the consumer groups whose names begin with prefix and that have members, in
// their order: processes that consume. One that was killed is a member until its session
// expires.
func (b *Broker) ActiveGroups(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var active []string
	err := b.administer(ctx, "looking for consumers", func(admin sarama.ClusterAdmin) error {
		active = nil
		ours, err := groupsOf(admin, prefix)
		if err != nil || len(ours) == 0 {
			return err
		}
		described, err := admin.DescribeConsumerGroups(ours)
		if err != nil {
			return err
		}
		for _, group := range described {
			if len(group.Members) > 0 {
				active = append(active, group.GroupId)
			}
		}
		return nil
	})
	slices.Sort(active)
	return active, err
}
