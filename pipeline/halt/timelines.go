package halt

import (
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// TimelinesOf sorts timelines by the partitions they were used on. Numbers of those
// in use are not limited, or by the last one given.
func TimelinesOf(known []store.KnownChain, limited bool) map[pipeline.TopicPartition]chain.Timelines {
	names := map[pipeline.TopicPartition]chain.Timelines{}
	for _, k := range known {
		tp := log.PartitionOfChain(k)
		if names[tp] == nil {
			names[tp] = chain.Timelines{}
		}
		name := chain.Timeline{Order: len(names[tp]), Sent: k.Sent, Given: k.Given}
		if k.Current {
			name.Sent = chain.Unlimited
			if !limited {
				name.Given = chain.Unlimited
			}
		}
		names[tp][k.Timeline] = name
	}
	return names
}
