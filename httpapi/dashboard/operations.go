package dashboard

import (
	"github.com/pricemill/pricemill/schema"
)

// Jobs is the page of polling jobs, streams and backfills.
type Jobs struct {
	Frame
	Jobs      []Job
	Streams   []Stream
	Backfills []Backfill
	// Providers may be asked, Streamers stream. Default is the first choice of a form.
	Providers, Streamers []Choice
	// MinInterval is the shortest interval of a job, in seconds, and MaxSymbols how
	// many symbols a job may have.
	MinInterval, MaxSymbols int
}

func (Jobs) template() string { return "jobs" }

// Job is a polling job.
type Job struct {
	ID, Status, Symbols, Provider string
	Interval                      int
	// LastRun and NextRun are in words; empty for never.
	LastRun, NextRun               string
	Runs, Prices, Failures         int64
	Error                          string
	CanPause, CanResume, CanBeDone bool
}

// Stream is a streaming subscription.
type Stream struct {
	ID, Status, Symbols, Provider string
	LastMessage                   string
	Messages, Gaps, Missed        int64
	Reconnects                    int64
	Error                         string
	CanStop                       bool
}

// Backfill is a backfill.
type Backfill struct {
	ID, Status, Symbol, Provider string
	// Span and Reached are in words; Reached is empty for nothing yet.
	Span, Reached           string
	Calls, Prices, Repeated int64
	Error                   string
	CanStop                 bool
}

// Pipeline is the page of the stages and of what went wrong in them.
type Pipeline struct {
	Frame
	// Checks are those of /readyz that are not ok; Checked is how many there are.
	Checks  []Check
	Checked int
	Flow    []Flow
	Stages  []Stage
	Letters []Letter
	// MoreLetters says that there are older ones.
	MoreLetters bool
	Rebuilds    []Rebuild
	Projections []string
}

func (Pipeline) template() string { return "pipeline" }

// Check is a check of /readyz.
type Check struct{ Name, State, Reason string }

// Flow is a topic, the components that produce to it and those that consume from it.
type Flow struct {
	Topic     schema.Topic
	Producers []string
	Consumers []Consumer
}

// Consumer is a component that consumes from a topic.
type Consumer struct {
	Name string
	// Lag is how many records it has yet to apply, over all partitions.
	Lag    int64
	Halted bool
}

// Stage is how far a stage has come on a topic.
type Stage struct {
	Name       string
	Topic      schema.Topic
	Partitions int
	// Position, End and Lag are sums over the partitions.
	Position, End, Lag int64
	Moved              string // in words
	// Halts say on which partitions it halted, and why.
	Halts []string
}

// Letter is a dead letter.
type Letter struct {
	ID                        int64
	Stage, Place, Reason, Age string
	Bytes                     int64
	Retrying                  bool
}

// Rebuild is a rebuild of a projection.
type Rebuild struct {
	ID, Projection, State, Age string
	Done, Total, Rate          int64
	// Left is how long it still takes, in words; empty where that is not known.
	Left                             string
	Proof, Error                     string
	CanPromote, CanRollBack, CanStop bool
}
