package requests

import (
	"context"
	"database/sql"

	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Detail is a request with all that is known of it.
type Detail struct {
	Request
	// AskedAt is when it was made, or, while only its outcome is known, when that came about.
	AskedAt schema.Time
	// Deadline is the zero value while only the outcome is known.
	Deadline schema.Time
	// SettledAt is when the outcome came about; the zero value in Pending.
	SettledAt schema.Time
	// FactID is the id of the event of the price in Observed, as corrections name it.
	FactID string
	// RawResponseID is the id of the provider's answer, if it gave one.
	RawResponseID string
	// Outcome is the record that tells the outcome; nil in Pending.
	Outcome *Place
}

// Place is where a record is in the log.
type Place struct {
	Topic     schema.Topic
	Partition int32
	Offset    int64
}

// Reader answers queries.
type Reader struct{ DB store.Querier }

type storedDetail struct {
	stored
	OutcomeID int64                  `db:"outcome_id"`
	AskedAt   schema.Time            `db:"asked_at"`
	Deadline  sql.Null[schema.Time]  `db:"deadline"`
	SettledAt sql.Null[schema.Time]  `db:"settled_at"`
	FactID    string                 `db:"fact_id"`
	RawID     string                 `db:"raw_response_id"`
	Topic     sql.Null[schema.Topic] `db:"topic"`
}

// Get returns a request, or projections.ErrNotFound.
func (r Reader) Get(ctx context.Context, id string) (Detail, error) {
	var s storedDetail
	epoch := rowid.EpochOf("outcome_id")
	err := r.DB.Get(ctx, &s, `SELECT request_id, provider, symbol, state, price, timestamp, received_at, code, reason, outcome_id,
		asked_at, deadline, settled_at, fact_id, raw_response_id,
		(SELECT name FROM topics WHERE topics.epoch = `+epoch+`) AS topic FROM requests WHERE request_id = $1`, id)
	if err != nil {
		return Detail{}, projections.QueryError("request "+id, err)
	}
	d := Detail{Request: s.request(), AskedAt: s.AskedAt, Deadline: s.Deadline.V, SettledAt: s.SettledAt.V, FactID: s.FactID, RawResponseID: s.RawID}
	if s.State != Pending && s.Topic.Valid {
		d.Outcome = &Place{s.Topic.V, rowid.PartitionOf(s.OutcomeID), rowid.Offset(s.OutcomeID)}
	}
	return d, nil
}

// WaitCaughtUp returns once every request that was made before is known; see
// projections.WaitCaughtUp.
func (r Reader) WaitCaughtUp(ctx context.Context) error {
	return projections.WaitCaughtUp(ctx, r.DB, Name, schema.FetchRequests)
}
