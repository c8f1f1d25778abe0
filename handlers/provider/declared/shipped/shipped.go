// Package shipped registers the providers whose definitions are part of the program. None
// is asked unless a request or a setting names it.
package shipped

import (
	"embed"
	"fmt"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
)

//go:embed *.yaml
var files embed.FS

func init() {
	for _, d := range definitions() {
		pipeline.RegisterProvider(d.Module())
	}
}

// definitions reads the files. A fault in one is a fault of this program, which the tests
// of this package find.
func definitions() []*declared.Definition {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("reading the definitions of this program: %v", err))
	}
	var all []*declared.Definition
	for _, entry := range entries {
		text, err := files.ReadFile(entry.Name())
		if err != nil {
			panic(fmt.Sprintf("reading the definitions of this program: %v", err))
		}
		d, err := declared.Parse(text)
		if err != nil {
			panic(fmt.Sprintf("the definition %s of this program: %v", entry.Name(), err))
		}
		all = append(all, d)
	}
	return all
}
