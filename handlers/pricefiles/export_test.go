package pricefiles

import "github.com/pricemill/pricemill/pipeline"

// File is what a handler writes to.
type File = file

// Wrap has a handler write to what f makes of each file.
func Wrap(h pipeline.Handler, f func(File) File) { h.(*handler).wrap = f }

// SetLimits sets the most bytes of a file, and of all of them.
func SetLimits(h pipeline.Handler, maxFile, maxDisk int64) {
	h.(*handler).maxFile, h.(*handler).maxDisk = maxFile, maxDisk
}
