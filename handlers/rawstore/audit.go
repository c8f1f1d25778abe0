package rawstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

var _ audit.Audited = handler{}

// kept is a row of raw_market_data.
type kept struct {
	ID        int64           `db:"id"`
	EventID   string          `db:"event_id"`
	Symbol    schema.Symbol   `db:"symbol"`
	Provider  schema.Provider `db:"provider"`
	Text      *string         `db:"raw_response"`
	Raw       []byte          `db:"raw_bytes"`
	Timestamp keptTime        `db:"timestamp"`
	RequestID string          `db:"request_id"`

	Definition string `db:"definition"`
}

// keptTime is a timestamp as it is kept, which may be none.
type keptTime struct {
	schema.Time
	readable bool
}

// Scan implements sql.Scanner. What cannot be read is a difference, not an error.
func (k *keptTime) Scan(src any) error {
	k.readable = k.Time.Scan(src) == nil
	return nil
}

// Audit implements audit.Audited: each answer that was applied is one row, byte
// for byte, or its event's id is that of another row; and there is no other row.
func (handler) Audit(_ context.Context, view *audit.View) (audit.Auditor, error) {
	return &auditor{view: view, topic: view.Topic(schema.RawQuotes), seen: map[int32]bool{}}, nil
}

type auditor struct {
	view  *audit.View
	topic store.Topic

	mu   sync.Mutex
	seen map[int32]bool // partitions whose rows were looked at
}

// Partition implements audit.Auditor. The ids of rows rise with the offsets of
// their records, so both are read in one order.
func (a *auditor) Partition(tp pipeline.TopicPartition) audit.PartitionAuditor {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[tp.Partition] = true
	first, last := rowid.Range(a.topic.Epoch, tp.Partition)
	return &partition{auditor: a, tp: tp, after: first - 1, last: last, oldest: a.view.Oldest(tp)}
}

// End implements audit.Auditor.
func (a *auditor) End(ctx context.Context) error {
	var total, ours int64
	if err := a.view.Get(ctx, &total, `SELECT COUNT(*) FROM raw_market_data`); err != nil {
		return fmt.Errorf("counting the answers that are kept: %w", err)
	}
	for part := range a.seen {
		first, last := rowid.Range(a.topic.Epoch, part)
		var n int64
		if err := a.view.Get(ctx, &n, `SELECT COUNT(*) FROM raw_market_data WHERE id BETWEEN $1 AND $2`, first, last); err != nil {
			return fmt.Errorf("counting the answers that are kept: %w", err)
		}
		ours += n
	}
	a.view.Finding.Count("rows", total)
	switch other := total - ours; {
	case other == 0:
	case a.view.Epochs(schema.RawQuotes) > 1:
		a.view.Finding.NotChecked("%d rows of raw_market_data are of records that the log no longer has", other)
	default:
		a.view.Finding.Add(other, 0, other, fmt.Sprintf("%d rows of raw_market_data are of no record of %s", other, schema.RawQuotes))
	}
	return nil
}

// partition is the work on one partition.
type partition struct {
	*auditor
	tp     pipeline.TopicPartition
	oldest int64
	// Rows after after, up to last, are still to be read.
	after, last int64
	page        []kept
	ended       bool
	repeats     []repeat
}

// repeat is an applied record that has no row.
type repeat struct {
	eventID string
	offset  int64
	events  int
}

const (
	rowPage    = 100 // an answer may be large
	repeatPage = 500
)

// Applied implements audit.PartitionAuditor.
func (p *partition) Applied(ctx context.Context, r *pipeline.Record, events int) error {
	id, err := r.RowID(0)
	if err != nil {
		return err
	}
	row, err := p.row(ctx, id)
	if err != nil {
		return err
	}
	if row == nil {
		p.repeats = append(p.repeats, repeat{r.Event.ID, r.Offset, events})
		if len(p.repeats) == repeatPage {
			return p.look(ctx)
		}
		return nil
	}
	p.compare(r, *row)
	switch {
	case events == 0:
		p.view.Missing("nothing in %s follows from the answer at offset %d of %s", schema.StoredQuotes, r.Offset, p.tp)
	case events > 1:
		p.view.Finding.Add(1, 0, int64(events-1), fmt.Sprintf("%d events follow from the answer at offset %d of %s", events, r.Offset, p.tp))
	}
	return nil
}

// compare holds a row against its record.
func (p *partition) compare(r *pipeline.Record, row kept) {
	quote := r.Event.Payload.(schema.QuoteFetched)
	text, raw := split(quote.RawResponse)
	wantText, isText := text.(string)
	wantRaw, _ := raw.([]byte)
	for _, column := range []struct {
		name string
		same bool
	}{
		{"event_id", row.EventID == r.Event.ID},
		{"symbol", row.Symbol == quote.Symbol},
		{"provider", row.Provider == quote.Provider},
		{"raw_response", (row.Text != nil) == isText && (row.Text == nil || *row.Text == wantText)},
		{"raw_bytes", string(row.Raw) == string(wantRaw)},
		{"timestamp", row.Timestamp.readable && row.Timestamp.Compare(quote.ReceivedAt) == 0},
		{"request_id", row.RequestID == quote.RequestID},
		{"definition", row.Definition == quote.Definition},
	} {
		if !column.same {
			p.view.Finding.Missing("raw_market_data id=%d: %s is not that of the answer at offset %d of %s", row.ID, column.name, r.Offset, p.tp)
		}
	}
}

// row returns the row with an id, if there is one, and says which of those before
// it have no record.
func (p *partition) row(ctx context.Context, id int64) (*kept, error) {
	for {
		if len(p.page) == 0 && !p.ended {
			err := p.view.Select(ctx, &p.page, `SELECT id, event_id, symbol, provider, raw_response, raw_bytes, timestamp, request_id, definition
				FROM raw_market_data WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3`, p.after, p.last, rowPage)
			if err != nil {
				return nil, fmt.Errorf("reading the answers that are kept: %w", err)
			}
			p.ended = len(p.page) < rowPage
		}
		if len(p.page) == 0 || p.page[0].ID > id {
			return nil, nil
		}
		row := p.page[0]
		p.after, p.page = row.ID, p.page[1:]
		if row.ID == id {
			return &row, nil
		}
		if offset := rowid.Offset(row.ID); offset < p.oldest {
			p.view.Finding.NotChecked("rows of raw_market_data are older than what the log holds of %s", p.tp)
		} else {
			p.view.Finding.Duplicate("raw_market_data id=%d is of offset %d of %s, where no answer was applied", row.ID, offset, p.tp)
		}
	}
}

// look finds the rows of events that came more than once.
func (p *partition) look(ctx context.Context) error {
	ids := make([]string, len(p.repeats))
	for i, r := range p.repeats {
		ids[i] = r.eventID
	}
	known, err := Known(ctx, p.view, ids)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(known))
	for _, id := range known {
		there[id] = true
	}
	for _, r := range p.repeats {
		switch {
		case !there[r.eventID]:
			there[r.eventID] = true // said once
			p.view.Finding.Missing("the answer at offset %d of %s, event %s, is not kept in raw_market_data", r.offset, p.tp, r.eventID)
		case r.events > 0 && p.view.Epochs(p.tp.Topic) == 1:
			// Else the row may be that of the epoch before, when its log lost its end.
			p.view.Finding.Add(1, 0, int64(r.events), fmt.Sprintf("%d events of %s follow from the answer at offset %d of %s, event %s, which was kept before",
				r.events, schema.StoredQuotes, r.offset, p.tp, r.eventID))
		default:
			p.view.Finding.Count("answers that came again", 1)
		}
	}
	p.repeats = p.repeats[:0]
	return nil
}

// End implements audit.PartitionAuditor.
func (p *partition) End(ctx context.Context) error {
	if _, err := p.row(ctx, p.last+1); err != nil {
		return err
	}
	return p.look(ctx)
}
