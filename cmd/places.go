package cmd

import (
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// newPlaces finds the places in the log that reads are as of.
func newPlaces(b *backends, r *engine.Runtime) projections.Places {
	return projections.Places{DB: b.store, Log: b.broker, Partition: func(q schema.Quote) (int32, error) {
		return r.PartitionOf(schema.PriceEvents, q.Key())
	}}
}
