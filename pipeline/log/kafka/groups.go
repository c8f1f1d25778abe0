package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/IBM/sarama"
)

// ActiveGroups are the consumer groups whose names begin with prefix and that have members, in
// their order: processes that consume. One that was killed is a member until its session
// expires.
func (b *Broker) ActiveGroups(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var active []string
	err := b.administer(ctx, "looking for consumers", func(admin sarama.ClusterAdmin) error {
		active = nil
		groups, err := admin.ListConsumerGroups()
		if err != nil {
			return err
		}
		var ours []string
		for group := range groups {
			if strings.HasPrefix(group, prefix) {
				ours = append(ours, group)
			}
		}
		if len(ours) == 0 {
			return nil
		}
		described, err := admin.DescribeConsumerGroups(ours)
		if err != nil {
			return err
		}
		for _, group := range described {
			if len(group.Members) > 0 {
				active = append(active, group.GroupId)
			}
		}
		return nil
	})
	slices.Sort(active)
	return active, err
}
