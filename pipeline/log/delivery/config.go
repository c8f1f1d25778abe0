package delivery

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Complete fills the settings of a subscriber in that are zero, each log's Linger apart,
// and checks all of them. Its error names every fault.
func Complete(cfg *log.SubscriberConfig, batchSize int) error {
	if cfg.BatchSize == 0 {
		cfg.BatchSize = batchSize
	}
	if cfg.Lanes == 0 {
		cfg.Lanes = max(1, runtime.GOMAXPROCS(0)/2)
	}
	var faults []error
	if cfg.Group == "" {
		faults = append(faults, errors.New("group: required"))
	}
	if cfg.BatchSize < 0 {
		faults = append(faults, fmt.Errorf("batch size: %d is negative", cfg.BatchSize))
	}
	if cfg.Lanes < 0 {
		faults = append(faults, fmt.Errorf("lanes: %d is negative", cfg.Lanes))
	}
	if cfg.Linger < 0 {
		faults = append(faults, fmt.Errorf("linger: %v is negative", cfg.Linger))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("configuring a subscriber: %w", err)
	}
	return nil
}

// SplitTopics reads the topics of Subscribe, which are joined by commas, each once.
func SplitTopics(joined string) ([]schema.Topic, error) {
	var topics []schema.Topic
	seen := map[schema.Topic]struct{}{}
	for _, part := range strings.Split(joined, ",") {
		topic := schema.Topic(strings.TrimSpace(part))
		if topic == "" {
			return nil, errors.New("the name of a topic is empty")
		}
		if _, repeated := seen[topic]; !repeated {
			seen[topic] = struct{}{}
			topics = append(topics, topic)
		}
	}
	return topics, nil
}
