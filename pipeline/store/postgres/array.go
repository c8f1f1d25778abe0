package postgres

import (
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/pricemill/pricemill/schema"
)

// arrayOf returns every width-th of the values, from the first, as a parameter that is
// an array of a type. It is in the binary form that the server's array_recv reads
// where that is known for the type and all values: a []byte, which lib/pq sends as it
// is. Otherwise it is a string. The binary form spares both sides quotes and
// hexadecimal digits (`BenchmarkBulk`).
func arrayOf(columnType string, values []any, width int) (any, error) {
	if element, known := binaryElements[columnType]; known {
		if array, ok := binaryArray(element, values, width); ok {
			return array, nil
		}
	}
	return textArray(columnType, values, width)
}

// binaryElement is a type whose binary form is known.
type binaryElement struct {
	// oid is the type's: https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat
	oid uint32
	// add appends a value, which is not nil; false where it cannot.
	add func(b []byte, value any) ([]byte, bool)
}

// binaryElements are by the name that format_type gives. The forms are those of the
// server's functions whose names end in recv.
var binaryElements = map[string]binaryElement{
	"bigint":                   {20, addBigint},
	"text":                     {25, addBytes},
	"bytea":                    {17, addBytes},
	"timestamp with time zone": {1184, addTime},
	"numeric":                  {1700, addNumeric},
}

// binaryArray is an array of one dimension: the number of dimensions, whether there are
// nulls, the type of the elements, how many there are, and the index of the first;
// then each with its length, -1 for null.
func binaryArray(element binaryElement, values []any, width int) ([]byte, bool) {
	n := (len(values) + width - 1) / width
	size := 20 + 4*n
	for i := 0; i < len(values); i += width {
		size += sizeOf(values[i])
	}
	b := make([]byte, 20, size)
	for i, word := range []uint32{1, 0, element.oid, uint32(n), 1} {
		binary.BigEndian.PutUint32(b[4*i:], word)
	}
	for i := 0; i < len(values); i += width {
		value, ok := plain(values[i])
		if !ok {
			return nil, false
		}
		if value == nil {
			binary.BigEndian.PutUint32(b[4:], 1)
			b = binary.BigEndian.AppendUint32(b, math.MaxUint32)
			continue
		}
		start := len(b)
		if b, ok = element.add(append(b, 0, 0, 0, 0), value); !ok {
			return nil, false
		}
		binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	}
	return b, true
}

// sizeOf is about how many bytes a value takes.
func sizeOf(value any) int {
	switch v := value.(type) {
	case []byte:
		return len(v)
	case string:
		return len(v)
	}
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.String, reflect.Slice: // of a type with a name, such as an answer
		return v.Len()
	}
	return 16
}

// plain is the value as a driver would get it, but for times, whose text would only be
// read again.
func plain(value any) (any, bool) {
	if at, ok := value.(schema.Time); ok {
		return at.Time, true
	}
	v, err := driver.DefaultParameterConverter.ConvertValue(value)
	if b, ok := v.([]byte); ok && b == nil {
		return nil, true // as everywhere else
	}
	return v, err == nil
}

func addBigint(b []byte, value any) ([]byte, bool) {
	v, ok := value.(int64)
	return binary.BigEndian.AppendUint64(b, uint64(v)), ok
}

func addBytes(b []byte, value any) ([]byte, bool) {
	switch v := value.(type) {
	case string:
		return append(b, v...), true
	case []byte:
		return append(b, v...), true
	}
	return b, false
}

// epoch is the server's.
var epoch = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// addTime appends microseconds since 2000. Only instants within some years of now are
// sure to fit, and are all that there are here.
func addTime(b []byte, value any) ([]byte, bool) {
	v, ok := value.(time.Time)
	if !ok || v.Year() < 1 || v.Year() > 9999 {
		return b, false
	}
	return binary.BigEndian.AppendUint64(b, uint64(v.UnixMicro()-epoch.UnixMicro())), true
}

// addNumeric appends a number from its text, in plain notation: how many digits to the
// base of 10,000, the weight of the first, the sign, how many decimal digits after the
// point to show, and the digits.
func addNumeric(b []byte, value any) ([]byte, bool) {
	text, ok := value.(string)
	if !ok {
		return b, false
	}
	sign := uint16(0)
	if rest, negative := strings.CutPrefix(text, "-"); negative {
		sign, text = 0x4000, rest
	}
	whole, fraction, _ := strings.Cut(text, ".")
	if whole == "" || len(text) > 1000 || strings.Trim(whole, "0123456789") != "" || strings.Trim(fraction, "0123456789") != "" {
		return b, false
	}
	first := len(b) + 8
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, sign)
	b = binary.BigEndian.AppendUint16(b, uint16(len(fraction)))
	weight := (len(whole) - 1) / 4
	digit := func(text string) {
		d := uint16(0)
		for i := range len(text) {
			d = 10*d + uint16(text[i]-'0')
		}
		if d == 0 && len(b) == first {
			weight-- // the first is none of 0
			return
		}
		b = binary.BigEndian.AppendUint16(b, d)
	}
	for i := 0; i < len(whole); {
		n := (len(whole)-i-1)%4 + 1
		digit(whole[i : i+n])
		i += n
	}
	for len(fraction) > 0 {
		n := min(4, len(fraction))
		digit((fraction[:n] + "000")[:4])
		fraction = fraction[n:]
	}
	for len(b) > first && b[len(b)-1] == 0 && b[len(b)-2] == 0 {
		b = b[:len(b)-2]
	}
	if len(b) == first {
		weight = 0
		binary.BigEndian.PutUint16(b[first-4:], 0) // there is no -0
	}
	binary.BigEndian.PutUint16(b[first-8:], uint16((len(b)-first)/2))
	binary.BigEndian.PutUint16(b[first-6:], uint16(weight))
	return b, true
}

// textArray is an array as its text:
// https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
func textArray(columnType string, values []any, width int) (string, error) {
	a := array{text: []byte{'{'}, bytes: columnType == "bytea"}
	for i := 0; i < len(values); i += width {
		if i > 0 {
			a.text = append(a.text, ',')
		}
		if err := a.add(values[i]); err != nil {
			return "", err
		}
	}
	return string(append(a.text, '}')), nil
}

// array is the text of an array.
type array struct {
	text  []byte
	bytes bool // its elements are bytea
}

func (a *array) add(value any) error {
	converted, err := driver.DefaultParameterConverter.ConvertValue(value)
	if err != nil {
		return fmt.Errorf("converting a value of type %T: %w", value, err)
	}
	switch v := converted.(type) {
	case nil:
		a.text = append(a.text, "NULL"...)
	case int64:
		a.text = strconv.AppendInt(a.text, v, 10)
	case float64:
		a.text = strconv.AppendFloat(a.text, v, 'g', -1, 64)
	case bool:
		a.text = strconv.AppendBool(a.text, v)
	case time.Time:
		a.quote(string(pq.FormatTimestamp(v)))
	case string:
		if a.bytes {
			a.addBytes([]byte(v))
		} else {
			a.quote(v)
		}
	case []byte:
		switch {
		case v == nil: // as everywhere else
			a.text = append(a.text, "NULL"...)
		case a.bytes:
			a.addBytes(v)
		default:
			a.quote(string(v))
		}
	default:
		return fmt.Errorf("a value of type %T", value)
	}
	return nil
}

// quote appends a text. A backslash keeps its meaning from what follows.
func (a *array) quote(text string) {
	a.text = append(a.text, '"')
	for {
		at := strings.IndexAny(text, `"\`)
		if at < 0 {
			break
		}
		a.text = append(append(a.text, text[:at]...), '\\', text[at])
		text = text[at+1:]
	}
	a.text = append(append(a.text, text...), '"')
}

func (a *array) addBytes(b []byte) {
	a.text = append(a.text, `"\\x`...)
	a.text = append(hex.AppendEncode(a.text, b), '"')
}
