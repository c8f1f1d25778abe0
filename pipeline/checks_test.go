package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// forgetfulBroker limits the retention of topics, or does not say.
type forgetfulBroker struct {
	Broker
	limited map[schema.Topic]string
	err     error
}

func (b forgetfulBroker) LimitedRetention(ctx context.Context, topics []schema.Topic) (map[schema.Topic]string, error) {
	if _, bounded := ctx.Deadline(); !bounded || !slices.Contains(topics, schema.PriceEvents) {
		return nil, errors.New("asked without a limit, or not of all topics")
	}
	return b.limited, b.err
}

func TestChecksOfTopics(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		broker forgetfulBroker
		want   []Check
	}{
		"kept":    {forgetfulBroker{}, []Check{{"topics", CheckOK, ""}}},
		"limited": {forgetfulBroker{limited: map[schema.Topic]string{schema.PriceEvents: "a day"}}, []Check{{"topic price-events", CheckWarning, "a day"}}},
		"silent":  {forgetfulBroker{err: errors.New("no answer")}, []Check{{"topics", CheckWarning, "no answer"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, &recorder{})
			runtime, err := New(Config{Store: r.db, Broker: test.broker, Topology: r.stage.outbox.topology, Log: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			assert.Equal(t, append([]Check{{"database", CheckOK, ""}}, test.want...), runtime.Checks(t.Context()))
		})
	}
}
