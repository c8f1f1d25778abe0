package remote

import (
	"net/http"
	"strconv"
	"time"
)

// maxRetryAfter bounds how long a service can keep us away with one answer: a
// mistake of its clock should not do so for years.
const maxRetryAfter = time.Hour

// RetryAfter is how long the service wants to be left alone, or 0 where it does
// not say: Retry-After in seconds or as a date (RFC 9110, 10.2.3), else the
// header that resetHeader names, in seconds since 1970.
func RetryAfter(header http.Header, resetHeader string, now time.Time) time.Duration {
	text := header.Get("Retry-After")
	if seconds, ok := parseSeconds(text); ok {
		return bounded(time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second)
	}
	if at, err := http.ParseTime(text); err == nil {
		return bounded(at.Sub(now))
	}
	if resetHeader == "" {
		return 0
	}
	if seconds, ok := parseSeconds(header.Get(resetHeader)); ok {
		return bounded(time.Unix(seconds, 0).Sub(now))
	}
	return 0
}

// maxSeconds is far beyond any date, and far below where durations overflow.
const maxSeconds = 1 << 40

func parseSeconds(text string) (int64, bool) {
	seconds, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, false
	}
	return int64(min(seconds, maxSeconds)), true
}

func bounded(d time.Duration) time.Duration { return max(0, min(d, maxRetryAfter)) }
