package kafka

import (
	"math/bits"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
)

// batchOverhead is the size of a batch without its records, in format 2:
// offset, length, epoch, magic, checksum, attributes, last offset, two
// timestamps, producer, its epoch, sequence, count.
const batchOverhead = 8 + 4 + 4 + 1 + 4 + 2 + 4 + 8 + 8 + 8 + 2 + 4 + 4

// noProducer stands in for the identity of an idempotent producer.
const noProducer = -1

// recordBatch makes one batch of the log out of records. All of them bear one
// time: it says when they were written, and they are written together.
func recordBatch(records []pipeline.OutgoingRecord, now time.Time, codec sarama.CompressionCodec) *sarama.RecordBatch {
	now = now.Truncate(time.Millisecond)
	batch := &sarama.RecordBatch{
		Version:          2,
		Codec:            codec,
		CompressionLevel: sarama.CompressionLevelDefault,
		ProducerID:       noProducer,
		ProducerEpoch:    noProducer,
		FirstSequence:    noProducer,
		FirstTimestamp:   now,
		MaxTimestamp:     now,
		LastOffsetDelta:  int32(len(records) - 1),
		Records:          make([]*sarama.Record, len(records)),
	}
	// One allocation each for all records and all headers.
	slab := make([]sarama.Record, len(records))
	count := 0
	for i := range records {
		count += len(records[i].Headers)
	}
	headers := make([]sarama.RecordHeader, count)
	pointers := make([]*sarama.RecordHeader, count)
	next := 0
	names := map[string][]byte{} // a dozen, which all records have
	for i, r := range records {
		first := next
		for _, h := range r.Headers {
			name, known := names[h.Key]
			if !known {
				name = []byte(h.Key)
				names[h.Key] = name
			}
			headers[next] = sarama.RecordHeader{Key: name, Value: h.Value}
			pointers[next] = &headers[next]
			next++
		}
		slab[i] = sarama.Record{OffsetDelta: int64(i), Key: r.Key, Value: r.Value, Headers: pointers[first:next]}
		batch.Records[i] = &slab[i]
	}
	return batch
}

// batchBytes is the exact size of a batch, uncompressed.
func batchBytes(records []pipeline.OutgoingRecord) int {
	total := batchOverhead
	for i := range records {
		total += recordBytes(&records[i], i)
	}
	return total
}

// recordBytes is the exact size of the record number delta of a batch whose
// records have one timestamp.
func recordBytes(r *pipeline.OutgoingRecord, delta int) int {
	const attributesAndTime = 1 + 1
	body := attributesAndTime + varintBytes(int64(delta)) + fieldBytes(r.Key) + fieldBytes(r.Value) +
		varintBytes(int64(len(r.Headers)))
	for _, h := range r.Headers {
		body += varintBytes(int64(len(h.Key))) + len(h.Key) + fieldBytes(h.Value)
	}
	return varintBytes(int64(body)) + body
}

// fieldBytes is the size of bytes after their length; nil has length -1.
func fieldBytes(field []byte) int {
	if field == nil {
		return varintBytes(-1)
	}
	return varintBytes(int64(len(field))) + len(field)
}

// varintBytes is the size of a zigzag varint.
func varintBytes(n int64) int {
	zigzag := uint64(n<<1) ^ uint64(n>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}
