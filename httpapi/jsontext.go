package httpapi

import (
	"strconv"

	"github.com/pricemill/pricemill/schema"
)

// jsonText is JSON that is written by hand, as encode writes it: the answers that clients ask
// for most. Their tests hold the two together.
type jsonText []byte

// string appends a string.
func (t jsonText) string(s string) jsonText {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			text, err := encode(s)
			if err != nil {
				panic("httpapi: a string that is no JSON: " + err.Error()) // encoding/json takes any
			}
			return append(t, text...)
		}
	}
	return append(append(append(t, '"'), s...), '"')
}

func (t jsonText) int(n int) jsonText { return strconv.AppendInt(t, int64(n), 10) }

// decimal appends a number.
func (t jsonText) decimal(d schema.Decimal) jsonText {
	text, err := d.AppendText(t)
	if err != nil {
		panic("httpapi: a decimal without text: " + err.Error()) // it has no error
	}
	return text
}

// time appends an instant. Nothing that was read is of a year that RFC 3339 does not have.
func (t jsonText) time(at schema.Time) jsonText {
	text, err := at.AppendText(append(t, '"'))
	if err != nil {
		panic("httpapi: " + err.Error())
	}
	return append(text, '"')
}

// members appends the members of a price, without the end of the object.
func (b priceBody) members(t jsonText) jsonText {
	t = append(t, `{"symbol":`...).string(string(b.Symbol))
	t = append(t, `,"price":`...).decimal(b.Price)
	t = append(t, `,"timestamp":`...).time(b.Timestamp)
	return append(t, `,"provider":`...).string(string(b.Provider))
}

func (b priceBody) appendTo(t jsonText) jsonText { return append(b.members(t), '}') }

func (b knownPrice) appendTo(t jsonText) jsonText {
	return append(append(b.members(t), `,"received_at":`...).time(b.ReceivedAt), '}')
}

func (b averageBody) appendTo(t jsonText) jsonText {
	t = append(t, `{"symbol":`...).string(string(b.Symbol))
	t = append(t, `,"window_size":`...).int(b.WindowSize)
	t = append(t, `,"value":`...).decimal(b.Value)
	return append(append(t, `,"timestamp":`...).time(b.Timestamp), '}')
}
