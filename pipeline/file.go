package pipeline

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/pricemill/pricemill/schema"
)

// FileReader is a Provider whose quotes may also come from files.
type FileReader interface {
	Provider
	// ReadFile reads a file from its start, in bounded memory. The options are
	// the provider's own, by name; ErrOption is wrapped where one is unknown or
	// wrong, or does not fit the file.
	//
	// A *LineError says what is wrong with one line, and reading continues behind
	// it. Any other error is the last. What comes without an error holds a price
	// for Normalize, or nothing of interest.
	ReadFile(r io.Reader, options map[string]string) iter.Seq2[FileLine, error]
}

// FileLine is what a line of a file holds; a line that holds several quotes makes
// several, one after the other.
type FileLine struct {
	// Number counts from 1.
	Number int
	// ID is that of the event: the same one whenever and in whatever file the
	// fact is read again. It is empty where the line holds no quote.
	ID string
	// Equal is the id of the first line of the file that told the same, where this
	// one is another: lines without ids of their own are told apart by how many
	// equal ones came before.
	Equal string
	// Rounded says that a number had more digits than are kept.
	Rounded bool
	// Bar says that the quote is a bar, which is not taken before its end.
	Bar bool
	// Notes are for the person who ingests the file: what is assumed from this line on.
	Notes []string
	// Quote carries no time of this process: ReceivedAt is when the quote was
	// recorded, or else the time of its price, so that it is the same each time.
	Quote schema.QuoteFetched
}

// ErrOption is wrapped where an option of a file is wrong.
var ErrOption = errors.New("wrong option")

// LineError says why a line holds no quote although it should.
type LineError struct {
	Line   int    // from 1
	Column string // its name; empty where there is none to name
	Err    error
}

func (e *LineError) Error() string {
	if e.Column != "" {
		return fmt.Sprintf("line %d, column %q: %v", e.Line, e.Column, e.Err)
	}
	return fmt.Sprintf("line %d: %v", e.Line, e.Err)
}

func (e *LineError) Unwrap() error { return e.Err }
