package kafka

import (
	"errors"
	"testing"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// TestErrorsOfAPartitionAreReported: sarama continues trying at one partition while the
// session lasts, so only its errors tell that no record comes.
func TestErrorsOfAPartitionAreReported(t *testing.T) {
	t.Parallel()
	var told []error
	s := &subscription{
		subscriber: &Subscriber{cfg: log.SubscriberConfig{Report: func(err error) { told = append(told, err) }}},
		roleOf:     map[string]schema.Topic{"test.price-events": schema.PriceEvents},
	}
	cause := errors.New("CRC didn't match")
	s.tellPartition(&sarama.ConsumerError{Topic: "test.price-events", Partition: 3, Err: cause})
	s.tellPartition(&sarama.ConsumerError{Topic: "another", Partition: 3, Err: cause})
	s.tellPartition(errors.New("of the whole group, which the session tells"))
	if len(told) != 1 {
		t.Fatalf("told %v", told)
	}
	var of *log.PartitionError
	want := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 3}
	if !errors.As(told[0], &of) || of.TopicPartition != want || !errors.Is(told[0], cause) {
		t.Errorf("told %v", told[0])
	}
}
