package cmd

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
)

func newConfig(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Print all settings, where each value comes from, secrets redacted",
		Long: `Print every setting by its environment variable, with its value, where the value
comes from, and what it is for. *** is a secret that is set.

Any secret can be read from a file: set NAME_FILE to its path. A newline at its
end is ignored.`,
		Example: "  pricemill config\n  DATABASE_URL_FILE=/run/secrets/database_url pricemill config",
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			k, err := a.values(&faults{}) // load has reported them
			if err != nil {
				return err
			}
			inFile := koanf.New(".")
			if path := a.fileOfSettings(); path != "" {
				if err := loadFile(inFile, path); err != nil {
					return err
				}
			}
			var rows bytes.Buffer
			w := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
			all := slices.Concat(settings, c.shownSettings())
			for _, s := range all {
				value, origin := k.String(s.key), a.origin(s, inFile)
				if !k.Exists(s.key) {
					value, origin = c.declaredValue(s, origin, a.fileOfSettings())
				}
				if s.secret && value != "" {
					value = "***"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", strings.ToUpper(s.key), oneLine(value), oneLine(origin))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			// What a setting means is below it: next to it, a line would be too wide.
			columns := a.columns()
			var text strings.Builder
			for i, row := range slices.Collect(strings.Lines(rows.String())) {
				text.WriteString(row)
				if i > 0 {
					text.WriteString(wrapLastCell("    "+all[i-1].doc, columns))
				}
			}
			_, err = io.WriteString(a.stdout, text.String())
			return err
		},
	}
}

// oneLine is the text, quoted if it would break a line or a cell of a table.
func oneLine(text string) string {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return strconv.Quote(text)
	}
	return text
}
