package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// table is how streams are claimed. A claim lasts twenty times as long as it takes until it
// should be renewed, so that a busy database costs no claim.
var table = claim.Table{Name: "streams", ID: "stream_id", Open: `status <> 'stopped'`, Order: "started_at", Lasts: 10 * time.Second}

// wanted is what a stream is to have, as the table says it.
type wanted struct {
	ID      string `db:"stream_id"`
	Symbols string `db:"symbols"`
}

const (
	rowColumns    = `stream_id, provider, symbols, messages, gaps, missed, reconnects, sequences, holes, last_message_at`
	wantedColumns = `stream_id, symbols`
)

// row is a stream as its owner takes it over.
type row struct {
	ID         string          `db:"stream_id"`
	Provider   schema.Provider `db:"provider"`
	Symbols    string          `db:"symbols"`
	Messages   int64           `db:"messages"`
	Gaps       int64           `db:"gaps"`
	Missed     int64           `db:"missed"`
	Reconnects int64           `db:"reconnects"`
	Sequences  string          `db:"sequences"`
	Holes      string          `db:"holes"`
	// LastMessage is when the last owner had the last message; nil for never.
	LastMessage *schema.Time `db:"last_message_at"`
}

// progress is what the owner of a stream knows of it. Only the owner writes it,
// so the numbers are totals, and writing them twice is harmless.
type progress struct {
	failing     bool
	lastMessage schema.Time // zero: none since the takeover
	messages    int64       // quotes in the log, repeats among them
	gaps        int64       // how often messages were missing, and
	missed      int64       // how many
	reconnects  int64
	sequences   map[schema.Symbol]int64
	holes       map[schema.Symbol]hole
	// times are when the last message of a symbol came, and before is the same of all
	// messages of the last owner.
	times       map[schema.Symbol]schema.Time
	before      schema.Time
	lastError   string // empty: none since the takeover
	lastErrorAt schema.Time
}

// read is what the row says of symbols and progress.
func (r row) read() (symbols []schema.Symbol, p progress, err error) {
	p = progress{messages: r.Messages, gaps: r.Gaps, missed: r.Missed, reconnects: r.Reconnects, times: map[schema.Symbol]schema.Time{}}
	if r.LastMessage != nil {
		p.before = *r.LastMessage
	}
	if symbols, err = decodeSymbols(r.ID, r.Symbols); err != nil {
		return nil, p, err
	}
	if err := json.Unmarshal([]byte(r.Sequences), &p.sequences); err != nil {
		return nil, p, fmt.Errorf("reading the sequences of stream %s: %w", r.ID, err)
	}
	if err := json.Unmarshal([]byte(r.Holes), &p.holes); err != nil {
		return nil, p, fmt.Errorf("reading what stream %s missed: %w", r.ID, err)
	}
	p.keep(symbols)
	return symbols, p, nil
}

// keep forgets the sequences of all but symbols: while the others are not streamed, nothing
// of them is missing.
func (p *progress) keep(symbols []schema.Symbol) {
	maps.DeleteFunc(p.sequences, func(symbol schema.Symbol, _ int64) bool { return !slices.Contains(symbols, symbol) })
	maps.DeleteFunc(p.times, func(symbol schema.Symbol, _ schema.Time) bool { return !slices.Contains(symbols, symbol) })
}

// clone is a copy that shares nothing.
func (p progress) clone() progress {
	p.sequences, p.holes, p.times = maps.Clone(p.sequences), maps.Clone(p.holes), maps.Clone(p.times)
	return p
}

// status is what the table says of a stream that runs.
func (p progress) status() Status {
	if p.failing {
		return Failing
	}
	return Active
}

// write writes the progress of a stream, where owner has it, and its status, unless that is
// empty.
func (p progress) write(ctx context.Context, tx *pipeline.Tx, owner, id string, status Status) error {
	sequences, err := json.Marshal(p.sequences)
	if err != nil {
		return fmt.Errorf("encoding the sequences of stream %s: %w", id, err)
	}
	holes, err := json.Marshal(p.holes)
	if err != nil {
		return fmt.Errorf("encoding what stream %s missed: %w", id, err)
	}
	if _, err := tx.Exec(ctx, `UPDATE streams SET last_message_at = COALESCE($3, last_message_at), messages = $4,
			gaps = $5, missed = $6, reconnects = $7, sequences = $8, last_error = COALESCE($9, last_error),
			last_error_at = COALESCE($10, last_error_at), holes = $11, status = COALESCE($12, status)
		WHERE stream_id = $1 AND claimed_by = $2`,
		id, owner, orNull(p.lastMessage), p.messages, p.gaps, p.missed, p.reconnects, string(sequences),
		textOrNull(p.lastError), orNull(p.lastErrorAt), string(holes), textOrNull(string(status))); err != nil {
		return fmt.Errorf("writing the progress of stream %s: %w", id, err)
	}
	return nil
}

func orNull(t schema.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

func textOrNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}
