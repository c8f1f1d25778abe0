package schema

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

func (q QuoteFetched) appendJSON(b []byte) []byte { return append(q.appendFields(b), '}') }

func (q QuoteStored) appendJSON(b []byte) []byte {
	b = append(q.appendFields(b), `,"raw_response_id":`...)
	return append(appendString(b, q.RawResponseID), '}')
}

func (q QuoteFetched) appendFields(b []byte) []byte {
	b = appendString(append(b, `{"provider":`...), string(q.Provider))
	b = appendString(append(b, `,"symbol":`...), string(q.Symbol))
	b = appendOptional(b, `,"request_id":`, q.RequestID)
	b = q.RawResponse.appendJSON(append(b, `,"raw_response":`...))
	b = q.ReceivedAt.appendJSON(append(b, `,"received_at":`...))
	return appendOptional(b, `,"definition":`, q.Definition)
}

func (p PriceObserved) appendJSON(b []byte) []byte {
	b = appendString(append(b, `{"symbol":`...), string(p.Symbol))
	b = p.Price.appendText(append(b, `,"price":`...))
	if !p.Size.IsZero() {
		b = p.Size.appendText(append(b, `,"size":`...))
	}
	b = p.Timestamp.appendJSON(append(b, `,"timestamp":`...))
	if p.Sequence != 0 {
		b = strconv.AppendInt(append(b, `,"sequence":`...), int64(p.Sequence), 10)
	}
	b = appendString(append(b, `,"source":`...), string(p.Source))
	b = appendOptional(b, `,"raw_response_id":`, p.RawResponseID)
	b = p.ReceivedAt.appendJSON(append(b, `,"received_at":`...))
	return append(appendOptional(b, `,"request_id":`, p.RequestID), '}')
}

// appendOptional appends a key and a string, or neither for an empty one.
func appendOptional(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, key...), s)
}

// plain are the characters that encoding/json writes as they are.
var plain = func() (table [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		table[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return table
}()

// escapes are the characters that encoding/json writes as a backslash and a letter.
var escapes = [utf8.RuneSelf]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// appendString appends a JSON string, as encoding/json writes it: what is neither
// plain ASCII nor one of the escapes is for encoding/json itself.
func appendString[S string | []byte](b []byte, s S) []byte {
	start := len(b)
	b = append(b, '"')
	copied := 0
	for i := range len(s) {
		c := s[i]
		if plain[c] {
			continue
		}
		if c >= utf8.RuneSelf || escapes[c] == 0 {
			text, err := json.Marshal(string(s))
			if err != nil {
				panic("schema: a string that is no JSON: " + err.Error()) // encoding/json takes any
			}
			return append(b[:start], text...)
		}
		b = append(append(b, s[copied:i]...), '\\', escapes[c])
		copied = i + 1
	}
	return append(append(b, s[copied:]...), '"')
}

// appendJSON appends the JSON form of an answer; see RawResponse.
func (r RawResponse) appendJSON(b []byte) []byte {
	if utf8.Valid(r) {
		text := appendString(b, []byte(r))
		if len(text)-len(b) <= base64ObjectLen(len(r)) {
			return text
		}
	}
	b = append(b, `{"base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, r)
	return append(b, `"}`...)
}
