package chart

import "time"

// Interval is the length of a bar and its name in requests.
type Interval struct {
	Name   string
	Length time.Duration
}

// Intervals are those that a chart may have, the shortest first.
var Intervals = []Interval{{"1s", time.Second}, {"10s", 10 * time.Second}, {"1m", time.Minute}, {"5m", 5 * time.Minute},
	{"1h", time.Hour}, {"1d", 24 * time.Hour}}

// usualBars is about how many bars a chart has if its interval is not given.
const usualBars = 150

// Fitting returns the shortest interval of which a period has not much more than
// usualBars, or the longest there is.
func Fitting(period time.Duration) Interval {
	for _, interval := range Intervals {
		if period <= usualBars*interval.Length {
			return interval
		}
	}
	return Intervals[len(Intervals)-1]
}

// Named returns the interval of a name.
func Named(name string) (Interval, bool) {
	for _, interval := range Intervals {
		if interval.Name == name {
			return interval, true
		}
	}
	return Interval{}, false
}
