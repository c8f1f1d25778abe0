package kafka_test

import (
	"testing"
	"time"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

func TestLog(t *testing.T) {
	logtest.Run(t, logtest.Config{
		Fresh: func(testing.TB) logtest.Opener {
			return func(t testing.TB, grace time.Duration) logtest.Log {
				return newBroker(t, func(c *kafka.Config) { c.Grace = grace })
			}
		},
		Unique:       unique,
		UnknownTopic: kafka.ErrUnknownTopic, OutOfRange: kafka.ErrOutOfRange, Closed: kafka.ErrClosed,
	})
}
