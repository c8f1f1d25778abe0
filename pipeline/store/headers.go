package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// headersVersion is the first byte of packed headers.
const headersVersion = 1

// usualHeaders is how many an event has, those of its place in a chain included.
const usualHeaders = 11

// ErrHeaders is wrapped by every failure to unpack headers.
var ErrHeaders = errors.New("malformed packed headers")

// EncodeHeaders packs headers: a version byte, then for each the lengths and
// bytes of key and value.
func EncodeHeaders(headers []schema.Header) []byte {
	size := 1
	for _, h := range headers {
		size += len(h.Key) + len(h.Value) + 2*binary.MaxVarintLen16
	}
	b := append(make([]byte, 0, size), headersVersion)
	for _, h := range headers {
		b = append(binary.AppendUvarint(b, uint64(len(h.Key))), h.Key...)
		b = append(binary.AppendUvarint(b, uint64(len(h.Value))), h.Value...)
	}
	return b
}

// DecodeHeaders unpacks what EncodeHeaders packed; the values share b's memory.
func DecodeHeaders(b []byte) ([]schema.Header, error) {
	if len(b) == 0 || b[0] != headersVersion {
		return nil, fmt.Errorf("%w: unknown version", ErrHeaders)
	}
	b = b[1:]
	var headers []schema.Header
	if len(b) > 0 {
		headers = make([]schema.Header, 0, usualHeaders)
	}
	for len(b) > 0 {
		var key, value []byte
		var err error
		if key, b, err = cutBytes(b); err != nil {
			return nil, err
		}
		if value, b, err = cutBytes(b); err != nil {
			return nil, err
		}
		headers = append(headers, schema.Header{Key: string(key), Value: value})
	}
	return headers, nil
}

func cutBytes(b []byte) (head, rest []byte, err error) {
	n, width := binary.Uvarint(b)
	if width <= 0 || n > uint64(len(b)-width) {
		return nil, nil, fmt.Errorf("%w: length", ErrHeaders)
	}
	end := width + int(n)
	return b[width:end:end], b[end:], nil
}
