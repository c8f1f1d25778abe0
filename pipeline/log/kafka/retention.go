package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/schema"
)

// Settings of a topic that decide how long its records are kept.
const (
	cleanupPolicy  = "cleanup.policy"
	retentionMS    = "retention.ms"
	retentionBytes = "retention.bytes"
	unlimited      = "-1"

	policyDelete  = "delete"
	policyCompact = "compact"

	// timestampType is whose clock a topic's timestamps are of.
	timestampType = "message.timestamp.type"
	arrival       = "LogAppendTime"
)

// keptForEver are the settings that topics are created with.
func keptForEver() map[string]*string {
	policy, forEver := policyDelete, unlimited
	return map[string]*string{cleanupPolicy: &policy, retentionMS: &forEver, retentionBytes: &forEver}
}

// LimitedRetention implements log.Broker.
func (b *Broker) LimitedRetention(ctx context.Context, topics []schema.Topic) (map[schema.Topic]string, error) {
	settings, err := b.topicSettings(ctx, topics, cleanupPolicy, retentionMS, retentionBytes)
	if err != nil {
		return nil, err
	}
	limited := map[schema.Topic]string{}
	for topic, values := range settings {
		if limits := limitsOf(values); limits != "" {
			limited[topic] = limits
		}
	}
	return limited, nil
}

// KeepsTimestamps reports whether records of a topic have the timestamps they are
// sent with, which is the default, instead of those of their arrival.
func (b *Broker) KeepsTimestamps(ctx context.Context, topic schema.Topic) (bool, error) {
	settings, err := b.topicSettings(ctx, []schema.Topic{topic}, timestampType)
	return settings[topic][timestampType] != arrival, err
}

// topicSettings returns those of the topics' settings that are named.
func (b *Broker) topicSettings(ctx context.Context, topics []schema.Topic, names ...string) (map[schema.Topic]map[string]string, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	request := &sarama.DescribeConfigsRequest{Version: 2}
	roles := make(map[string]schema.Topic, len(topics))
	for topic := range unique(topics) {
		roles[b.cfg.name(topic)] = topic
		request.Resources = append(request.Resources, &sarama.ConfigResource{
			Type: sarama.TopicResource, Name: b.cfg.name(topic), ConfigNames: names,
		})
	}
	var response *sarama.DescribeConfigsResponse
	err := b.retry(ctx, "reading the topics' settings", func() (err error) {
		response, err = await(ctx, b, func() (*sarama.DescribeConfigsResponse, error) {
			broker := b.client.LeastLoadedBroker()
			if broker == nil {
				return nil, errors.Join(sarama.ErrOutOfBrokers, b.client.RefreshMetadata())
			}
			response, err := broker.DescribeConfigs(request)
			if err != nil {
				_ = broker.Close() // the next attempt opens it again
			}
			return response, err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	settings := map[schema.Topic]map[string]string{}
	for _, resource := range response.Resources {
		if resource.ErrorCode != 0 {
			return nil, fmt.Errorf("reading the settings of %s: %w", resource.Name, sarama.KError(resource.ErrorCode))
		}
		values := map[string]string{}
		for _, entry := range resource.Configs {
			values[entry.Name] = entry.Value
		}
		settings[roles[resource.Name]] = values
	}
	return settings, nil
}

// limitsOf says by what the settings of a topic lose records; empty where they
// lose none.
func limitsOf(settings map[string]string) string {
	var limits []string
	policy := settings[cleanupPolicy]
	if strings.Contains(policy, policyCompact) {
		limits = append(limits, fmt.Sprintf("%s is %s: of a key's records the last alone stays, and a stage that needs the others halts",
			cleanupPolicy, policy))
	}
	if strings.Contains(policy, policyDelete) {
		if age := settings[retentionMS]; age != unlimited {
			limits = append(limits, fmt.Sprintf("%s is %s: a rebuild will not see older records", retentionMS, age))
		}
		if size := settings[retentionBytes]; size != unlimited {
			limits = append(limits, fmt.Sprintf("%s is %s: a rebuild will not see what a partition had before", retentionBytes, size))
		}
	}
	return strings.Join(limits, "; ")
}

// warnOfRetention logs what LimitedRetention finds.
func (b *Broker) warnOfRetention(ctx context.Context, topics []schema.Topic) {
	limited, err := b.LimitedRetention(ctx, topics)
	if err != nil {
		b.log.Warn("the retention of the topics is unknown", slog.Any("error", err))
	}
	for topic, limits := range limited {
		b.log.Warn("a topic does not keep its records forever",
			slog.String("topic", string(topic)), slog.String("reason", limits))
	}
}
