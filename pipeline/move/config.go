package move

import (
	"context"
	"errors"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Cluster is the Kafka cluster that a log is moved to.
type Cluster interface {
	log.Broker
	// DeleteTopics deletes topics with all their records.
	DeleteTopics(ctx context.Context, topics []schema.Topic) error
}

// Choice is what comes along of the projections.
type Choice interface {
	// Stage reports whether the positions and dead letters of a stage come along.
	Stage(name string) bool
	// Generation reports whether a generation comes along.
	Generation(projection string, number int64) bool
	// Spare reports whether a table is that of a generation that does not.
	Spare(table string) bool
	// Cancelled is the state of a rebuild whose generation does not, by the one it has.
	Cancelled(state string) string
	// Make makes those tables in the target, unless they are there, with the rows of
	// generations.
	Make(ctx context.Context, target *store.Store) error
	// Drop drops what Make made, and all other generations.
	Drop(ctx context.Context, target *store.Store) error
}

// Config says what to move, and where to. All but Cluster, Step and Progress is required.
type Config struct {
	// Source is the database to be read, and Log the log in it.
	Source *store.Store
	Log    log.Broker
	// Target is the database to be filled.
	Target *store.Store
	// TargetLog is the log in the database; see store.RecordLog.
	TargetLog string
	// TargetTable is the log in the target, where it stays a table.
	TargetTable log.Broker
	// Cluster connects to Kafka, where topics are created with so many partitions. Nil: the
	// log stays a table.
	Cluster func(ctx context.Context, partitions int32) (Cluster, error)
	Choice  Choice
	// Step is told what is being done, and Progress how many rows or records were moved or
	// compared since.
	Step     func(what string)
	Progress func(n int)
}

// Start is how a move began.
type Start string

const (
	// Began: the target was empty.
	Began Start = "new"
	// Resumed: an interrupted move from the same state of the source was continued.
	Resumed Start = "continued"
	// Restarted: an interrupted move started over, since the source was used meanwhile.
	Restarted Start = "restarted"
	// Finished: the move was finished before, and nothing was done.
	Finished Start = "finished"
)

// Result is what a move did.
type Result struct {
	Start  Start        `json:"start"`
	Tables []TableCount `json:"tables"`
	Topics []TopicCount `json:"topics"`
	// Left are tables with rows that stay in the source.
	Left []LeftTable `json:"left"`
}

// TableCount is how many rows of a table there are in the target.
type TableCount struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// TopicCount is how many records of a topic there are in the target.
type TopicCount struct {
	Topic      schema.Topic `json:"topic"`
	Partitions int32        `json:"partitions"`
	Records    int64        `json:"records"`
}

// LeftTable is a table of which rows stay.
type LeftTable struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
	Why   string `json:"why"`
}

// Why a move is refused.
var (
	// ErrSource is wrapped where the source cannot be moved as it is.
	ErrSource = errors.New("the source cannot be moved as it is")
	// ErrTarget is wrapped where the target is neither empty nor that of this move.
	ErrTarget = errors.New("the target cannot be used")
	// ErrChanged says that the source was used while it was moved.
	ErrChanged = errors.New("the source was written to while it was moved: stop every process that works on it, and move again")
	// ErrDiffers is wrapped where the target does not hold what the source does.
	ErrDiffers = errors.New("the target is not equal to the source")
)
