package projections

import (
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// rateMeter tells how fast positions move, by partition.
type rateMeter struct {
	at     time.Time
	next   map[string]int64
	smooth map[string]float64
}

// observe returns records a second, for the partitions that move.
func (s *rateMeter) observe(positions []store.Position, now time.Time) map[string]int64 {
	speeds, next, smooth := map[string]int64{}, map[string]int64{}, map[string]float64{}
	for _, p := range positions {
		key := pipeline.TopicPartition{Topic: schema.Topic(p.Topic), Partition: p.Part}.String()
		next[key] = p.Next
		before, known := s.next[key]
		if !known || p.Next == before {
			continue
		}
		speed := float64(p.Next-before) / now.Sub(s.at).Seconds()
		if was, moved := s.smooth[key]; moved {
			speed = was + (speed-was)/4
		}
		smooth[key] = speed
		speeds[key] = int64(speed)
	}
	s.at, s.next, s.smooth = now, next, smooth
	return speeds
}
