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

// forgetfulBroker limits the retention of topics, or does not say, or does not
// answer at all.
type forgetfulBroker struct {
	Broker
	limited map[schema.Topic]string
	err     error
	away    error
}

func (b forgetfulBroker) Topics(ctx context.Context, _ []schema.Topic) (map[schema.Topic]TopicInfo, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("asked without a limit")
	}
	return nil, b.away
}

func (b forgetfulBroker) LimitedRetention(ctx context.Context, topics []schema.Topic) (map[schema.Topic]string, error) {
	if _, bounded := ctx.Deadline(); !bounded || !slices.Contains(topics, schema.PriceEvents) {
		return nil, errors.New("asked without a limit, or not of all topics")
	}
	return b.limited, b.err
}

func TestChecksOfTheBroker(t *testing.T) {
	t.Parallel()
	well := Check{"broker", CheckOK, ""}
	away := errors.New("connection refused")
	for name, test := range map[string]struct {
		broker forgetfulBroker
		relays bool
		want   []Check
	}{
		"kept": {forgetfulBroker{}, false, []Check{well, {"topics", CheckOK, ""}}},
		"limited": {forgetfulBroker{limited: map[schema.Topic]string{schema.PriceEvents: "a day"}}, false,
			[]Check{well, {"topic price-events", CheckWarning, "a day"}}},
		"silent": {forgetfulBroker{err: errors.New("not allowed")}, true, []Check{well, {"topics", CheckWarning, "not allowed"}}},
		// Who only answers does without it; who works cannot.
		"away, for the API": {forgetfulBroker{away: away}, false, []Check{{"broker", CheckWarning, "connection refused"}}},
		"away, for a relay": {forgetfulBroker{away: away}, true, []Check{{"broker", CheckFailed, "connection refused"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, &recorder{})
			runtime, err := New(Config{Store: r.db, Broker: test.broker, Topology: r.stage.outbox.topology, Relay: test.relays,
				Log: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			want := append([]Check{{"database", CheckOK, ""}}, test.want...)
			if test.relays {
				want = append([]Check{{"relay", CheckOK, ""}}, want...)
			}
			assert.Equal(t, want, runtime.Checks(t.Context()))
		})
	}
}

// TestChecksOfAConsumer: a stage that cannot consume is in trouble until it can.
func TestChecksOfAConsumer(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.assign()
	require.NoError(t, r.stage.Trouble())
	r.stage.consuming(errors.New("connection refused"))
	require.EqualError(t, r.stage.Trouble(), "consumer: connection refused")
	r.stage.consuming(nil)
	require.NoError(t, r.stage.Trouble())
}
