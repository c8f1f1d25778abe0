package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/schema"
)

// DeleteTopics deletes topics with all their records. One that does not exist is
// no error.
func (b *Broker) DeleteTopics(ctx context.Context, topics []schema.Topic) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	for topic := range unique(topics) {
		err := b.administer(ctx, "deleting topic "+b.cfg.name(topic), func(admin sarama.ClusterAdmin) error {
			err := admin.DeleteTopic(b.cfg.name(topic))
			if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteGroups deletes the consumer groups whose names begin with prefix, with
// the offsets they committed. Their members must have left, or are waited for.
func (b *Broker) DeleteGroups(ctx context.Context, prefix string) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var groups map[string]string
	err := b.administer(ctx, "listing consumer groups", func(admin sarama.ClusterAdmin) (err error) {
		groups, err = admin.ListConsumerGroups()
		return err
	})
	if err != nil {
		return err
	}
	for group := range groups {
		if !strings.HasPrefix(group, prefix) {
			continue
		}
		err := b.administer(ctx, "deleting consumer group "+group, func(admin sarama.ClusterAdmin) error {
			err := admin.DeleteConsumerGroup(group)
			if errors.Is(err, sarama.ErrGroupIDNotFound) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// administer makes a call of sarama's administration, again if need be.
func (b *Broker) administer(ctx context.Context, doing string, f func(sarama.ClusterAdmin) error) error {
	// Its Close would close the client, and it holds nothing else.
	admin, err := sarama.NewClusterAdminFromClient(b.client)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return b.retry(ctx, doing, func() error {
		_, err := await(ctx, b, func() (none struct{}, err error) { return none, f(admin) })
		return err
	})
}
