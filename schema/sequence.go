package schema

import (
	"fmt"
	"strconv"
)

// Sequence orders the prices of one symbol at one provider within one instant: the
// provider's own number of a trade, which rises from trade to trade. Zero where the
// provider gives none; the log's order then decides.
type Sequence int64

// ParseSequence reads a whole number, which is what most providers' trade ids and
// sequences are; false for any other text.
func ParseSequence(text string) (Sequence, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return Sequence(n), err == nil
}

// UnmarshalJSON reads a JSON number. With it, an event that has a sequence is still
// decoded by decodeFlat.
func (s *Sequence) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return fmt.Errorf("reading a sequence: %q is no whole number of 64 bits", shorten(string(data)))
	}
	*s = Sequence(n)
	return nil
}
