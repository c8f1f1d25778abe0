// Package failpoint names the moments at which a fault shows whether anything is
// lost or doubled, for tests to put faults there.
//
// The program as it is built for use knows nothing of them: Hit is empty there,
// and the compiler leaves no trace of it. Built with the tag failpoints, a test
// arms a point in its own process by Arm (see pipelinetest.Fail), and in one that
// it starts by the environment (see Variable).
package failpoint

// Point is a moment between two steps that belong together. A Hit of it that
// returns an error has failed there, and the caller continues as it would have if
// the second step had failed.
type Point string

// The points.
const (
	// StageApplied is inside the transaction of a batch: its effects and the
	// events that follow are written, and nothing is committed.
	StageApplied Point = "stage.applied"
	// StageCommitted is behind the transactions of a batch and before its
	// acknowledgement. An error has the batch delivered again.
	StageCommitted Point = "stage.committed"
	// StagePrepared is where a Preparer has asked the world, and nothing of the
	// answers is stored.
	StagePrepared Point = "stage.prepared"
	// StageAssigned is where the positions of assigned partitions are read, and
	// nothing of them is consumed yet.
	StageAssigned Point = "stage.assigned"

	// StoreCommitting is at the end of any writing transaction, of whatever part.
	// An error is a commit without an answer that did not happen.
	StoreCommitting Point = "store.committing"
	// StoreCommitted is behind the commit. An error is the same, but it happened.
	StoreCommitted Point = "store.committed"
	// StoreInserting is behind each statement of an insert of many rows: some of them
	// are written, or all.
	StoreInserting Point = "store.inserting"
	// StoreMoving is where events that wait have been taken out of a chain that
	// is carried over or renamed, and are in no other yet.
	StoreMoving Point = "store.moving"

	// RelayAcked is where the log has acknowledged what the relay sent, and the
	// outbox still holds it.
	RelayAcked Point = "relay.acked"
	// AppendSent is where a part of the events of an Append is acknowledged.
	AppendSent Point = "append.sent"
	// SenderAnswered is where a broker has answered a request of the sender. An
	// error is a connection that broke before the answer came, and after the
	// append.
	SenderAnswered Point = "sender.answered"
	// SubscriberSetup is where a member of a consumer group was assigned
	// partitions, and nothing is known about them.
	SubscriberSetup Point = "subscriber.setup"

	// FetchAnswered is where providers have answered, and no outcome is stored.
	FetchAnswered Point = "fetch.answered"
)

// All returns all points.
func All() []Point {
	return []Point{StageApplied, StageCommitted, StagePrepared, StageAssigned, StoreCommitting, StoreCommitted, StoreInserting,
		StoreMoving, RelayAcked, AppendSent, SenderAnswered, SubscriberSetup, FetchAnswered}
}

// Variable arms points in a process from its start on, each once:
//
//	PRICEMILL_FAILPOINTS=relay.acked=kill@37,store.committed=error@5/20
//
// kill ends the process by SIGKILL, panic panics, error fails, stall:30s waits
// that long, whatever the context says. @37 is the 37th hit alone, @5/20 the
// 5th and every 20th after it; without one it is each hit. Whenever something
// is done, a line of JSON on stderr says so, with the message Message.
const Variable = "PRICEMILL_FAILPOINTS"

// Message is that of the lines on stderr.
const Message = "failpoint"
