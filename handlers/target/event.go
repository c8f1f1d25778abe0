package target

import (
	"encoding/json"
	"strconv"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/schema"
)

// Event is an event as CloudEvents 1.0 has it in JSON (github.com/cloudevents/spec).
type Event struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject"`
	Time        schema.Time     `json:"time"`
	ContentType string          `json:"datacontenttype"`
	Data        json.RawMessage `json:"data"`
}

// EventOf is the event of a record. Its data are those of the record, not copied.
func EventOf(r *pipeline.Record) Event {
	p := r.Event.Payload
	return Event{"1.0", r.Event.ID, r.Event.Source, string(p.EventType()), p.Key(), p.OccurredAt(), "application/json", r.Value}
}

// Place is where a record is in the log.
type Place struct {
	// Log names one partition of one incarnation of a topic: the topic's id, a slash and a
	// number. No two of them have the same name.
	Log string
	// Offset rises within a Log.
	Offset int64
}

// PlaceOf is the place of a record. It is an error where a record lies beyond what the
// ids of rows have room for.
func PlaceOf(r *pipeline.Record) (Place, error) {
	id, err := r.RowID(0)
	if err != nil {
		return Place{}, err
	}
	return Place{r.TopicID + "/" + strconv.FormatInt(rowid.Partition(id), 10), r.Offset}, nil
}
