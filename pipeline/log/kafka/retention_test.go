package kafka_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

func newAdmin(t *testing.T) sarama.ClusterAdmin {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(cluster.brokers, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.Close(); err != nil {
			t.Error(err)
		}
	})
	return admin
}

func TestTopicsAreCreatedToBeKeptForEver(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := newBroker(t, func(c *kafka.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	topic := newTopic(t, b)
	entries, err := newAdmin(t).DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: string(topic)})
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, entry := range entries {
		settings[entry.Name] = entry.Value
	}
	for name, want := range map[string]string{"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"} {
		if settings[name] != want {
			t.Errorf("%s is %q, want %q", name, settings[name], want)
		}
	}
	limited, err := b.LimitedRetention(t.Context(), []schema.Topic{topic})
	if err != nil || len(limited) != 0 || log.Len() != 0 {
		t.Errorf("warned of %q, and logged %q: %v", limited, log.String(), err)
	}
}

func TestLimitedRetentionIsSaid(t *testing.T) {
	t.Parallel()
	const day = "86400000"
	tests := []struct {
		name     string
		settings map[string]string
		want     []string // parts of what is said; none: nothing is
	}{
		{"time", map[string]string{"retention.ms": day}, []string{"retention.ms is 86400000: a rebuild will not see older"}},
		{"size", map[string]string{"retention.ms": "-1", "retention.bytes": "1048576"}, []string{"retention.bytes is 1048576"}},
		{"compaction", map[string]string{"cleanup.policy": "compact"}, []string{"cleanup.policy is compact"}},
		{"all", map[string]string{"cleanup.policy": "compact,delete", "retention.ms": day, "retention.bytes": "1048576"},
			[]string{"cleanup.policy is compact,delete", "retention.ms is 86400000", "retention.bytes is 1048576"}},
		{"none", map[string]string{"retention.ms": "-1"}, nil},
		{"time without deletion", map[string]string{"cleanup.policy": "compact", "retention.ms": day}, []string{"cleanup.policy"}},
	}
	admin := newAdmin(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			b := newBroker(t, func(c *kafka.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			topic := schema.Topic(unique("retention"))
			entries := map[string]*string{}
			for name, value := range test.settings {
				entries[name] = &value
			}
			if err := admin.CreateTopic(string(topic), &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1,
				ConfigEntries: entries}, false); err != nil {
				t.Fatal(err)
			}
			topics := []schema.Topic{topic, newTopic(t, b)}
			if _, err := b.EnsureTopics(t.Context(), topics); err != nil {
				t.Fatal(err)
			}
			limited, err := b.LimitedRetention(t.Context(), topics)
			if err != nil {
				t.Fatal(err)
			}
			if said := strings.Count(limited[topic], "; ") + 1; len(test.want) > 0 && said != len(test.want) {
				t.Errorf("%d limits are said, want %d: %s", said, len(test.want), limited[topic])
			}
			for _, want := range test.want {
				if !strings.Contains(limited[topic], want) || !strings.Contains(log.String(), want) {
					t.Errorf("%q is not in %q or not in the log: %s", want, limited[topic], log.String())
				}
			}
			if warned := len(test.want) > 0; warned != (len(limited) == 1) || warned != strings.Contains(log.String(), string(topic)) {
				t.Errorf("warned of %q; log: %s", limited, log.String())
			}
			if err := admin.DeleteTopic(string(topic)); err != nil { // the broker of the tests would sweep it
				t.Error(err)
			}
		})
	}
}
