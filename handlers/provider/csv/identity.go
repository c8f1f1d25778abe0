package csv

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// remembered is how many rows are remembered at least, so that equal ones are told
// apart. Of more, the oldest are forgotten: memory stays bounded, and a row that
// equals one so far back counts as a repeat of it.
const remembered = 1 << 20

// identities gives rows their ids.
type identities struct {
	// By what a row tells: how often it was told, or, of a row with an id, what
	// it told. The older half is forgotten as a whole.
	now, before map[uint64]uint64
}

func (s *identities) get(key uint64) uint64 {
	if value, there := s.now[key]; there {
		return value
	}
	return s.before[key]
}

func (s *identities) put(key, value uint64) {
	if s.now == nil || len(s.now) >= remembered {
		s.before, s.now = s.now, map[uint64]uint64{}
	}
	s.now[key] = value
}

// of is the id of a row without an id of its own: what it tells, and how many rows
// of the file told the same before. first is then the id of the first of them.
//
// The time is as it was written, which may be finer than what events keep.
func (s *identities) of(symbol schema.Symbol, at time.Time, price schema.Decimal) (id, first string) {
	parts := []string{"file", string(Name), string(symbol), at.UTC().Format(time.RFC3339Nano), price.String()}
	id = schema.DeriveID(parts...)
	key := fold(id)
	count := s.get(key)
	s.put(key, count+1)
	if count == 0 {
		return id, ""
	}
	return schema.DeriveID(append(parts, strconv.FormatUint(count, 10))...), id
}

// idOfBar is the id of a bar: the same span with the same values is one fact, however
// often files hold it.
func idOfBar(q quoted) string {
	volume := ""
	if q.bar.Volume != nil {
		volume = q.bar.Volume.String()
	}
	return schema.DeriveID("file-bar", string(Name), string(q.symbol), q.bar.OpenTime.String(), q.time.String(),
		q.bar.Open.String(), q.bar.High.String(), q.bar.Low.String(), q.bar.Close.String(), volume)
}

// ofOwn is the id of a row that has an id. Two rows of one id that tell different
// things are an error: the column holds something else.
func (s *identities) ofOwn(symbol schema.Symbol, own string, at time.Time, price schema.Decimal) (string, error) {
	if own == "" {
		return "", fmt.Errorf("no id; a file in which some rows have none is read without --%s", OptionID)
	}
	id := schema.DeriveID("file-id", string(Name), string(symbol), own)
	key, told := fold(id), fold(schema.DeriveID(at.UTC().Format(time.RFC3339Nano), price.String()))
	if before := s.get(key); before != 0 && before != told {
		return "", fmt.Errorf("id %.60q stands for another price or time in a row before: does the column hold ids of trades?", own)
	}
	s.put(key, told)
	return id, nil
}

// fold is 64 bits of an id, never 0.
func fold(id string) uint64 {
	bits, err := hex.DecodeString(strings.ReplaceAll(id, "-", "")[:16])
	if err != nil {
		panic(err) // DeriveID writes hexadecimal digits
	}
	return binary.BigEndian.Uint64(bits) | 1
}
