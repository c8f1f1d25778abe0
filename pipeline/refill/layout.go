package refill

import (
	"cmp"
	"context"
	"math/bits"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
)

// LinkKind says whether a record has a number in the chain of its partition.
type LinkKind uint8

// The kinds of links.
const (
	Unlinked LinkKind = iota
	Linked
	// LinkedDerived is that of an event that a stage derived from a record.
	LinkedDerived
)

// Slot is a record that the database tells of, at its place on a partition.
type Slot struct {
	Offset int64
	// Ref and N are for who makes the record, and so is Source. Where Record is set, it is the
	// record, but for its link.
	Ref    int64
	Record *log.OutgoingRecord
	N      uint16
	Source uint8
	Link   LinkKind
	// Letter says that it is a dead letter, whose headers are those of the record.
	Letter bool
}

// Partition is what is to be on a partition of a lost topic.
type Partition struct {
	pipeline.TopicPartition
	// Known is the offset up to which stages had applied it: what is put there counts as
	// applied.
	Known int64
	// End is where the partition ends: at Known, or after what was appended.
	End   int64
	slots []Slot
	taken []uint64 // a bit an offset
	// before[i] is how many of the slots before i have a number.
	before []int64
}

// NewPartition is an empty one that stages have applied up to an offset.
func NewPartition(tp pipeline.TopicPartition, known int64) *Partition {
	return &Partition{TopicPartition: tp, Known: known, End: known}
}

// Has reports whether a record was placed at an offset.
func (p *Partition) Has(offset int64) bool {
	word := int(offset / 64)
	return word < len(p.taken) && p.taken[word]&(1<<(offset%64)) != 0
}

// Put places a record at its offset; false where there is another one, or none was applied.
func (p *Partition) Put(s Slot) bool {
	if s.Offset < 0 || s.Offset >= p.Known || p.Has(s.Offset) {
		return false
	}
	p.place(s)
	return true
}

func (p *Partition) place(s Slot) {
	word := int(s.Offset / 64)
	for len(p.taken) <= word {
		p.taken = append(p.taken, make([]uint64, max(16, len(p.taken)/2))...)
	}
	p.taken[word] |= 1 << (s.Offset % 64)
	p.slots = append(p.slots, s)
}

// Float places a record at the first free offset from one on that stages have applied; false
// where none is free.
func (p *Partition) Float(from int64, s Slot) (offset int64, placed bool) {
	for offset = max(from, 0); offset < p.Known; {
		word, bit := int(offset/64), offset%64
		if word >= len(p.taken) {
			break
		}
		free := ^p.taken[word] >> bit
		if free != 0 {
			offset += int64(bits.TrailingZeros64(free))
			break
		}
		offset += 64 - bit
	}
	if offset >= p.Known {
		return 0, false
	}
	s.Offset = offset
	p.place(s)
	return offset, true
}

// Append places a record after all others: stages apply it yet.
func (p *Partition) Append(s Slot) {
	s.Offset = p.End
	p.End++
	p.place(s)
}

// seal sorts the records, and counts those with a number.
func (p *Partition) seal() {
	slices.SortFunc(p.slots, func(a, b Slot) int { return cmp.Compare(a.Offset, b.Offset) })
	p.before = make([]int64, len(p.slots)+1)
	for i, s := range p.slots {
		p.before[i+1] = p.before[i]
		if s.Link != Unlinked {
			p.before[i+1]++
		}
	}
}

// at is the first slot from an offset on.
func (p *Partition) at(offset int64) int {
	i, _ := slices.BinarySearchFunc(p.slots, offset, func(s Slot, offset int64) int { return cmp.Compare(s.Offset, offset) })
	return i
}

// linkedBefore is how many records before an offset have a number.
func (p *Partition) linkedBefore(offset int64) int64 { return p.before[p.at(offset)] }

// Records makes the records of slots, without their links; those of slots with a Record are not
// asked for.
type Records interface {
	Make(ctx context.Context, tp pipeline.TopicPartition, slots []Slot) ([]log.OutgoingRecord, error)
}
