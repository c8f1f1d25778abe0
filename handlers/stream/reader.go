package stream

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Stream is a stream as its table shows it.
type Stream struct {
	ID        string          `db:"stream_id"`
	Provider  schema.Provider `db:"provider"`
	Symbols   []schema.Symbol `db:"-"`
	Status    Status          `db:"status"`
	StartedAt schema.Time     `db:"started_at"`
	// StoppedAt is nil unless the stream is stopped.
	StoppedAt *schema.Time `db:"stopped_at"`
	// Owned says that a process owns the stream, and was alive within the last
	// ten seconds.
	Owned bool `db:"owned"`
	// LastMessage is when the provider last sent anything; nil for never.
	LastMessage *schema.Time `db:"last_message_at"`
	// Messages is how many quotes were brought into the log, repeats among them.
	Messages int64 `db:"messages"`
	// Gaps is how often messages were missing, Missed how many, by the
	// provider's own count.
	Gaps       int64 `db:"gaps"`
	Missed     int64 `db:"missed"`
	Reconnects int64 `db:"reconnects"`
	// LastError says why the last connection broke; empty for never.
	LastError   string       `db:"last_error"`
	LastErrorAt *schema.Time `db:"last_error_at"`
}

// Reader reads the table of streams. Its numbers are half a second old.
type Reader struct{ DB *store.Store }

func (r Reader) columns() string {
	return `stream_id, provider, symbols AS symbols_json, status, started_at, stopped_at,
		` + table.Held(r.DB) + ` AS owned, last_message_at, messages, gaps, missed,
		reconnects, last_error, last_error_at`
}

// stored is a Stream with its symbols as they are in the table.
type stored struct {
	Stream
	SymbolsJSON string `db:"symbols_json"`
}

func (s stored) read() (Stream, error) {
	var err error
	s.Symbols, err = decodeSymbols(s.ID, s.SymbolsJSON)
	return s.Stream, err
}

// Get returns an error that wraps sql.ErrNoRows where the stream is not known,
// perhaps because it was started a moment ago.
func (r Reader) Get(ctx context.Context, id string) (Stream, error) {
	var found stored
	if err := r.DB.Get(ctx, &found, `SELECT `+r.columns()+` FROM streams WHERE stream_id = $1`, id); err != nil {
		return Stream{}, fmt.Errorf("reading stream %s: %w", id, err)
	}
	return found.read()
}

// List returns at most limit streams, the last started first.
func (r Reader) List(ctx context.Context, limit int) ([]Stream, error) {
	var found []stored
	err := r.DB.Select(ctx, &found, `SELECT `+r.columns()+` FROM streams ORDER BY started_at DESC, stream_id DESC LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("listing the streams: %w", err)
	}
	streams := make([]Stream, len(found))
	for i, s := range found {
		if streams[i], err = s.read(); err != nil {
			return nil, err
		}
	}
	return streams, nil
}

// Open counts the streams that are not stopped, and returns those of ids that are
// known. One that becomes known meanwhile may be counted and left out.
func (r Reader) Open(ctx context.Context, ids []string) (open int, known []string, err error) {
	return table.Count(ctx, r.DB, ids)
}

// WaitCaughtUp returns once the stage has applied all commands that were written before
// it was called, by whatever process: a stream that the table does not have then
// did not exist. When ctx is done first, it returns that error.
func (r Reader) WaitCaughtUp(ctx context.Context) error {
	return store.WaitCaughtUp(ctx, r.DB, schema.StreamStarted{}.Topic(), func(context.Context) (string, error) { return Name, nil })
}
