package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

const head = `Notices of what is linked into pricemill.

The source of each Go module is what "go mod download NAME@VERSION" fetches; nothing
in it was changed. Names that begin with "npm:" are packages of the npm registry
that a Go module embeds.

`

var rule = strings.Repeat("-", 80) + "\n"

// render lists the components, each with its licences, and then every text once,
// under the names of all whose text it is.
func render(all []*component) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(head)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	var texts []string
	owners := map[string][]string{}
	for _, c := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.name, c.version, strings.Join(c.licences, ", "))
		for _, t := range c.texts {
			if !slices.Contains(texts, t.content) {
				texts = append(texts, t.content)
			}
			owners[t.content] = append(owners[t.content], fmt.Sprintf("%s %s: %s\n", c.name, c.version, t.file))
		}
	}
	if err := table.Flush(); err != nil {
		return nil, err
	}
	for _, content := range texts {
		b.WriteString("\n" + rule + strings.Join(owners[content], "") + rule + "\n" + content)
	}
	return b.Bytes(), nil
}
