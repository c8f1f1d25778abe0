package kafka

import (
	"bytes"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	// maxInterned bounds the header names a converter remembers.
	maxInterned = 64
	// headerSlab is how many headers are allocated at once.
	headerSlab = 256
	// copiedFrom is the size of a value, in bytes, from which it is copied: a few of
	// them would otherwise keep as many fetches.
	copiedFrom = 64 << 10
)

// converter turns sarama's records of one partition into ours. Keys and values
// are not copied, but for large ones: each is in the buffer of the fetch it came
// with, which holds other partitions' records too, and which nothing writes to
// again. It is not safe for concurrent use.
type converter struct {
	tp      pipeline.TopicPartition
	topicID string
	// names holds the header names seen, which are the same few in every
	// record, so that each needs no string of its own.
	names map[string]string
	// slab is where headers are allocated, many records' at once.
	slab []schema.Header
}

func newConverter(tp pipeline.TopicPartition, topicID string) *converter {
	return &converter{tp: tp, topicID: topicID, names: map[string]string{}}
}

func (c *converter) record(offset int64, at time.Time, key, value []byte, headers []*sarama.RecordHeader) pipeline.Record {
	if len(value) >= copiedFrom {
		value = bytes.Clone(value)
	}
	return pipeline.Record{
		TopicPartition: c.tp,
		TopicID:        c.topicID,
		Offset:         offset,
		Timestamp:      at,
		Key:            key,
		Headers:        c.headers(headers),
		Value:          value,
	}
}

func (c *converter) headers(from []*sarama.RecordHeader) []schema.Header {
	if len(from) == 0 {
		return nil
	}
	if len(c.slab) < len(from) {
		c.slab = make([]schema.Header, max(headerSlab, len(from)))
	}
	// The capacity ends with the record, so that appending does not reach into
	// the next one's.
	to := c.slab[:len(from):len(from)]
	c.slab = c.slab[len(from):]
	for i, h := range from {
		to[i] = schema.Header{Key: c.intern(h.Key), Value: h.Value}
	}
	return to
}

func (c *converter) intern(name []byte) string {
	if known, ok := c.names[string(name)]; ok { // the compiler makes no string of this
		return known
	}
	fresh := string(name)
	if len(c.names) < maxInterned {
		c.names[fresh] = fresh
	}
	return fresh
}
