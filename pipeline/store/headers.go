package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// The first byte of packed headers is their version. Version 1 has the length of a
// value where version 2 has that plus one, and 0 for a value that is null: a
// header without a value is not one with an empty value.
const (
	headersVersion1 = 1
	headersVersion2 = 2
)

// usualHeaders is how many an event has at the most, those of its place in a chain
// included.
const usualHeaders = 12

// ErrHeaders is wrapped by every failure to unpack headers.
var ErrHeaders = errors.New("malformed packed headers")

// EncodeHeaders packs headers: a version byte, then for each the length and bytes
// of the key, and the length plus one, or 0 for null, and bytes of the value.
func EncodeHeaders(headers []schema.Header) []byte {
	size := 1
	for _, h := range headers {
		size += len(h.Key) + len(h.Value) + 2*binary.MaxVarintLen16
	}
	b := append(make([]byte, 0, size), headersVersion2)
	for _, h := range headers {
		b = append(binary.AppendUvarint(b, uint64(len(h.Key))), h.Key...)
		if h.Value == nil {
			b = append(b, 0)
			continue
		}
		b = append(binary.AppendUvarint(b, uint64(len(h.Value))+1), h.Value...)
	}
	return b
}

// DecodeHeaders unpacks what EncodeHeaders packed, now or ever; the values share
// b's memory.
func DecodeHeaders(b []byte) ([]schema.Header, error) { return HeaderDecoder(nil).Decode(b) }

// HeaderDecoder decodes the headers of many records, which repeat the same few keys: each
// key is one string for all of them. A nil one decodes, without a cache. It is not
// safe for concurrent use.
type HeaderDecoder map[string]string

// maxKeys bounds the keys that a HeaderDecoder remembers.
const maxKeys = 256

// key is b as a string.
func (d HeaderDecoder) key(b []byte) string {
	if known, ok := d[string(b)]; ok {
		return known
	}
	key := string(b)
	if d != nil && len(d) < maxKeys {
		d[key] = key
	}
	return key
}

// Decode is DecodeHeaders.
func (d HeaderDecoder) Decode(b []byte) ([]schema.Header, error) {
	if len(b) == 0 || b[0] != headersVersion1 && b[0] != headersVersion2 {
		return nil, fmt.Errorf("%w: unknown version", ErrHeaders)
	}
	version := b[0]
	b = b[1:]
	var headers []schema.Header
	if len(b) > 0 {
		headers = make([]schema.Header, 0, usualHeaders)
	}
	for len(b) > 0 {
		var key, value []byte
		var err error
		if key, b, err = cutBytes(b, 0); err != nil {
			return nil, err
		}
		switch {
		case version == headersVersion1:
			value, b, err = cutBytes(b, 0)
		case len(b) > 0 && b[0] == 0:
			value, b = nil, b[1:]
		default:
			value, b, err = cutBytes(b, 1)
		}
		if err != nil {
			return nil, err
		}
		headers = append(headers, schema.Header{Key: d.key(key), Value: value})
	}
	return headers, nil
}

// cutBytes cuts off bytes after their length, to which more was added.
func cutBytes(b []byte, more uint64) (head, rest []byte, err error) {
	n, width := binary.Uvarint(b)
	if width <= 0 || n < more || n-more > uint64(len(b)-width) {
		return nil, nil, fmt.Errorf("%w: length", ErrHeaders)
	}
	end := width + int(n-more)
	return b[width:end:end], b[end:], nil
}
