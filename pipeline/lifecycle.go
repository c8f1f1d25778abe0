package pipeline

import (
	"context"
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
