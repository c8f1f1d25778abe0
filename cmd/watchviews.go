package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/pricemill/pricemill/httpapi/dashboard"
)

// jsonLines shows events as lines of JSON.
type jsonLines struct{ app *app }

func (v jsonLines) take(e pushEvent) (int, error) {
	if err := json.NewEncoder(v.app.stdout).Encode(e); err != nil {
		return 0, err
	}
	if e.Event == priceEvent {
		return 1, nil
	}
	return 0, nil
}

func (v jsonLines) tell(text string) { fmt.Fprintln(v.app.stderr, text) }
func (jsonLines) end()               {}

// plainLines shows each price as a line.
type plainLines struct {
	app    *app
	quotes quotes
	begun  bool
}

// plainLine is wide enough for what is usual; longer values move those after them.
const plainLine = "%-27s  %-10s  %14s  %9s  %16s\n"

func (v *plainLines) take(e pushEvent) (int, error) {
	of, priced, err := v.quotes.take(e)
	if err != nil || !priced {
		return 0, err
	}
	if !v.begun {
		v.begun = true
		if of.Simulated {
			fmt.Fprintln(v.app.stderr, simulatedNote)
		}
		if _, err := fmt.Fprintf(v.app.stdout, plainLine, "TIMESTAMP", "SYMBOL", "PRICE", "CHANGE", "AVERAGE"); err != nil {
			return 0, err
		}
	}
	row := of.row()
	at, err := of.At.MarshalText()
	if err != nil {
		return 0, err
	}
	_, err = fmt.Fprintf(v.app.stdout, plainLine, at, row.symbol, row.price, row.change.Percent, row.average)
	return 1, err
}

func (v *plainLines) tell(text string) { fmt.Fprintln(v.app.stderr, text) }
func (*plainLines) end()               {}

// row is a quote as it is shown.
type row struct {
	symbol, price, average, age string
	change                      dashboard.Change
}

func (o *quote) row() row {
	r := row{symbol: o.Symbol, price: "-", average: "-", age: "-"}
	if o.FirstAt.IsZero() {
		r.change.Percent = "-"
		return r
	}
	digits := dashboard.Digits(o.Price, o.First)
	r.price = dashboard.Padded(o.Price, digits)
	r.change = dashboard.NewChange(o.Price, o.First, o.FirstAt, digits)
	if o.HasAverage {
		r.average = dashboard.NewFigure(o.Average, digits).Short
	}
	r.age = dashboard.Age(time.Since(o.At.Time))
	return r
}

const (
	// redraw is how often a table is drawn at the most, and renew how often at the least,
	// since prices age.
	redraw, renew = 100 * time.Millisecond, time.Second
	// maxTable is how wide a table is at the most, in columns.
	maxTable = 100
)

// liveTable is a table that is drawn over itself.
type liveTable struct {
	out    io.Writer
	colour bool
	stop   context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	quotes quotes
	order  []string
	said   string
	drawn  int // lines
	stale  bool
}

func newLiveTable(ctx context.Context, out io.Writer, env func(string) (string, bool)) *liveTable {
	ctx, stop := context.WithCancel(ctx)
	off, _ := env("NO_COLOR")
	t := &liveTable{out: out, colour: off == "", stop: stop, done: make(chan struct{}), quotes: quotes{}}
	go t.run(ctx)
	return t
}

func (t *liveTable) run(ctx context.Context) {
	defer close(t.done)
	soon, late := time.NewTicker(redraw), time.NewTicker(renew)
	defer soon.Stop()
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			t.draw(true)
			return
		case <-soon.C:
			t.draw(false)
		case <-late.C:
			t.draw(true)
		}
	}
}

// take implements viewer.
func (t *liveTable) take(e pushEvent) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of, priced, err := t.quotes.take(e)
	if err != nil || of == nil {
		return 0, err
	}
	if !slices.Contains(t.order, of.Symbol) {
		t.order = append(t.order, of.Symbol)
	}
	t.stale = true
	if priced {
		return 1, nil
	}
	return 0, nil
}

// tell implements viewer.
func (t *liveTable) tell(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said, t.stale = time.Now().UTC().Format("15:04:05")+" UTC: "+text, true
}

// end implements viewer. The last state of the table stays.
func (t *liveTable) end() {
	t.stop()
	<-t.done
}

// draw draws the table where it has changed, or in any case.
func (t *liveTable) draw(always bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) == 0 || !t.stale && !always {
		return
	}
	t.stale = false
	width, height := t.size()
	lines := t.lines(width, height)
	var screen strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&screen, "\x1b[%dA", t.drawn)
	}
	for _, line := range lines {
		screen.WriteString("\r\x1b[2K" + line + "\n")
	}
	screen.WriteString("\x1b[J") // what was below, where there are fewer lines now
	t.drawn = len(lines)
	_, _ = io.WriteString(t.out, screen.String()) // a terminal that is gone ends the program anyway
}

// size is that of the terminal, in columns and lines.
func (t *liveTable) size() (width, height int) {
	const standardWidth, standardHeight = 80, 24
	if f, ok := t.out.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
			return min(width, maxTable), height
		}
	}
	return standardWidth, standardHeight
}

// lines are those of the table: a title, symbols, and what is to be said.
func (t *liveTable) lines(width, height int) []string {
	const others = 3 // the title, what is said, and the line of the cursor
	shown := t.order
	var notes []string
	if most := max(1, height-others); len(shown) > most {
		notes = append(notes, fmt.Sprintf("and %d more", len(shown)-most))
		shown = shown[:most]
	}
	table := [][]string{{"SYMBOL", "PRICE", "CHANGE", "", "AVERAGE", "AGE"}}
	directions := []dashboard.Direction{""}
	simulated := false
	for _, symbol := range shown {
		of := t.quotes[symbol]
		r := of.row()
		table = append(table, []string{r.symbol, r.price, r.change.Text, r.change.Percent, r.average, r.age})
		directions = append(directions, r.change.Direction)
		simulated = simulated || of.Simulated
	}
	if simulated {
		notes = append(notes, "simulated prices")
	}
	if t.said != "" {
		notes = append(notes, t.said)
	}
	lines := columns(table, width)
	for i, direction := range directions {
		lines[i] = t.coloured(lines[i], direction)
	}
	if len(notes) > 0 {
		lines = append(lines, cut(strings.Join(notes, "; "), width))
	}
	return lines
}

// coloured is a line in the colour of a direction.
func (t *liveTable) coloured(line string, direction dashboard.Direction) string {
	code := map[dashboard.Direction]string{dashboard.Up: "32", dashboard.Down: "31"}[direction]
	if !t.colour || code == "" {
		return line
	}
	return "\x1b[" + code + "m" + line + "\x1b[0m"
}

// columns aligns cells: the first column to the left, numbers to the right.
func columns(table [][]string, width int) []string {
	widths := make([]int, len(table[0]))
	for _, cells := range table {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, len(table))
	for n, cells := range table {
		var line strings.Builder
		for i, cell := range cells {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch i {
			case 0:
				line.WriteString(cell + space)
			default:
				line.WriteString("  " + space + cell)
			}
		}
		lines[n] = cut(strings.TrimRight(line.String(), " "), width)
	}
	return lines
}

// cut shortens a text to so many characters.
func cut(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(runes[:width])
	}
	return text
}
