package requests

import "github.com/pricemill/pricemill/schema"

// State is how far a fetch request has come.
type State string

// The states of a request. All but Pending are final.
const (
	Pending   State = "pending"
	Observed  State = "observed"  // a new price was read from the answer
	Unchanged State = "unchanged" // the answer repeats the price already known
	Rejected  State = "rejected"  // there is an answer but no price in it
	Failed    State = "failed"    // there is no answer
)

// Request is a fetch request and what became of it.
type Request struct {
	RequestID string          `db:"request_id"`
	Provider  schema.Provider `db:"provider"`
	Symbol    schema.Symbol   `db:"symbol"`
	State     State           `db:"state"`
	// Price, Timestamp and ReceivedAt are set in Observed and Unchanged.
	Price      schema.Decimal `db:"price"`
	Timestamp  schema.Time    `db:"timestamp"`
	ReceivedAt schema.Time    `db:"received_at"`
	// Code and Reason are set in Rejected and Failed.
	Code   schema.Code `db:"code"`
	Reason string      `db:"reason"`
}
