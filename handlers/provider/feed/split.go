package feed

import (
	"bytes"
	"encoding/json"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// maxSplit bounds what a frame becomes when it is split, in bytes: what is around its list
// is repeated for each entry.
const maxSplit = 4 << 20

// span is a part of a frame, by its bytes.
type span struct{ start, end int }

// Split cuts a frame whose list at the path has several entries into frames with one
// entry each: byte for byte the frame without the other entries. Each then reads alike,
// however many trades the service puts into one frame. A frame without the list, or with at
// most one entry, stays whole. An empty path is the frame itself. The error is a
// *pipeline.QuoteError with CodeTooLarge.
func Split(frame []byte, path []string) ([][]byte, error) {
	spans := locate(frame, 0, path)
	if len(spans) < 2 {
		return [][]byte{frame}, nil
	}
	before, after := frame[:spans[0].start], frame[spans[len(spans)-1].end:]
	if total := len(frame) + len(spans)*(len(before)+len(after)); total > maxSplit {
		return nil, pipeline.Quotef(schema.CodeTooLarge, "a frame of %d entries that becomes more than %d bytes when it is split", len(spans), maxSplit)
	}
	frames := make([][]byte, len(spans))
	for i, s := range spans {
		frames[i] = bytes.Join([][]byte{before, frame[s.start:s.end], after}, nil)
	}
	return frames, nil
}

// locate finds the entries of the list at a path in text, which is at an offset of its
// frame; none where there is no list. Of two members of one name the last counts, as where
// JSON is decoded.
func locate(text []byte, offset int, path []string) []span {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	opening, err := decoder.Token()
	want := json.Delim('{')
	if len(path) == 0 {
		want = '['
	}
	if err != nil || opening != want {
		return nil
	}
	var entries []span
	var member span
	for decoder.More() {
		wanted := len(path) == 0
		if !wanted {
			name, err := decoder.Token()
			if err != nil {
				return nil
			}
			wanted = name == path[0]
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil
		}
		end := int(decoder.InputOffset())
		if wanted {
			member = span{end - len(value), end}
			entries = append(entries, span{offset + member.start, offset + member.end})
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil // it does not end
	}
	if len(path) == 0 || len(entries) == 0 {
		return entries
	}
	return locate(text[member.start:member.end], offset+member.start, path[1:])
}
