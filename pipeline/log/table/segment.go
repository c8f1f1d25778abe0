package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// The codecs of a segment's body. A record in it is the time it was written
// (milliseconds since 1970, a varint), then key, headers and value, each after its
// length plus one, or 0 for none. Headers are packed as store.EncodeHeaders does.
const (
	plain      = 1
	compressed = 2 // the same, in an S2 block
)

const (
	// maxSegment is where a segment ends, in bytes before compression. It holds at
	// least one record.
	maxSegment = 256 << 10
	// compressFrom is the size from which compression is tried.
	compressFrom = 512
	// maxRecord bounds a record, in bytes: a single one is a segment of its own, and what
	// is written must be readable.
	maxRecord = 32 << 20
	// maxUnpacked bounds what a damaged segment may ask to be unpacked to.
	maxUnpacked = maxRecord + maxSegment
)

// Why a partition cannot be read.
var (
	// ErrDamaged is wrapped where the log does not read as it was written.
	ErrDamaged = log.ErrDamaged
	// ErrUnknownFormat is wrapped where a newer version wrote the log.
	ErrUnknownFormat = errors.New("the log is written in a format that this version does not know")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry is a record on its way into the log.
type entry struct {
	at                  time.Time
	key, headers, value []byte // headers as store.EncodeHeaders packs them
}

func (e entry) size() int {
	return len(e.key) + len(e.headers) + len(e.value) + 4*binary.MaxVarintLen32
}

// check returns an error that wraps ErrTooLarge where the log does not take the record.
func (e entry) check() error {
	if size := e.size(); size > maxRecord {
		return fmt.Errorf("%w: it has %d bytes, and the most is %d", ErrTooLarge, size, maxRecord)
	}
	return nil
}

func appendEntry(body []byte, e entry) []byte {
	body = binary.AppendVarint(body, e.at.UnixMilli())
	for _, part := range [...][]byte{e.key, e.headers, e.value} {
		if part == nil {
			body = append(body, 0)
			continue
		}
		body = append(binary.AppendUvarint(body, uint64(len(part))+1), part...)
	}
	return body
}

// pack makes the segments of consecutive records of a partition, the first of which has
// number first.
func pack(epoch int64, part int32, first int64, entries []entry) []store.Segment {
	var segments []store.Segment
	for len(entries) > 0 {
		n, size := 0, 0
		for ; n < len(entries) && (n == 0 || size+entries[n].size() <= maxSegment); n++ {
			size += entries[n].size()
		}
		body := make([]byte, 0, size)
		newest := entries[0].at
		for _, e := range entries[:n] {
			body = appendEntry(body, e)
			if e.at.After(newest) {
				newest = e.at
			}
		}
		s := withBody(store.Segment{Epoch: epoch, Part: part, First: first, Last: first + int64(n) - 1, Newest: newest.UnixMilli()}, body)
		segments = append(segments, s)
		entries, first = entries[n:], s.Last+1
	}
	return segments
}

// withBody is a segment with a body, compressed where that is worth it.
func withBody(s store.Segment, body []byte) store.Segment {
	s.Codec, s.Body = plain, body
	if len(body) >= compressFrom {
		if small := s2.Encode(nil, body); len(small) < len(body)*7/8 {
			s.Codec, s.Body = compressed, small
		}
	}
	s.Checksum = checksum(s)
	return s
}

// checksum is the CRC-32C of the body and of all that says where it belongs: a row that
// was moved is as wrong as one that was changed.
func checksum(s store.Segment) int64 {
	place := make([]byte, 0, 48)
	for _, n := range [...]int64{s.Epoch, int64(s.Part), s.First, s.Last, s.Newest, s.Codec} {
		place = binary.BigEndian.AppendUint64(place, uint64(n))
	}
	return int64(crc32.Update(crc32.Checksum(place, castagnoli), castagnoli, s.Body))
}

// unpack calls f with the records of a segment, which share its memory. The error wraps ErrDamaged or ErrUnknownFormat, or
// is that of f.
func unpack(s store.Segment, f func(number int64, e entry) error) error {
	if checksum(s) != s.Checksum {
		return fmt.Errorf("%w: the checksum of numbers %d to %d does not match", ErrDamaged, s.First, s.Last)
	}
	body := s.Body
	switch s.Codec {
	case plain:
	case compressed:
		size, err := s2.DecodedLen(body)
		if err == nil && size > maxUnpacked {
			err = fmt.Errorf("%d bytes are too many", size)
		}
		if err == nil {
			body, err = s2.Decode(nil, body)
		}
		if err != nil {
			return fmt.Errorf("%w: unpacking numbers %d to %d: %w", ErrDamaged, s.First, s.Last, err)
		}
	default:
		return fmt.Errorf("%w: format %d, numbers %d to %d", ErrUnknownFormat, s.Codec, s.First, s.Last)
	}
	for number := s.First; number <= s.Last; number++ {
		e, rest, err := cutEntry(body)
		if err != nil {
			return fmt.Errorf("%w: number %d: %w", ErrDamaged, number, err)
		}
		if err := f(number, e); err != nil {
			return err
		}
		body = rest
	}
	if len(body) > 0 {
		return fmt.Errorf("%w: %d bytes follow number %d", ErrDamaged, len(body), s.Last)
	}
	return nil
}

var errShort = errors.New("the record ends before its end")

func cutEntry(body []byte) (e entry, rest []byte, err error) {
	millis, n := binary.Varint(body)
	if n <= 0 {
		return entry{}, nil, errShort
	}
	e.at, rest = time.UnixMilli(millis).UTC(), body[n:]
	for _, part := range [...]*[]byte{&e.key, &e.headers, &e.value} {
		length, n := binary.Uvarint(rest)
		if n <= 0 {
			return entry{}, nil, errShort
		}
		rest = rest[n:]
		if length == 0 {
			continue
		}
		if length--; length > uint64(len(rest)) {
			return entry{}, nil, errShort
		}
		*part, rest = rest[:length:length], rest[length:]
	}
	return e, rest, nil
}
