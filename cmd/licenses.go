package cmd

import (
	_ "embed"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// notices is what `make licenses` writes: a table of all that the program is linked
// with, and the texts of the licences and notices.
//
//go:embed notices.txt
var notices string

// noticesRule separates the table from the texts, and the texts from each other.
const noticesRule = "\n--------------------------------------------------------------------------------\n"

func newLicenses(a *app) *cobra.Command {
	var full bool
	c := &cobra.Command{
		Use:   "licenses",
		Short: "List the third-party software in this binary, with its licences",
		Long: `List the modules linked into this binary, with version and licences, and the
embedded browser assets. --full adds the texts of licences and notices.`,
		Example: "  pricemill licenses\n  pricemill licenses --full | less",
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			table, texts, _ := strings.Cut(notices, noticesRule)
			if _, err := fmt.Fprintln(a.stdout, strings.TrimSpace(table)); err != nil {
				return err
			}
			if err := printUnlisted(a.stdout, unlisted(table)); err != nil || !full {
				return err
			}
			_, err := io.WriteString(a.stdout, noticesRule+texts)
			return err
		},
	}
	c.Flags().BoolVar(&full, "full", false, "print the texts as well")
	return c
}

// unlisted are the modules of this binary that the table lacks. There are some only
// in a program that is pricemill with plugins: theirs, and other versions.
func unlisted(table string) []*debug.Module {
	listed := map[string]string{} // versions
	for line := range strings.Lines(table) {
		if words := strings.Fields(line); len(words) > 2 {
			listed[words[0]] = words[1]
		}
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	var missing []*debug.Module
	for _, m := range info.Deps {
		linked := m
		if m.Replace != nil {
			linked = m.Replace
		}
		if version, known := listed[linked.Path]; m.Path != pricemillModule && (!known || version != linked.Version) {
			missing = append(missing, linked)
		}
	}
	return missing
}

func printUnlisted(w io.Writer, modules []*debug.Module) error {
	if len(modules) == 0 {
		return nil
	}
	fmt.Fprint(w, "\nThis binary also has modules whose licences are not known here; see their sources:\n\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range modules {
		fmt.Fprintf(table, "%s\t%s\n", m.Path, m.Version)
	}
	return table.Flush()
}
