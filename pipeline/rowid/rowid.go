// Package rowid makes the id of a row of the place in the log of the record that it
// follows from.
//
// A row id is 63 bits: the epoch of the topic in this database, the partition,
// the offset, and the row's number among those of its record. It is
// deterministic, so that two builds from one log give the same rows, and it
// rises with the offset, so that an index on it grows at its end.
package rowid

import "fmt"

const (
	epochBits     = 7
	partitionBits = 12
	offsetBits    = 38
	indexBits     = 6

	// The most that an id has room for.
	MaxEpoch      = 1<<epochBits - 1
	MaxPartitions = 1 << partitionBits
	MaxIndex      = 1<<indexBits - 1
	maxOffset     = 1<<offsetBits - 1
)

// Of packs the position of a record and a row number into one id. The order
// of ids of one partition is the order of the log.
func Of(epoch int64, partition int32, offset int64, index int) (int64, error) {
	if epoch < 0 || epoch > MaxEpoch || partition < 0 || partition >= MaxPartitions ||
		offset < 0 || offset > maxOffset || index < 0 || index > MaxIndex {
		return 0, fmt.Errorf("making a row id: epoch %d, partition %d, offset %d, index %d: out of range",
			epoch, partition, offset, index)
	}
	return epoch<<(partitionBits+offsetBits+indexBits) |
		int64(partition)<<(offsetBits+indexBits) | offset<<indexBits | int64(index), nil
}

// Range is the first and the last id of the rows that records of a partition
// may have.
func Range(epoch int64, partition int32) (first, last int64) {
	first = epoch<<(partitionBits+offsetBits+indexBits) | int64(partition)<<(offsetBits+indexBits)
	return first, first | (1<<(offsetBits+indexBits) - 1)
}

// Partition tells the partitions of all epochs apart: rows of one have the same.
func Partition(id int64) int64 { return id >> (offsetBits + indexBits) }

// Bounds are the first and the last id of the rows of a partition, as Partition tells it.
func Bounds(partition int64) (first, last int64) {
	first = partition << (offsetBits + indexBits)
	return first, first | (1<<(offsetBits+indexBits) - 1)
}

// PartitionOf is the partition of the record that a row follows from.
func PartitionOf(id int64) int32 { return int32(id >> (offsetBits + indexBits) & (MaxPartitions - 1)) }

// EpochOf is an SQL expression: the epoch of the topic of a row id.
func EpochOf(column string) string {
	return fmt.Sprintf("(%s >> %d)", column, partitionBits+offsetBits+indexBits)
}

// Offset is the offset of the record that a row follows from.
func Offset(id int64) int64 { return id >> indexBits & maxOffset }
