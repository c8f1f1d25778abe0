package deletion

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// asks is what may still ask a provider: a polling job, a stream or a backfill.
type asks struct {
	ID      string `db:"id"`
	Symbols string `db:"symbols"` // a JSON array, or one symbol
	Status  string `db:"status"`
}

// of reports whether it asks for the data.
func (a asks) of(s schema.Subject) bool {
	if s.Symbol == "" {
		return true
	}
	var symbols []schema.Symbol
	if err := json.Unmarshal([]byte(a.Symbols), &symbols); err != nil {
		symbols = []schema.Symbol{schema.Symbol(a.Symbols)}
	}
	return slices.Contains(symbols, s.Symbol)
}

// asking are the rows of a table of jobs, streams or backfills that ask for the data.
func (c Config) asking(ctx context.Context, table, id, symbols string) ([]asks, error) {
	var all []asks
	err := c.Store.Select(ctx, &all, "SELECT "+id+" AS id, "+symbols+" AS symbols, status FROM "+table+" WHERE provider = $1 ORDER BY "+id, c.Subject.Provider)
	if err != nil {
		return nil, fmt.Errorf("looking for what asks for the data in %s: %w", table, err)
	}
	return slices.DeleteFunc(all, func(a asks) bool { return !a.of(c.Subject) }), nil
}

// streamed is what a stream remembers of its messages.
type streamed struct {
	ID        string `db:"stream_id"`
	Sequences string `db:"sequences"`
	Holes     string `db:"holes"`
	LastError string `db:"last_error"`
}

// without is the row without what it holds of the data.
func (s streamed) without(subject schema.Subject) (streamed, error) {
	s.LastError = ""
	if subject.Symbol == "" {
		s.Sequences, s.Holes = "{}", "{}"
		return s, nil
	}
	for _, text := range []*string{&s.Sequences, &s.Holes} {
		var members map[schema.Symbol]json.RawMessage
		if err := json.Unmarshal([]byte(*text), &members); err != nil {
			return s, fmt.Errorf("reading what stream %s remembers: %w", s.ID, err)
		}
		if _, there := members[subject.Symbol]; !there {
			continue
		}
		delete(members, subject.Symbol)
		rest, err := json.Marshal(members)
		if err != nil {
			return s, fmt.Errorf("writing what stream %s remembers: %w", s.ID, err)
		}
		*text = string(rest)
	}
	return s, nil
}

// streams are those that change, as they are to be.
func (c Config) streams(ctx context.Context, q store.Querier) ([]streamed, error) {
	var all []streamed
	if err := q.Select(ctx, &all, `SELECT stream_id, sequences, holes, last_error FROM streams WHERE provider = $1 ORDER BY stream_id`, c.Subject.Provider); err != nil {
		return nil, fmt.Errorf("reading what streams remember: %w", err)
	}
	asking, err := c.asking(ctx, "streams", "stream_id", "symbols")
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, a := range asking {
		ids[a.ID] = true
	}
	var changed []streamed
	for _, s := range all {
		if !ids[s.ID] {
			continue
		}
		other, err := s.without(c.Subject)
		if err != nil {
			return nil, err
		}
		if other != s {
			changed = append(changed, other)
		}
	}
	return changed, nil
}
