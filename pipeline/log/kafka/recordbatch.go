package kafka

import (
	"math/bits"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline/log"
)

// batchOverhead is the size of a batch without its records, in format 2:
// offset, length, epoch, magic, checksum, attributes, last offset, two
// timestamps, producer, its epoch, sequence, count.
const batchOverhead = 8 + 4 + 4 + 1 + 4 + 2 + 4 + 8 + 8 + 8 + 2 + 4 + 4

// noProducer stands in for the identity of an idempotent producer.
const noProducer = -1

// timestamp is what the log says of when a record was written: now, as records of
// one batch are written together, but for a copy, which keeps what it has.
func timestamp(r *log.OutgoingRecord, now time.Time) time.Time {
	if r.Timestamp.IsZero() {
		return now.Truncate(time.Millisecond)
	}
	return r.Timestamp.Truncate(time.Millisecond)
}

// recordBatch makes one batch of the log out of records, one at least.
func recordBatch(records []log.OutgoingRecord, now time.Time, codec sarama.CompressionCodec) *sarama.RecordBatch {
	first := timestamp(&records[0], now)
	batch := &sarama.RecordBatch{
		Version:          2,
		Codec:            codec,
		CompressionLevel: sarama.CompressionLevelDefault,
		ProducerID:       noProducer,
		ProducerEpoch:    noProducer,
		FirstSequence:    noProducer,
		FirstTimestamp:   first,
		MaxTimestamp:     first,
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
		header := next
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
		at := timestamp(&r, now)
		if at.After(batch.MaxTimestamp) {
			batch.MaxTimestamp = at
		}
		slab[i] = sarama.Record{OffsetDelta: int64(i), TimestampDelta: at.Sub(first), Key: r.Key, Value: r.Value,
			Headers: pointers[header:next]}
		batch.Records[i] = &slab[i]
	}
	return batch
}

// batchBytes is the exact size of a batch, uncompressed.
func batchBytes(records []log.OutgoingRecord, now time.Time) int {
	total := batchOverhead
	if len(records) == 0 {
		return total
	}
	first := timestamp(&records[0], now)
	for i := range records {
		total += recordBytes(&records[i], i, timestamp(&records[i], now).Sub(first))
	}
	return total
}

// recordBytes is the exact size of the record number delta of a batch, which was
// written so long after the first.
func recordBytes(r *log.OutgoingRecord, delta int, after time.Duration) int {
	const attributes = 1
	body := attributes + varintBytes(after.Milliseconds()) + varintBytes(int64(delta)) + fieldBytes(r.Key) + fieldBytes(r.Value) +
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
