// Package live brings prices to clients as they come into the log, and read models as
// they change.
//
// A [Hub] follows the partitions of price-events on which symbols lie that a stream
// watches. It keeps the last records of those symbols once for all: a [Stream] is a place
// in them and no queue, so a client that does not read costs no memory and holds up no
// other. A price leaves when it is in the log. What a read model says leaves when the
// generation that serves has folded the price, read in one snapshot with its position: so
// a client sees what a query would have answered there, and all who watch a symbol share
// the reading.
//
// The id of an event is a position: for each partition and each kind of event, the offset
// of the next record. A client that comes back with it, to whatever process, gets what it
// has not seen, from the log.
package live

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Failures that callers tell apart.
var (
	// ErrPosition is wrapped where the id that a client comes back with is none that a
	// stream of these symbols and events has.
	ErrPosition = errors.New("not a position of a stream with these symbols, provider and events")
	// ErrKind is wrapped where there is no such kind of event.
	ErrKind = errors.New("no such event")
	// ErrEnded is returned by Next where the stream ends before its client: the service
	// stops, or the log is another one. Clients come back and continue.
	ErrEnded = errors.New("the stream has ended: connect again")
)

// The names of events.
const (
	PriceEvent    = "price"
	AverageEvent  = "average"
	CandleEvent   = "candle"
	SnapshotEvent = "snapshot"
	MissedEvent   = "missed"
	ResetEvent    = "reset"
)

// Log is the log that a Hub follows.
type Log interface {
	log.Broker
	log.Follower
}

// Event is what a client gets.
type Event struct {
	Name string
	// ID is the position after the event, by which a client continues.
	ID string
	// Data is shared with the streams of other clients.
	Data *Data
}

// Data is the value of an event: a latestprices.Price, movingaverages.Average, Point,
// Snapshot, Missed or Reset.
type Data struct {
	Value any
	once  sync.Once
	text  []byte

	traceparent string
	traced      atomic.Int32
}

// maxTraced is for how many clients a price has a trace.
const maxTraced = 8

// Traceparent is the trace of the record that the value came with, for the first clients
// that it goes to; empty for the others, and where there is none.
func (d *Data) Traceparent() string {
	if d.traceparent == "" || d.traced.Add(1) > maxTraced {
		return ""
	}
	return d.traceparent
}

// Text renders the value, once for all clients: render must be the same in every call.
func (d *Data) Text(render func(any) []byte) []byte {
	d.once.Do(func() { d.text = render(d.Value) })
	return d.text
}

// Point is what an indicator says of a symbol.
type Point struct {
	Provider   schema.Provider
	Symbol     schema.Symbol
	Doc        projections.IndicatorDoc
	Parameters map[string]string
	projections.Point
}

// Snapshot is what the read models say of a symbol when a stream begins.
type Snapshot struct {
	Provider schema.Provider
	Symbol   schema.Symbol
	// Parts are what was asked for, in its order.
	Parts []SnapshotPart
}

// SnapshotPart is one kind of event in a Snapshot.
type SnapshotPart struct {
	// Name is what was asked for, such as price or average:20.
	Name string
	// Value is as that of the event; nil where there is none yet.
	Value any
}

// Missed says that a client was not given events, as it was slower than they came.
type Missed struct {
	// From and To are ids: a stream that continues from From gets the events, up to To.
	From, To string
	Count    int64
}

// Reset says that a stream cannot continue where its client was. Snapshots follow.
type Reset struct{ Reason string }
