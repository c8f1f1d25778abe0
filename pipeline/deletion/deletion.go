package deletion

import (
	"context"
	"errors"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// Config says what to delete, and where. All but Step and Progress is required, and either Table
// or Kafka; a plan needs neither Reason nor RequestedBy.
type Config struct {
	// Store is the database, and Table the log in it. Nothing else may work with them.
	Store *store.Store
	Table *table.Log
	// Kafka is the cluster that has the log, Cluster its id, and Groups how the names of consumer
	// groups of the installation begin.
	Kafka           *kafka.Broker
	Cluster, Groups string
	// Topics returns the topics as they are now.
	Topics func(ctx context.Context) (*topics.Set, error)
	// Subject is whose data are deleted.
	Subject schema.Subject
	// Reason says why, for people, and RequestedBy who asked for it.
	Reason, RequestedBy string
	// Keepers are the modules that keep data of providers in tables of their own.
	Keepers []pipeline.DataKeeper
	// TablesOf are the plain names of the tables of a projection; nil where this binary does not
	// have it.
	TablesOf func(projection string) []string
	Now      func() time.Time
	// Step is called before each transaction. An error ends the run, which can be continued.
	Step func(ctx context.Context, what string) error
	// Progress is told how many records were read since.
	Progress func(n int)
}

// Why a deletion is refused.
var (
	// ErrRefused is wrapped where the data cannot be deleted as things are.
	ErrRefused = errors.New("the data cannot be deleted")
	// ErrNothing says that there are no data of the provider, or of the symbol.
	ErrNothing = errors.New("there are no such data")
	// ErrOther is wrapped where another deletion is not finished.
	ErrOther = errors.New("another deletion was interrupted")
)

// Left is what is not deleted, and why.
type Left struct {
	What  string `json:"what"`
	Count int64  `json:"count"`
	Why   string `json:"why"`
}

// Rewritten is a topic on Kafka that is written again, with all its records.
type Rewritten struct {
	Topic   schema.Topic `json:"topic"`
	Records int64        `json:"records"`
	// Bytes is the size of keys, headers and values, uncompressed.
	Bytes int64 `json:"bytes"`
}

// Plan says what a deletion deletes.
type Plan struct {
	// Records are counted by topic, rows by table. Cleared rows stay, without data.
	Records map[schema.Topic]int64 `json:"records"`
	Rows    map[string]int64       `json:"rows"`
	Cleared map[string]int64       `json:"cleared"`
	// Emptied are the rows of tables that do not say whose data they hold, and Refilled the
	// stages that fill these again from the log, in the service.
	Emptied  map[string]int64 `json:"emptied"`
	Refilled []string         `json:"refilled"`
	Left     []Left           `json:"left"`
	// Rewritten are the topics on Kafka that are written again.
	Rewritten []Rewritten `json:"rewritten,omitempty"`
	// Asking are jobs, streams and backfills that still ask for the data.
	Asking []string `json:"asking"`
}

// Result is what a deletion did.
type Result struct {
	DeletionID string `json:"deletion_id"`
	Plan
	// Resumed says that an interrupted deletion was continued.
	Resumed bool `json:"resumed"`
}

// log is the log, whatever it is.
func (c Config) log() log.Broker {
	if c.Kafka != nil {
		return c.Kafka
	}
	return c.Table
}

func (c Config) withDefaults() Config {
	if c.Step == nil {
		c.Step = func(context.Context, string) error { return nil }
	}
	if c.Progress == nil {
		c.Progress = func(int) {}
	}
	return c
}
