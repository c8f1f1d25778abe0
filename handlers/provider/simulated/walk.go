package simulated

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// walk is a random walk without memory. A true one would have to add up every
// step since the beginning; this one adds noise of 17 periods, the k-th 2^k
// slots long and 2^(k/2) times as strong, which wanders like it over up to
// 2^16 slots and stays within 18 % of the base price forever, so above zero.
//
// All of it is integer arithmetic: floats may differ between processors.
type walk struct {
	seed uint64
	slot int64 // µs
	// period is how long a symbol of a stream takes for one trade, in µs.
	period int64
	tick   int64 // in units of 10^-scale
	// scale is the number of fractional digits.
	scale int
	unit  int64 // 10^scale
}

const (
	octaves      = 17
	minBase      = 10  // the least and
	maxBase      = 990 // the greatest base price, in whole units
	ppm          = 1_000_000
	evenStep     = 200 // ppm: the strength of period 0
	oddStep      = 283 // evenStep × √2
	maxTickScale = 8

	minTradeEvery = 10 * time.Millisecond
	// A stream that tells nothing for longer could be taken for a broken one.
	maxTradeEvery = 10 * time.Second
)

func newWalk(seed uint64, slot, period time.Duration, tickSize schema.Decimal) (walk, error) {
	w := walk{seed: seed, slot: slot.Microseconds(), period: period.Microseconds()}
	var errs []error
	if period < minTradeEvery || period > maxTradeEvery {
		errs = append(errs, fmt.Errorf("trade every: %v is not within %v and %v", period, minTradeEvery, maxTradeEvery))
	}
	if w.slot < 1 {
		errs = append(errs, fmt.Errorf("slot: %v is less than 1 µs", slot))
	}
	whole, fraction, _ := strings.Cut(tickSize.String(), ".")
	w.scale = len(fraction)
	w.unit = 1
	for range min(w.scale, maxTickScale) {
		w.unit *= 10
	}
	if tickSize.Sign() <= 0 || tickSize.Cmp(schema.MustDecimal("1")) > 0 || w.scale > maxTickScale {
		errs = append(errs, fmt.Errorf("tick size: %s is not within 0 and 1 with at most %d fractional digits", tickSize, maxTickScale))
	} else if tick, err := strconv.ParseInt(whole+fraction, 10, 64); err != nil {
		errs = append(errs, fmt.Errorf("tick size: %w", err))
	} else {
		w.tick = tick
	}
	return w, errors.Join(errs...)
}

// own is the seed of a symbol.
func (w walk) own(symbol schema.Symbol) uint64 {
	hash := fnv.New64a()
	hash.Write([]byte(symbol)) // never fails
	return mix(w.seed ^ mix(hash.Sum64()))
}

// price is the price of a symbol at a time, as decimal text.
func (w walk) price(symbol schema.Symbol, at time.Time) string { return w.near(symbol, at, 0) }

// near is a price that is off by so many ppm of the symbol's base price.
func (w walk) near(symbol schema.Symbol, at time.Time, off int64) string {
	own := w.own(symbol)
	// The largest product, 990 × 10^8 units × 180,000 ppm, is well within 63 bits.
	base := (minBase*100 + int64(own%((maxBase-minBase)*100))) * w.unit / 100
	micros := at.UnixMicro()
	price := base + base*(w.deviation(own, floorDiv(micros, w.slot))+off)/ppm
	return w.format(max(price/w.tick, 1) * w.tick)
}

// deviation from the base price, in ppm.
func (w walk) deviation(own uint64, slot int64) int64 {
	var sum int64
	for k := range octaves {
		strength := int64(evenStep) << (k / 2)
		if k%2 == 1 {
			strength = oddStep << (k / 2)
		}
		period := int64(1) << k
		index := floorDiv(slot, period)
		into := slot - index*period
		left, right := noise(own, k, index, strength), noise(own, k, index+1, strength)
		sum += (left*(period-into) + right*into) / period
	}
	return sum
}

// noise is evenly spread over -strength to strength.
func noise(own uint64, octave int, index, strength int64) int64 {
	random := mix(own ^ mix(uint64(index)<<5|uint64(octave)))
	return int64(random%uint64(2*strength+1)) - strength
}

// mix is the finalizer of SplitMix64: each bit of the answer depends on all of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// floorDiv rounds down also before 1970, where Go's division rounds up.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// format writes a count of units of 10^-scale with all its fractional digits.
func (w walk) format(units int64) string {
	if w.scale == 0 {
		return strconv.FormatInt(units, 10)
	}
	return fmt.Sprintf("%d.%0*d", units/w.unit, w.scale, units%w.unit)
}
