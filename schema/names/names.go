// Package names says which name was meant where one is misspelt.
package names

import (
	"fmt"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Nearest is that of the names which differs least from a misspelt one; "" where
// there are none.
func Nearest[S ~string](misspelt string, known []S) string {
	best, distance := "", 0
	for _, k := range known {
		name := string(k)
		if d := levenshtein.ComputeDistance(misspelt, name); best == "" || d < distance {
			best, distance = name, d
		}
	}
	return best
}

// A name is near another one that begins with it, if it has at least minPrefix letters, or
// that differs from it in about one letter of nearShare.
const minPrefix, nearShare = 3, 3

// maxNear bounds the names that another one is looked for, in bytes: a longer one is none
// that someone misspelt, and comparing it takes time.
const maxNear = 100

// Hint ends a sentence that says that there is no such name: which one is meant, if one
// is near, and which there are.
func Hint[S ~string](misspelt string, known []S) string {
	if len(known) == 0 {
		return "there is none"
	}
	all := make([]string, len(known))
	for i, k := range known {
		all[i] = string(k)
	}
	list := strings.Join(all, ", ")
	if near := Meant(misspelt, known); near != "" {
		return fmt.Sprintf("did you mean %q? Known are %s", near, list)
	}
	return "known are " + list
}

// Meant is the name that is near a misspelt one, in capitals or not; "" where none is.
func Meant[S ~string](misspelt string, known []S) string {
	if len(misspelt) > maxNear {
		return ""
	}
	misspelt = strings.ToLower(misspelt)
	best, distance := "", max(1, (len(misspelt)+1)/nearShare)+1
	for _, k := range known {
		name := string(k)
		lower := strings.ToLower(name)
		d := levenshtein.ComputeDistance(misspelt, lower)
		if len(misspelt) >= minPrefix && strings.HasPrefix(lower, misspelt) {
			d = 1 // as near as one wrong letter
		}
		if d < distance {
			best, distance = name, d
		}
	}
	return best
}
