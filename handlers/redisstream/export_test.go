package redisstream

import "github.com/pricemill/pricemill/pipeline"

// SetKeep sets how many ids Redis keeps of a partition.
func SetKeep(h pipeline.Handler, keep int) { h.(*handler).keep = keep }
