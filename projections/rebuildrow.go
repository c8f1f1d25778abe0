package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// rebuildRow is a row of rebuilds.
type rebuildRow struct {
	ID         string       `db:"id"`
	Projection string       `db:"projection"`
	Number     int          `db:"number"`
	Fold       string       `db:"fold"`
	State      RebuildState `db:"state"`
	Promote    Promotion    `db:"promote"`
	SkipPoison int          `db:"skip_poison"`
	RateLimit  int          `db:"rate_limit"`
	Replaced   int          `db:"replaced"`
	Goals      string       `db:"goals"`
	Speeds     string       `db:"speeds"`
	Proof      string       `db:"proof"`
	Equal      int          `db:"equal"`
	Whole      int          `db:"whole"`
	Error      string       `db:"error"`
	// Renormalization is the one that it is a part of, and promoted with; empty for none.
	Renormalization string      `db:"renormalization"`
	CreatedAt       schema.Time `db:"created_at"`
	ChangedAt       schema.Time `db:"changed_at"`
}

const rebuildColumns = `id, projection, number, fold, state, promote, skip_poison, rate_limit, replaced, goals, speeds, proof, equal, whole,
	error, renormalization, created_at, changed_at`

func (r rebuildRow) generation() pipeline.Generation {
	return pipeline.Generation{Projection: r.Projection, Number: r.Number}
}

// due reports whether it is to be promoted without a command.
func (r rebuildRow) due() bool {
	return r.State == RebuildReady && (r.Promote == PromoteAuto && r.Whole+r.Equal > 0 || r.Promote == PromoteIfEqual && r.Equal == 1)
}

// end ends it with its generation.
func (r rebuildRow) end(ctx context.Context, tx *store.Tx, p pipeline.Projection, state RebuildState, why string) error {
	if err := drop(ctx, tx, p, r.generation()); err != nil {
		return err
	}
	return r.set(ctx, tx, state, why)
}

// set changes its state.
func (r rebuildRow) set(ctx context.Context, tx *store.Tx, state RebuildState, why string) error {
	_, err := tx.Exec(ctx, `UPDATE rebuilds SET state = $1, error = $2, speeds = '', changed_at = $3 WHERE id = $4`,
		state, why, schema.NewTime(time.Now()), r.ID)
	return err
}

// goal is where a rebuild begins on a partition, and where the log ended then.
type goal struct {
	Topic     schema.Topic `json:"topic"`
	Partition int32        `json:"partition"`
	Start     int64        `json:"start"`
	Target    int64        `json:"target"`
}

// getRow reads one rebuild.
func getRow(ctx context.Context, q store.Querier, id string) (rebuildRow, error) {
	var row rebuildRow
	err := q.Get(ctx, &row, `SELECT `+rebuildColumns+` FROM rebuilds WHERE id = $1`, id)
	if err != nil {
		return row, QueryError("rebuild "+id, err)
	}
	return row, nil
}

// GetRebuild finds a rebuild, or returns ErrNotFound.
func GetRebuild(ctx context.Context, q store.Querier, id string) (Rebuild, error) {
	row, err := getRow(ctx, q, id)
	if err != nil {
		return Rebuild{}, err
	}
	return row.rebuild(ctx, q)
}

// Rebuilds are the last ones, the newest first.
func Rebuilds(ctx context.Context, q store.Querier, limit int) ([]Rebuild, error) {
	var rows []rebuildRow
	if err := q.Select(ctx, &rows, `SELECT `+rebuildColumns+` FROM rebuilds ORDER BY created_at DESC, id LIMIT $1`, limit); err != nil {
		return nil, QueryError("the rebuilds", err)
	}
	all := make([]Rebuild, len(rows))
	for i, row := range rows {
		var err error
		if all[i], err = row.rebuild(ctx, q); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// rebuild is the row as others see it, with what is read elsewhere.
func (r rebuildRow) rebuild(ctx context.Context, q store.Querier) (Rebuild, error) {
	b := Rebuild{ID: r.ID, Projection: r.Projection, State: r.State, Promote: r.Promote, Generation: r.Number, Replaced: r.Replaced,
		Fold: r.Fold, SkipPoison: r.SkipPoison == 1, RateLimit: r.RateLimit, Partitions: []RebuildPartition{},
		Error: r.Error, Renormalization: r.Renormalization, CreatedAt: r.CreatedAt, ChangedAt: r.ChangedAt}
	if r.Proof != "" {
		b.Proof = &RebuildProof{}
		if err := json.Unmarshal([]byte(r.Proof), b.Proof); err != nil {
			return b, fmt.Errorf("reading the proof of %s: %w", r.ID, err)
		}
	}
	err := q.Get(ctx, &b.Working, `SELECT COUNT(*) > 0 FROM leases WHERE name = $1 AND expires_ms >= `+q.NowMillis(), leaseOf(r.ID))
	if err != nil {
		return b, QueryError("who works on rebuild "+r.ID, err)
	}
	if b.Partitions, err = r.partitions(ctx, q); err != nil {
		return b, err
	}
	for _, p := range b.Partitions {
		b.Done += max(0, min(p.Position, p.Target)-p.start)
		b.Total += max(0, p.Target-p.start)
		b.Rate += p.Rate
	}
	b.SecondsLeft = secondsLeft(b.Total-b.Done, b.Rate)
	return b, nil
}

// secondsLeft is how long records take at a rate; nil where no one can tell.
func secondsLeft(records, rate int64) *int64 {
	if rate <= 0 {
		return nil
	}
	left := max(0, records) / rate
	return &left
}

// partitions are its goals, and how far it has come.
func (r rebuildRow) partitions(ctx context.Context, q store.Querier) ([]RebuildPartition, error) {
	partitions := []RebuildPartition{}
	if r.Goals == "" {
		return partitions, nil
	}
	var goals []goal
	if err := json.Unmarshal([]byte(r.Goals), &goals); err != nil {
		return nil, fmt.Errorf("reading the goals of %s: %w", r.ID, err)
	}
	at := map[pipeline.TopicPartition]int64{}
	for _, stage := range []string{scratchStage(r.generation()), stageName(r.generation())} {
		positions, err := store.Positions(ctx, q, stage)
		if err != nil {
			return nil, QueryError("the positions of rebuild "+r.ID, err)
		}
		for _, p := range positions {
			at[pipeline.TopicPartition{Topic: schema.Topic(p.Topic), Partition: p.Part}] = p.Next
		}
	}
	speeds := map[string]int64{}
	if r.Speeds != "" {
		if err := json.Unmarshal([]byte(r.Speeds), &speeds); err != nil {
			return nil, fmt.Errorf("reading the speeds of %s: %w", r.ID, err)
		}
	}
	for _, g := range goals {
		tp := pipeline.TopicPartition{Topic: g.Topic, Partition: g.Partition}
		position, speed := max(g.Start, at[tp]), speeds[tp.String()]
		partitions = append(partitions, RebuildPartition{g.Topic, g.Partition, position, g.Target, speed, secondsLeft(g.Target-position, speed), g.Start})
	}
	return partitions, nil
}
