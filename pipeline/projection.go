package pipeline

import (
	"context"
	"strconv"

	"github.com/pricemill/pricemill/schema"
)

// Projection folds events into a read model, one generation of it at a time.
// The fold is pure: no clock, no randomness, no I/O but its own tables.
type Projection interface {
	// Name is unique among projections, in kebab case: moving-averages.
	Name() string
	// Version rises whenever the same log would give other rows.
	Version() int
	// Consumes lists the types of the events that the fold wants.
	Consumes() []schema.EventType
	// TableNames lists the tables by their plain names; see Generation.Table.
	TableNames() []string
	// Tables is the DDL of one generation: its tables and their indexes.
	// Statements may use the column types of store.Types in braces, such as
	// {decimal}.
	Tables(g Generation) []string
	// Apply folds a batch into the tables of g. The rows are the same however
	// the log is cut into batches. Errors are as for Handler.Handle.
	Apply(ctx context.Context, tx *Tx, g Generation, in []Record) error
}

// OrderFree is a Projection whose rows are the same in whatever order the records
// come, so that a dead letter can be applied after later records. Of any other
// projection it takes a rebuild, which takes the record in its place.
type OrderFree interface {
	Projection
	// OrderFree does nothing.
	OrderFree()
}

// Generation is one build of a projection from the log.
type Generation struct {
	Projection string
	// Number counts the generations of a projection, from 1.
	Number int
	// Active is the one that readers see. There is one.
	Active bool
}

// Table is the name of a table of this generation: the active one has the
// plain name.
func (g Generation) Table(name string) string {
	if g.Active {
		return name
	}
	return name + "_g" + strconv.Itoa(g.Number)
}
