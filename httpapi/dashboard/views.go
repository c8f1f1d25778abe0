package dashboard

import (
	"slices"

	"github.com/pricemill/pricemill/schema"
)

// WatchList is the first page: the symbols that there are.
type WatchList struct {
	Frame
	// Window is the window of the averages, in prices.
	Window int
	Rows   []Row
	// Provider is that whose symbols are shown; empty for all.
	Provider string
	// Next leads to the next page; empty on the last one.
	Next string
}

// AllSimulated reports whether no price on the page is of a market.
func (l WatchList) AllSimulated() bool {
	return !slices.ContainsFunc(l.Rows, func(r Row) bool { return !r.Simulated })
}

func (WatchList) template() string { return "watchlist" }

// Row is a symbol at a provider.
type Row struct {
	Symbol    schema.Symbol
	Provider  schema.Provider
	Link      string // to the page of the symbol
	Simulated bool
	Quote
	// Average is empty where there is none.
	Average Figure
	// Sparkline is the points of the trend, in a box of SparklineWidth and
	// SparklineHeight.
	Sparkline string
}

// Quote is the newest price and what became of it.
type Quote struct {
	// Price has as many digits after the point as those around it.
	Price     string
	Timestamp schema.Time
	// Age is how old the price is, in words.
	Age string
	// Stale says that it is older than StaleAfter.
	Stale bool
	Change
}

// Figure is a number that is shown with few digits, and all of its digits.
type Figure struct{ Short, Exact string }

// Symbol is the page of a symbol.
type Symbol struct {
	Frame
	Symbol    schema.Symbol
	Provider  schema.Provider
	Simulated bool
	// Quote is zero where no price is known; then Known is false.
	Known bool
	Quote
	// Others are the providers that have the symbol too, with links.
	Others []Link
	Controls
	// Events are those of the stream that change what the page shows.
	Events string
	// Charts are the picture for wide and narrow, light and dark.
	Charts     Charts
	Indicators []Indicator
	History    []Past
	CSV        string // link to the history
	Parquet    string // link to the same
	Older      string // link to the next page of the history; empty on the last
}

func (Symbol) template() string { return "symbol" }

// Link leads somewhere.
type Link struct {
	Text, URL string
	Current   bool
}

// Controls choose what the chart shows.
type Controls struct {
	Periods   []Link
	Intervals []Choice
	Kinds     []Choice
	Lines     []Choice
	Window    int
	Period    string
}

// Choice is an option of a form.
type Choice struct {
	Name, Text string
	Chosen     bool
}

// Charts are the addresses of the picture.
type Charts struct{ Light, Dark, NarrowLight, NarrowDark string }

// Indicator is a value of now.
type Indicator struct {
	Name  string
	Value Figure
}

// Past is a line of the history.
type Past struct {
	Timestamp, ReceivedAt schema.Time
	Price                 string
}

// Failure is the page of an error.
type Failure struct {
	Frame
	Status int
	Detail string
	Back   string // the page to go back to
}

func (Failure) template() string { return "failure" }
