package pipeline

import (
	"context"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Handler turns records into the events that follow from them. It runs inside
// the transaction that also moves its positions and inserts those events into
// the outbox: all of it happens, or none.
type Handler interface {
	// Handle applies a batch. Records of one partition come in log order; the
	// effects must be the same however the log is cut into batches. It may run
	// again over the same records after a rollback, so what it remembers
	// belongs in Cache or in tables. Its work is set-based: a statement per
	// record is the slowest thing a handler can do.
	//
	// It returns the events that follow, each made with Record.Derive. An
	// error rolls the transaction back: Permanent sends the record that caused
	// it to the dead letters (the stage finds it by halving the batch), any
	// other error is tried again after a pause, forever.
	//
	// Lanes run concurrently, so Handle must be safe for concurrent use.
	Handle(ctx context.Context, tx *Tx, in []Record) (out []schema.Event, err error)
}

// Preparer is a Handler with work to do before the transaction, such as asking
// the world.
type Preparer interface {
	Handler
	// Prepare leaves its answers in the records' Prepared. It must return when
	// ctx is done. An error is treated as one of Handle.
	Prepare(ctx context.Context, in []Record) error
}

// Sequential is a Handler that may be right only where it gets the records of a
// partition in the order of the log. Others take a dead letter that is retried as
// if it came now.
type Sequential interface {
	Handler
	// RefusesLate says why it can take no record late, and what to do instead; nil
	// where it can.
	RefusesLate() error
}

// Refiller is a Handler whose tables also follow from events that its own work published, as
// those of a Runner: a request that was answered, a job that ran. Where the database was lost,
// Handle gets the records of the log again, and then Refill is told of those events.
type Refiller interface {
	Handler
	// RefillsFrom are the types of those events, on any topics.
	RefillsFrom() []schema.EventType
	// Refill changes the tables as the events say. Those of one partition come in log order.
	// It is called again with the same events where a refill was interrupted, so it must
	// come to the same result. It publishes nothing.
	Refill(ctx context.Context, tx *Tx, in []Record) error
}

// Runner is a Handler with work of its own besides records: a clock, a stream.
type Runner interface {
	// Run works until ctx is done and then returns nil. An error is logged,
	// and Run is called again after a pause. It runs in every process that has
	// the stage; what only one may do at a time, it claims in SQL.
	Run(ctx context.Context, emit Emitter) error
}

// Emitter publishes events that do not follow from a record.
type Emitter interface {
	// Querier reads what is committed, in no transaction: a Runner looks there
	// whether there is anything to do, so that an idle one writes nothing.
	store.Querier
	// Emit runs f in a transaction and puts the events it returns into the
	// outbox of that transaction. Each needs an ID and a Source. The tokens
	// name where the events will be in the log, in their order.
	Emit(ctx context.Context, f func(tx *Tx) ([]schema.Event, error)) ([]Token, error)
	// Append is as Appender.Append: straight into the log.
	Append(ctx context.Context, events []schema.Event) error
}
