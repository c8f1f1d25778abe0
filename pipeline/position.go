package pipeline

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// Token names a place in the chain of a partition. Its text form goes to
// clients, who hand it back to read no state older than it.
type Token struct {
	TopicPartition
	// Seq is the number in the partition's chain, from 1.
	Seq int64
}

// ErrToken is wrapped by every failure to read a token.
var ErrToken = errors.New("invalid log position")

func (t Token) String() string {
	return fmt.Sprintf("%s:%d:%d", t.Topic, t.Partition, t.Seq)
}

// ParseToken reads what String wrote.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || parts[0] == "" {
		return Token{}, fmt.Errorf("%w: want topic:partition:number", ErrToken)
	}
	partition, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil || partition < 0 {
		return Token{}, fmt.Errorf("%w: partition", ErrToken)
	}
	seq, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || seq < 1 {
		return Token{}, fmt.Errorf("%w: number", ErrToken)
	}
	return Token{TopicPartition{schema.Topic(parts[0]), int32(partition)}, seq}, nil
}

// A row id is 63 bits: the epoch of the topic in this database, the partition,
// the offset, and the row's number among those of its record. It is
// deterministic, so that two builds from one log give the same rows, and it
// rises with the offset, so that an index on it grows at its end.
const (
	epochBits     = 7
	partitionBits = 12
	offsetBits    = 38
	indexBits     = 6

	MaxEpoch      = 1<<epochBits - 1
	MaxPartitions = 1 << partitionBits
	MaxRowIndex   = 1<<indexBits - 1
	maxOffset     = 1<<offsetBits - 1
)

// RowID packs the position of a record and a row number into one id. The order
// of ids of one partition is the order of the log.
func RowID(epoch int64, partition int32, offset int64, index int) (int64, error) {
	if epoch < 0 || epoch > MaxEpoch || partition < 0 || partition >= MaxPartitions ||
		offset < 0 || offset > maxOffset || index < 0 || index > MaxRowIndex {
		return 0, fmt.Errorf("making a row id: epoch %d, partition %d, offset %d, index %d: out of range",
			epoch, partition, offset, index)
	}
	return epoch<<(partitionBits+offsetBits+indexBits) |
		int64(partition)<<(offsetBits+indexBits) | offset<<indexBits | int64(index), nil
}

// RowIDs are the first and the last id of the rows that records of a partition
// may have.
func RowIDs(epoch int64, partition int32) (first, last int64) {
	first = epoch<<(partitionBits+offsetBits+indexBits) | int64(partition)<<(offsetBits+indexBits)
	return first, first | (1<<(offsetBits+indexBits) - 1)
}

// RowOffset is the offset of the record that a row follows from.
func RowOffset(id int64) int64 { return id >> indexBits & maxOffset }
