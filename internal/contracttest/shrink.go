package contracttest

import "slices"

// maxShrinks bounds how often a request is tried while it is made smaller.
const maxShrinks = 300

// Shrink leaves out of a request whatever fails does not need to be true.
func Shrink(r Request, fails func(Request) bool) Request {
	tries := 0
	try := func(smaller Request) bool {
		tries++
		if tries > maxShrinks || !fails(smaller) {
			return false
		}
		r = smaller
		return true
	}
	for progress := true; progress && tries < maxShrinks; {
		progress = false
		for i := len(r.Header) - 1; i >= 0; i-- {
			smaller := r
			smaller.Header = slices.Delete(slices.Clone(r.Header), i, i+1)
			progress = try(smaller) || progress
		}
		for i := len(r.Query) - 1; i >= 0; i-- {
			smaller := r
			smaller.Query = slices.Delete(slices.Clone(r.Query), i, i+1)
			progress = try(smaller) || progress
		}
		if r.Chunked {
			smaller := r
			smaller.Chunked = false
			progress = try(smaller) || progress
		}
		for size := len(r.Body); size > 0; size /= 2 {
			for from := 0; from+size <= len(r.Body); from += size {
				smaller := r
				smaller.Body = slices.Delete(slices.Clone(r.Body), from, from+size)
				progress = try(smaller) || progress
			}
		}
		if len(r.Body) == 0 && r.Body != nil {
			smaller := r
			smaller.Body = nil
			progress = try(smaller) || progress
		}
	}
	return r
}
