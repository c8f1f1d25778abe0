package pipeline

import (
	"context"

	"github.com/pricemill/pricemill/schema"
)

// What a module may be besides a Handler, Runner, Projection or Provider. A module
// that has to let go of something at the end also has a Close, as io.Closer has it:
// it is called after all stages have stopped, the last started first.

// Validator is asked right after New, in every command: no I/O. All faults are
// best reported at once.
type Validator interface {
	Validate() error
}

// Starter is started by "pricemill serve" before any record comes, after the tables
// exist. An error ends the program.
type Starter interface {
	Start(ctx context.Context) error
}

// Checker is asked by /readyz, within a second. An error makes the process not
// ready.
type Checker interface {
	Check(ctx context.Context) error
}

// TableOwner is a handler or source with tables of its own. The DDL is run at each
// start, so it says IF NOT EXISTS; column types are those of store.Types in braces.
// The tables stay when the module is switched off.
type TableOwner interface {
	Tables() []string
}

// DataKeeper is a TableOwner whose tables hold what follows from the prices of a provider. It
// is what "pricemill delete-data" goes by.
type DataKeeper interface {
	TableOwner
	// DataTables are the names of those tables.
	DataTables() []string
	// DataOf is a condition in SQL, whose arguments are $1 and on, on the rows of a table
	// that hold data of a provider; of one symbol of it, unless symbol is empty.
	DataOf(table string, provider schema.Provider, symbol schema.Symbol) (condition string, args []any)
}
