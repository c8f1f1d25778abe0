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
)

// keptForEver are the settings that topics are created with.
func keptForEver() map[string]*string {
	policy, forEver := policyDelete, unlimited
	return map[string]*string{cleanupPolicy: &policy, retentionMS: &forEver, retentionBytes: &forEver}
}

// LimitedRetention implements pipeline.Broker.
func (b *Broker) LimitedRetention(ctx context.Context, topics []schema.Topic) (map[schema.Topic]string, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	request := &sarama.DescribeConfigsRequest{Version: 2}
	roles := make(map[string]schema.Topic, len(topics))
	for topic := range unique(topics) {
		roles[b.cfg.name(topic)] = topic
		request.Resources = append(request.Resources, &sarama.ConfigResource{
			Type: sarama.TopicResource, Name: b.cfg.name(topic),
			ConfigNames: []string{cleanupPolicy, retentionMS, retentionBytes},
		})
	}
	var response *sarama.DescribeConfigsResponse
	err := b.retry(ctx, "reading the topics' retention", func() (err error) {
		response, err = await(ctx, b, func() (*sarama.DescribeConfigsResponse, error) {
			broker := b.client.LeastLoadedBroker()
			if broker == nil {
				return nil, errors.Join(sarama.ErrOutOfBrokers, b.client.RefreshMetadata())
			}
			response, err := broker.DescribeConfigs(request)
			if err != nil {
				_ = broker.Close() // the next attempt opens it anew
			}
			return response, err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	limited := map[schema.Topic]string{}
	for _, resource := range response.Resources {
		if resource.ErrorCode != 0 {
			return nil, fmt.Errorf("reading the retention of %s: %w", resource.Name, sarama.KError(resource.ErrorCode))
		}
		settings := map[string]string{}
		for _, entry := range resource.Configs {
			settings[entry.Name] = entry.Value
		}
		if limits := limitsOf(settings); limits != "" {
			limited[roles[resource.Name]] = limits
		}
	}
	return limited, nil
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
		b.log.Warn("a topic does not keep its records for ever",
			slog.String("topic", string(topic)), slog.String("reason", limits))
	}
}
