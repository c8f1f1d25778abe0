package csv

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Names of the options of a file.
const (
	// OptionSymbol, OptionPrice and OptionTime name the columns, as the header
	// does. Defaults: symbol, price, time.
	OptionSymbol = "symbol-column"
	OptionPrice  = "price-column"
	OptionTime   = "time-column"
	// OptionFormat is how times are written: rfc3339 (default), unix (seconds
	// since 1970), unix_ms (milliseconds), or Go's reference time, "Mon Jan 2
	// 15:04:05 2006 MST", written as the file writes it. A time without a zone
	// is UTC.
	OptionFormat = "time-format"
)

// options are those of a file after they were checked.
type options struct {
	symbol, price, time string
	parse               func(string) (schema.Time, error)
}

func readOptions(given map[string]string) (options, error) {
	text := map[string]string{OptionSymbol: "symbol", OptionPrice: "price", OptionTime: "time", OptionFormat: "rfc3339"}
	for name, value := range given {
		if _, known := text[name]; !known {
			return options{}, fmt.Errorf("%w: files of %s take no option %q: they take %q",
				pipeline.ErrOption, Name, name, slices.Sorted(maps.Keys(text)))
		}
		text[name] = value
	}
	parse, err := timeParser(text[OptionFormat])
	return options{text[OptionSymbol], text[OptionPrice], text[OptionTime], parse}, err
}

// timeParser is the meaning of OptionFormat.
func timeParser(format string) (func(string) (schema.Time, error), error) {
	switch format {
	case "rfc3339":
		return schema.ParseTime, nil
	case "unix":
		return sinceEpoch("seconds", 1, func(n int64) time.Time { return time.Unix(n, 0) }), nil
	case "unix_ms":
		return sinceEpoch("milliseconds", 1000, time.UnixMilli), nil
	}
	// A layout that writes two times alike reads none.
	early := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	late := time.Date(2022, 11, 30, 19, 48, 57, 0, time.UTC)
	if early.Format(format) == late.Format(format) {
		return nil, fmt.Errorf("%w: %s %q is none of rfc3339, unix, unix_ms, "+
			`and holds nothing of Go's reference time, "Mon Jan 2 15:04:05 2006 MST"`, pipeline.ErrOption, OptionFormat, format)
	}
	return func(text string) (schema.Time, error) {
		t, err := time.Parse(format, text)
		if err != nil {
			return schema.Time{}, fmt.Errorf("reading time %.40q: not like %q", text, format)
		}
		return schema.NewTime(t), nil
	}, nil
}

// lastSecond is that of the year 9999; the time package counts in a circle.
const lastSecond = 253_402_300_799

func sinceEpoch(unit string, perSecond int64, at func(int64) time.Time) func(string) (schema.Time, error) {
	return func(text string) (schema.Time, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n > lastSecond*perSecond || n < -lastSecond*perSecond {
			return schema.Time{}, fmt.Errorf("reading time %.40q: not in %s since 1970", text, unit)
		}
		return schema.NewTime(at(n)), nil
	}
}

// columns are where the fields lie in a row.
type columns struct{ symbol, price, time int }

// find looks the columns up in the header.
func (o options) find(header []string) (columns, error) {
	var missing error
	index := func(option, name string) int {
		i := slices.Index(header, name)
		if i >= 0 && slices.Contains(header[i+1:], name) {
			missing = fmt.Errorf("%w: %s: two columns are named %.40q", pipeline.ErrOption, option, name)
		} else if i < 0 && missing == nil {
			missing = fmt.Errorf("%w: %s: there is no column %.40q; there are %.300s",
				pipeline.ErrOption, option, name, `"`+strings.Join(header, `", "`)+`"`)
		}
		return i
	}
	found := columns{index(OptionSymbol, o.symbol), index(OptionPrice, o.price), index(OptionTime, o.time)}
	return found, missing
}
