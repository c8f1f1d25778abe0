package cmd

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"golang.org/x/term"
)

// tableColumns is how wide a table is at most on a terminal, where its words allow that.
const tableColumns = 100

// columns is how wide a line may be: as COLUMNS says; on a terminal, as wide as that is,
// and no more than tableColumns. Into a pipe or a file it is without limit, zero: there a row
// is a line, for grep and the like.
func (a *app) columns() int {
	if text, set := a.env("COLUMNS"); set {
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			return n
		}
	}
	if !isTerminal(a.stdout) {
		return 0
	}
	if width, _, err := term.GetSize(int(a.stdout.(*os.File).Fd())); err == nil && width > 0 {
		return min(width, tableColumns)
	}
	return tableColumns
}

// print writes value as JSON, or as the table that rows writes: tab-separated cells,
// of which the last may be a sentence.
func (a *app) print(output string, value any, rows func(io.Writer)) error {
	if output == jsonOutput {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	}
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	rows(w)
	if err := w.Flush(); err != nil {
		return err
	}
	columns := a.columns()
	var lines strings.Builder
	for line := range strings.Lines(table.String()) {
		lines.WriteString(wrapLastCell(line, columns))
	}
	_, err := io.WriteString(a.stdout, lines.String())
	return err
}

// wrapLastCell breaks the last cell of a line that is too wide at its spaces, and
// continues below where the cell begins. It leaves a line with a quoted cell, which is
// data, and one whose last cell begins so far to the right that nothing would be gained.
func wrapLastCell(line string, columns int) string {
	const leastWidth = 30
	line = strings.TrimRight(line, " \n")
	gap := strings.LastIndex(line, "  ") // tabwriter leaves two spaces or more between cells
	if columns == 0 || utf8.RuneCountInString(line) <= columns || gap < 0 || strings.Contains(line, `  "`) {
		return line + "\n"
	}
	begin := gap + len("  ")
	indent := utf8.RuneCountInString(line[:begin])
	if indent > columns-leastWidth {
		return line + "\n"
	}
	var b strings.Builder
	b.WriteString(line[:begin])
	column := indent
	for i, word := range strings.Fields(line[begin:]) {
		width := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+width > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += width
	}
	return b.String() + "\n"
}
