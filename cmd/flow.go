package cmd

import (
	"context"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// flow is httpapi.Pipeline over the positions in the database and the log.
type flow struct {
	backends *backends
	topics   []httpapi.TopicFlow
}

var _ httpapi.Pipeline = flow{}

func newFlow(b *backends, components []topology.Component) flow {
	f := flow{backends: b}
	for _, topic := range schema.Topics() {
		one := httpapi.TopicFlow{Topic: topic}
		for _, c := range components {
			if hasEventOn(topic, c.Produces) {
				one.Producers = append(one.Producers, c.Name)
			}
			if hasEventOn(topic, c.Consumes) {
				one.Consumers = append(one.Consumers, c.Name)
			}
		}
		if len(one.Consumers) > 0 {
			f.topics = append(f.topics, one)
		}
	}
	return f
}

func hasEventOn(topic schema.Topic, types []schema.EventType) bool {
	for _, t := range types {
		if of, known := schema.TopicOf(t); known && of == topic {
			return true
		}
	}
	return false
}

// Flow implements httpapi.Pipeline.
func (f flow) Flow() []httpapi.TopicFlow { return f.topics }

// Stages implements httpapi.Pipeline.
func (f flow) Stages(ctx context.Context) ([]httpapi.StagePosition, error) {
	statuses, err := operator.Status(ctx, f.backends.store, f.backends.broker)
	if err != nil {
		return nil, projections.QueryError("the positions of the stages", err)
	}
	positions := make([]httpapi.StagePosition, len(statuses))
	for i, s := range statuses {
		positions[i] = httpapi.StagePosition{Stage: s.Stage, Topic: s.Topic, Partition: s.Partition, Position: s.Position, End: s.End,
			Lag: s.Lag, Halted: s.Halted, MovedAt: s.MovedAt}
	}
	return positions, nil
}
