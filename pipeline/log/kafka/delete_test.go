package kafka_test

import (
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// TestDelete: what was named is gone, what was not is there, and to delete again
// is no error.
func TestDelete(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	gone, kept := newTopic(t, b), newTopic(t, b)
	groups := []string{unique("gone") + ".a", unique("kept") + ".a"}
	for _, group := range groups {
		own := newBroker(t)
		send(t, b, at(gone, 0), numbered(0, 1)...)
		msg, _ := receive(t, subscribe(t, own, log.SubscriberConfig{Group: group}, string(gone)))
		msg.Ack()
		if err := own.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.DeleteTopics(t.Context(), []schema.Topic{gone, gone}); err != nil {
			t.Error(err)
		}
		if err := b.DeleteGroups(t.Context(), groups[0][:len(groups[0])-1]); err != nil {
			t.Error(err)
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for { // the broker may list a deleted topic for a moment yet
		infos, err := b.Topics(t.Context(), []schema.Topic{gone, kept})
		if _, there := infos[kept]; err == nil && len(infos) == 1 && there {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v: %v", infos, err)
		}
	}
	if got := listGroups(t, groups); len(got) != 1 || got[0] != groups[1] {
		t.Errorf("got %q", got)
	}
}

// listGroups returns those of the groups that the cluster knows.
func listGroups(t *testing.T, groups []string) []string {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(cluster.brokers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	known, err := admin.ListConsumerGroups()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(groups), func(group string) bool {
		_, there := known[group]
		return !there
	})
}
