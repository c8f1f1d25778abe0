package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// EnsureTopics implements log.Broker. Topics are created with records kept
// forever, and it returns once each partition has a leader. The ID is the
// UUID in Kafka's own text form. A topic whose records are not kept forever is
// logged as a warning; see LimitedRetention.
func (b *Broker) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	infos, err := b.describeTopics(ctx, topics)
	if err != nil {
		return nil, err
	}
	var missing []schema.Topic
	for _, topic := range topics {
		if _, exists := infos[topic]; !exists {
			missing = append(missing, topic)
		}
	}
	if len(missing) > 0 {
		if err := b.retry(ctx, "creating topics", func() error { return b.createTopics(ctx, missing) }); err != nil {
			return nil, err
		}
		if infos, err = b.awaitTopics(ctx, topics); err != nil {
			return nil, err
		}
	}
	b.warnOfRetention(ctx, topics)
	return infos, nil
}

// Topics implements log.Broker.
func (b *Broker) Topics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	return b.describeTopics(ctx, topics)
}

// createTopics creates each of the topics or finds that someone else did.
func (b *Broker) createTopics(ctx context.Context, topics []schema.Topic) error {
	details := make(map[string]*sarama.TopicDetail, len(topics))
	for _, topic := range topics {
		details[b.cfg.name(topic)] = &sarama.TopicDetail{
			NumPartitions:     b.cfg.Partitions,
			ReplicationFactor: b.cfg.Replication,
			ConfigEntries:     keptForEver(),
		}
	}
	request := sarama.NewCreateTopicsRequest(b.client.Config().Version, details, b.client.Config().Net.ReadTimeout/2, false)
	response, err := await(ctx, b, func() (*sarama.CreateTopicsResponse, error) {
		if err := b.client.RefreshMetadata(); err != nil { // who the controller is comes with it
			return nil, err
		}
		controller, err := b.client.Controller()
		if err != nil {
			return nil, err
		}
		response, err := controller.CreateTopics(request)
		if err != nil {
			_ = controller.Close() // the next attempt opens it again
		}
		return response, err
	})
	if err != nil {
		return err
	}
	for name := range details {
		answer, given := response.TopicErrors[name]
		switch {
		case !given:
			return fmt.Errorf("%s: %w", name, sarama.ErrIncompleteResponse)
		case answer.Err == sarama.ErrNoError, answer.Err == sarama.ErrTopicAlreadyExists:
		case answer.ErrMsg != nil && *answer.ErrMsg != "":
			return fmt.Errorf("%s: %w: %s", name, answer.Err, *answer.ErrMsg)
		default:
			return fmt.Errorf("%s: %w", name, answer.Err)
		}
	}
	return nil
}

// awaitTopics waits until all topics are known and led.
func (b *Broker) awaitTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	for attempt := 1; ; attempt++ {
		infos, err := b.describeTopics(ctx, topics)
		if err != nil {
			return nil, err
		}
		if len(infos) == len(unique(topics)) {
			return infos, nil
		}
		if !log.Pause(ctx, backoff(attempt)) {
			return nil, fmt.Errorf("waiting for the topics' leaders: %w", context.Cause(ctx))
		}
	}
}

func unique(topics []schema.Topic) map[schema.Topic]struct{} {
	set := make(map[schema.Topic]struct{}, len(topics))
	for _, topic := range topics {
		set[topic] = struct{}{}
	}
	return set
}

// describeTopics describes those topics that exist. One with a partition that
// has no leader is waited for: it exists, whatever it still lacks.
func (b *Broker) describeTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	if len(topics) == 0 {
		return map[schema.Topic]log.TopicInfo{}, nil
	}
	roles := make(map[string]schema.Topic, len(topics))
	names := make([]string, 0, len(topics))
	for topic := range unique(topics) {
		roles[b.cfg.name(topic)] = topic
		names = append(names, b.cfg.name(topic))
	}
	var infos map[schema.Topic]log.TopicInfo
	err := b.retry(ctx, "describing topics", func() error {
		infos = make(map[schema.Topic]log.TopicInfo, len(names))
		metadata, err := b.metadata(ctx, names)
		if err != nil {
			return err
		}
		for _, topic := range metadata.Topics {
			if topic.Err == sarama.ErrUnknownTopicOrPartition {
				continue
			}
			if err := led(topic); err != nil {
				return err
			}
			infos[roles[topic.Name]] = log.TopicInfo{ID: topic.Uuid.String(), Partitions: int32(len(topic.Partitions))}
		}
		return nil
	})
	return infos, err
}

func led(topic *sarama.TopicMetadata) error {
	if topic.Err != sarama.ErrNoError {
		return fmt.Errorf("%s: %w", topic.Name, topic.Err)
	}
	for _, partition := range topic.Partitions {
		// A missing replica is reported here too; it does no harm to us.
		if partition.Leader < 0 || partition.Err == sarama.ErrLeaderNotAvailable {
			return fmt.Errorf("%s/%d: %w", topic.Name, partition.ID, sarama.ErrLeaderNotAvailable)
		}
	}
	return nil
}

// ClusterID is what the cluster calls itself: no two clusters have the same.
func (b *Broker) ClusterID(ctx context.Context) (string, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var id string
	err := b.retry(ctx, "asking for the cluster's id", func() error {
		// Of a topic, since a request without any is one for all.
		response, err := b.metadata(ctx, []string{b.cfg.name(schema.RawQuotes)})
		if err != nil {
			return err
		}
		if response.ClusterID == nil || *response.ClusterID == "" {
			return fmt.Errorf("the cluster has no id: %w", sarama.ErrIncompleteResponse)
		}
		id = *response.ClusterID
		return nil
	})
	return id, err
}

func (b *Broker) metadata(ctx context.Context, names []string) (*sarama.MetadataResponse, error) {
	return await(ctx, b, func() (*sarama.MetadataResponse, error) {
		broker := b.client.LeastLoadedBroker()
		if broker == nil {
			return nil, errors.Join(sarama.ErrOutOfBrokers, b.client.RefreshMetadata(names...))
		}
		response, err := broker.GetMetadata(sarama.NewMetadataRequest(b.client.Config().Version, names))
		if err != nil {
			// The client puts this broker aside when it asks by itself.
			_ = broker.Close()
			_ = b.client.RefreshMetadata()
			return nil, err
		}
		return response, nil
	})
}
