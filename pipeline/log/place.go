package log

import (
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// PartitionOf is the partition that a position is of.
func PartitionOf(p store.Position) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: schema.Topic(p.Topic), Partition: p.Part}
}

// PartitionOfChain is the partition that a chain is of.
func PartitionOfChain(chain store.KnownChain) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: schema.Topic(chain.Topic), Partition: chain.Part}
}
