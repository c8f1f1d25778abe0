package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// claimMillis is how long a claim lasts unless it is renewed, twenty times as long as it
// takes until it should be, so that a busy database costs no claim: the streams of a
// process that died are taken over after that.
const claimMillis = 10_000

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

// take claims streams that no one owns, the oldest first.
func take(ctx context.Context, tx *pipeline.Tx, owner string, most int) ([]row, error) {
	var taken []row
	// Rows that another process is about to take are skipped.
	err := tx.Select(ctx, &taken, `WITH held AS (SELECT stream_id FROM streams
			WHERE status <> 'stopped' AND claimed_until < `+tx.NowMillis()+`
			ORDER BY started_at, stream_id LIMIT $3 `+tx.LockFreeRows("streams")+`)
		UPDATE streams SET claimed_by = $1, claimed_until = `+tx.NowMillis()+` + $2
		WHERE stream_id IN (SELECT stream_id FROM held)
		RETURNING stream_id, provider, symbols, messages, gaps, missed, reconnects, sequences, holes, last_message_at`, owner, claimMillis, most)
	if err != nil {
		return nil, fmt.Errorf("claiming streams: %w", err)
	}
	return taken, nil
}

// renew writes the progress of a stream and prolongs the claim on it. It reports
// false where the stream was stopped or belongs to another owner.
func renew(ctx context.Context, tx *pipeline.Tx, owner, id string, p progress) (bool, error) {
	status := Active
	if p.failing {
		status = Failing
	}
	return p.write(ctx, tx, owner, id, `claimed_until = `+tx.NowMillis()+` + $12, status = $13`, `AND status <> 'stopped'`,
		claimMillis, string(status))
}

// wanted are the symbols, as the table has them, that the streams of an owner are to have.
func wanted(ctx context.Context, tx *pipeline.Tx, owner string) (map[string]string, error) {
	var rows []struct {
		ID      string `db:"stream_id"`
		Symbols string `db:"symbols"`
	}
	if err := tx.Select(ctx, &rows, `SELECT stream_id, symbols FROM streams WHERE claimed_by = $1 AND status <> 'stopped'`, owner); err != nil {
		return nil, fmt.Errorf("reading the symbols of streams: %w", err)
	}
	symbols := make(map[string]string, len(rows))
	for _, r := range rows {
		symbols[r.ID] = r.Symbols
	}
	return symbols, nil
}

// release writes the progress of a stream and gives up the claim on it, so that
// anyone who comes next need not wait until it ends.
func release(ctx context.Context, tx *pipeline.Tx, owner, id string, p progress) error {
	_, err := p.write(ctx, tx, owner, id, `claimed_until = $12, claimed_by = $13`, ``, 0, "")
	return err
}

// write writes the progress and what set says of a stream that owner has. It
// reports whether there was such a stream.
func (p progress) write(ctx context.Context, tx *pipeline.Tx, owner, id, set, condition string, args ...any) (bool, error) {
	sequences, err := json.Marshal(p.sequences)
	if err != nil {
		return false, fmt.Errorf("encoding the sequences of stream %s: %w", id, err)
	}
	holes, err := json.Marshal(p.holes)
	if err != nil {
		return false, fmt.Errorf("encoding what stream %s missed: %w", id, err)
	}
	changed, err := tx.Exec(ctx, `UPDATE streams SET last_message_at = COALESCE($3, last_message_at), messages = $4,
			gaps = $5, missed = $6, reconnects = $7, sequences = $8,
			last_error = COALESCE($9, last_error), last_error_at = COALESCE($10, last_error_at), holes = $11, `+set+`
		WHERE stream_id = $1 AND claimed_by = $2 `+condition,
		append([]any{id, owner, orNull(p.lastMessage), p.messages, p.gaps, p.missed, p.reconnects, string(sequences),
			textOrNull(p.lastError), orNull(p.lastErrorAt), string(holes)}, args...)...)
	if err != nil {
		return false, fmt.Errorf("writing the progress of stream %s: %w", id, err)
	}
	return changed > 0, nil
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
