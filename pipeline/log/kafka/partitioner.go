package kafka

import "encoding/binary"

// Partition is the partition of a key among so many, at least 1. It is the
// choice of Java's default partitioner, and so that of every client that
// follows it: a producer in another language puts a key where pricemill looks
// for it.
func Partition(key []byte, partitions int32) int32 {
	// Java clears the sign bit instead of negating: the least integer has no
	// positive counterpart.
	return int32(murmur2(key)&0x7fffffff) % partitions
}

// murmur2 is the 32-bit MurmurHash2 by Austin Appleby with the seed that Kafka
// chose.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
