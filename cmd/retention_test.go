package cmd_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// A topic that its operator made to forget is left as it is. The service warns
// of it, and is ready.
func TestATopicThatForgetsIsAWarning(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	settings := map[schema.Topic]map[string]string{
		schema.PriceEvents:  {"retention.ms": "604800000"},
		schema.StoredQuotes: {"cleanup.policy": "compact"},
	}
	for topic, entries := range settings {
		createTopic(t, env, topicName(env, topic), 4, entries)
	}
	p := start(t, env)
	p.logs.await(t, "a topic does not keep its records forever")
	warnings := func() map[string]string {
		answer := p.eventually("/readyz", http.StatusOK)
		var body struct {
			Status string
			Checks []struct{ Name, State, Reason string }
		}
		require.NoError(t, json.Unmarshal([]byte(answer.body), &body))
		assert.Equal(t, "ready", body.Status)
		found := map[string]string{}
		for _, check := range body.Checks {
			if check.State != "ok" {
				assert.Equal(t, "warning", check.State)
				found[check.Name] = check.Reason
			}
		}
		return found
	}
	got := warnings()
	require.Len(t, got, 2)
	assert.Contains(t, got["topic price-events"], "retention.ms is 604800000")
	assert.Contains(t, got["topic stored-quotes"], "cleanup.policy is compact")

	// The answer is of now: an operator who fixes a topic sees that it is.
	administer(t, env, func(admin sarama.ClusterAdmin) {
		for topic := range settings {
			require.NoError(t, admin.AlterConfig(sarama.TopicResource, env["KAFKA_TOPIC_PREFIX"]+string(topic),
				pointers(map[string]string{"retention.ms": "-1", "cleanup.policy": "delete"}), false))
		}
	})
	require.Eventually(t, func() bool { return len(warnings()) == 0 }, 20*time.Second, 10*time.Millisecond)
}

func pointers(entries map[string]string) map[string]*string {
	all := map[string]*string{}
	for name, value := range entries {
		all[name] = &value
	}
	return all
}
