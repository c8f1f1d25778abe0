// Package parquet writes and reads tables as Parquet files, which pandas, DuckDB and
// Polars read without being told anything: prices are exact decimals and times are
// instants.
package parquet

import (
	"fmt"
	"math/big"

	"github.com/pricemill/pricemill/schema"
)

// Magic is how a Parquet file begins.
const Magic = "PAR1"

// Media is the type of a Parquet file in HTTP.
const Media = "application/vnd.apache.parquet"

// Type is what a column holds.
type Type int

// The types of columns. As Parquet has them, Decimal is DECIMAL(36, 18) and Time is
// TIMESTAMP(MICROS) in UTC.
const (
	Text Type = iota
	Int
	Decimal
	Time
)

// Column describes one column.
type Column struct {
	Name string
	Type Type
	// Optional says that a row may be without a value.
	Optional bool
}

// Precision is how many digits a decimal has, of which schema.MaxFractionDigits come
// after the point.
const Precision = schema.MaxIntegerDigits + schema.MaxFractionDigits

// decimalBytes is how many bytes a decimal takes: 10^36 has 120 bits, and a sign.
const decimalBytes = 16

// decimalLimit is 10^Precision, in units of the last place.
var decimalLimit = new(big.Int).Exp(big.NewInt(10), big.NewInt(Precision), nil)

// encodeDecimal is the two's complement, the most significant byte first.
func encodeDecimal(d schema.Decimal) ([]byte, error) {
	units := d.Units()
	if units.CmpAbs(decimalLimit) >= 0 {
		return nil, fmt.Errorf("%s has more than %d digits before the point", d, schema.MaxIntegerDigits)
	}
	if units.Sign() < 0 {
		units.Add(units, new(big.Int).Lsh(big.NewInt(1), 8*decimalBytes))
	}
	return units.FillBytes(make([]byte, decimalBytes)), nil
}
