package declared

import (
	"maps"
	"slices"
)

// Functions are the names of functions.
func Functions() []string { return slices.Sorted(maps.Keys(functions)) }
