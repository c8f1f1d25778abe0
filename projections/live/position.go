package live

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"slices"
	"strings"
)

// The form of an id, before base64: version, flags, which stream and which log it is of,
// how many partitions and kinds, the offsets, and a checksum. The first kind's offset of a
// partition stands for itself, the others' for what they are behind it.
const (
	positionVersion = 1
	// owing: not all snapshots were sent yet.
	owing = 1
	// maxPosition is the longest id that is read, in bytes. All headers of a request may
	// have 32 KiB.
	maxPosition = 8 << 10
)

// position is where a stream is.
type position struct {
	owing bool
	log   uint32
	// offsets of the next records, by partition and kind.
	offsets [][]int64
}

// text is the id, of a stream with this sum.
func (p position) text(stream uint32) string {
	packed := make([]byte, 0, 64)
	packed = append(packed, positionVersion, 0)
	if p.owing {
		packed[1] = owing
	}
	packed = binary.BigEndian.AppendUint32(packed, stream)
	packed = binary.BigEndian.AppendUint32(packed, p.log)
	packed = binary.AppendUvarint(packed, uint64(len(p.offsets)))
	packed = binary.AppendUvarint(packed, uint64(len(p.offsets[0])))
	for _, kinds := range p.offsets {
		packed = binary.AppendUvarint(packed, uint64(kinds[0]))
		for _, offset := range kinds[1:] {
			packed = binary.AppendVarint(packed, kinds[0]-offset)
		}
	}
	packed = binary.BigEndian.AppendUint32(packed, crc32.ChecksumIEEE(packed))
	return base64.RawURLEncoding.EncodeToString(packed)
}

// parsePosition reads what text wrote for a stream with this sum and as many kinds. Its
// error wraps ErrPosition.
func parsePosition(text string, stream uint32, kinds int) (position, error) {
	if len(text) > maxPosition {
		return position{}, fmt.Errorf("%w: %d bytes", ErrPosition, len(text))
	}
	packed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(packed) < 14 || packed[0] != positionVersion || packed[1] > owing {
		return position{}, fmt.Errorf("%w: its form is another", ErrPosition)
	}
	body, sum := packed[:len(packed)-4], packed[len(packed)-4:]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
		return position{}, fmt.Errorf("%w: it was changed", ErrPosition)
	}
	if binary.BigEndian.Uint32(body[2:]) != stream {
		return position{}, fmt.Errorf("%w: it is of another stream", ErrPosition)
	}
	p := position{owing: body[1] == owing, log: binary.BigEndian.Uint32(body[6:])}
	rest := varints{body[10:], nil}
	partitions, width := rest.unsigned(), rest.unsigned()
	if width != int64(kinds) || partitions < 1 || partitions > int64(len(body)) {
		return position{}, fmt.Errorf("%w: its size is another", ErrPosition)
	}
	for range partitions {
		offsets := make([]int64, kinds)
		for k := range offsets {
			if k == 0 {
				offsets[k] = rest.unsigned()
			} else {
				offsets[k] = offsets[0] - rest.signed()
			}
			if offsets[k] < 0 {
				rest.err = ErrPosition
			}
		}
		p.offsets = append(p.offsets, offsets)
	}
	if rest.err != nil || len(rest.left) > 0 {
		return position{}, fmt.Errorf("%w: its offsets cannot be read", ErrPosition)
	}
	return p, nil
}

// varints reads numbers until one cannot be read.
type varints struct {
	left []byte
	err  error
}

func (v *varints) unsigned() int64 {
	n, size := binary.Uvarint(v.left)
	if size <= 0 || n > 1<<62 {
		v.err = ErrPosition
		return 0
	}
	v.left = v.left[size:]
	return int64(n)
}

func (v *varints) signed() int64 {
	n, size := binary.Varint(v.left)
	if size <= 0 || n > 1<<62 || n < -1<<62 {
		v.err = ErrPosition
		return 0
	}
	v.left = v.left[size:]
	return n
}

// streamSum is one for all requests of the same symbols, provider and events, in whatever
// order.
func (r Request) streamSum(kinds []Kind) uint32 {
	symbols := make([]string, len(r.Symbols))
	for i, symbol := range r.Symbols {
		symbols[i] = string(symbol)
	}
	slices.Sort(symbols)
	hash := fnv.New32a()
	for _, kind := range kinds {
		symbols = append(symbols, kind.Text)
	}
	_, _ = hash.Write([]byte(string(r.Provider) + "\n" + strings.Join(symbols, "\n"))) // never fails
	return hash.Sum32()
}
