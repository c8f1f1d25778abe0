package projections

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// RebuildState is how far a rebuild has come.
type RebuildState string

// The states of a rebuild.
const (
	// RebuildRunning: it is being filled.
	RebuildRunning RebuildState = "running"
	// RebuildProving: it is compared with the generation that serves.
	RebuildProving RebuildState = "proving"
	// RebuildReady: it follows the log, and can be promoted.
	RebuildReady RebuildState = "ready"
	// RebuildPromoted: it serves, unless a later one does.
	RebuildPromoted RebuildState = "promoted"
	// RebuildRolledBack: it served, and follows the log still.
	RebuildRolledBack RebuildState = "rolled_back"
	// RebuildFailed: it could not be built; its tables are gone.
	RebuildFailed RebuildState = "failed"
	// RebuildCancelled: someone deleted it; its tables are gone.
	RebuildCancelled RebuildState = "cancelled"
)

// Open reports whether it may still be promoted for the first time.
func (s RebuildState) Open() bool {
	return s == RebuildRunning || s == RebuildProving || s == RebuildReady
}

// Promotion is when a rebuild takes the place of what serves.
type Promotion string

const (
	// PromoteManual: on command.
	PromoteManual Promotion = "manual"
	// PromoteIfEqual: by itself if the proof finds no difference.
	PromoteIfEqual Promotion = "if-equal"
	// PromoteAuto: by itself whatever the proof finds, unless the log does not hold
	// all that the tables were made of.
	PromoteAuto Promotion = "auto"
)

// Promotions are all there are.
var Promotions = []Promotion{PromoteManual, PromoteIfEqual, PromoteAuto}

// Rebuild is a build of a generation from the log.
type Rebuild struct {
	ID         string       `json:"id"`
	Projection string       `json:"projection"`
	State      RebuildState `json:"state"`
	Promote    Promotion    `json:"promote"`
	// Generation is its number, and Replaced that of the one whose place it took; 0
	// for none.
	Generation int `json:"generation"`
	Replaced   int `json:"replaced,omitempty"`
	// Fold is what builds it.
	Fold       string `json:"fold"`
	SkipPoison bool   `json:"skip_poison"`
	// RateLimit is in records a second; 0 for none.
	RateLimit int `json:"rate_limit,omitempty"`
	// Partitions are how far it has come; none before it has begun.
	Partitions []RebuildPartition `json:"partitions"`
	// Done and Total are the records before its targets. Rate is of the last
	// moments, in records a second, and SecondsLeft what is left at it; nil where
	// that is not known.
	Done        int64  `json:"done"`
	Total       int64  `json:"total"`
	Rate        int64  `json:"rate"`
	SecondsLeft *int64 `json:"seconds_left"`
	// Working says that a process works on it.
	Working bool `json:"working"`
	// Proof is what the comparison found; nil before.
	Proof *RebuildProof `json:"proof"`
	// Error says what went wrong last.
	Error string `json:"error,omitempty"`
	// Renormalization is the one that it is a part of; empty for none.
	Renormalization string      `json:"renormalization_id,omitempty"`
	CreatedAt       schema.Time `json:"created_at"`
	ChangedAt       schema.Time `json:"changed_at"`
}

// Settled reports whether nothing more becomes of it without a command.
func (r Rebuild) Settled() bool {
	if r.State != RebuildReady {
		return !r.State.Open()
	}
	byItself := r.Promote == PromoteAuto && (r.Proof.Equal || len(r.Proof.Limits) == 0) || r.Promote == PromoteIfEqual && r.Proof.Equal
	return !byItself
}

// RebuildPartition is how far a rebuild has come on one partition.
type RebuildPartition struct {
	Topic     schema.Topic `json:"topic"`
	Partition int32        `json:"partition"`
	// Position is the offset of the next record, Target where the log ended when
	// the rebuild began.
	Position int64 `json:"position"`
	Target   int64 `json:"target"`
	// Rate and SecondsLeft are as those of the whole: partitions are filled some at a
	// time.
	Rate        int64  `json:"rate"`
	SecondsLeft *int64 `json:"seconds_left"`
	start       int64
}

// RebuildProof is what the comparison with the generation that served found, both
// at the same positions.
type RebuildProof struct {
	// Against is the generation that served.
	Against int `json:"against"`
	// Equal says that there is no difference, and that it can be told.
	Equal bool `json:"equal"`
	// Tables are the comparisons of the tables.
	Tables []Proof `json:"tables"`
	// Found is how many differences there are, Differences the first of them.
	Found       int64    `json:"found"`
	Differences []string `json:"differences"`
	// Unproven says why it cannot be told, Limits what the log does not have.
	Unproven []string `json:"unproven,omitempty"`
	Limits   []string `json:"limits,omitempty"`
}

// Refusals of commands to rebuilds.
var (
	// ErrRebuilding says that there is one already that is not promoted.
	ErrRebuilding = errors.New("a rebuild of this projection is there already: promote or cancel it first")
	// ErrRebuildState says that a rebuild is in no state for a command.
	ErrRebuildState = errors.New("not in this state")
	// ErrBehind says that a generation would answer with older values than the one
	// that serves.
	ErrBehind = errors.New("it is behind what serves now")
	// ErrServes says that a generation is the one that readers see.
	ErrServes = errors.New("it is the generation that serves")
)

// Order is what is asked for.
type Order struct {
	Promote Promotion
	// SkipPoison skips records that cannot be applied, as a stage does;
	// otherwise they stop the rebuild.
	SkipPoison bool
	// RateLimit is in records a second; 0 for none.
	RateLimit int
}

// NewRebuild orders a rebuild: a generation is made, and a Rebuilder of any process
// fills it.
func NewRebuild(ctx context.Context, db *store.Store, p pipeline.Projection, o Order) (Rebuild, error) {
	var id string
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		serves, _, err := servedGeneration(ctx, tx, p.Name())
		if err != nil {
			return err
		}
		if serves.Number == 0 {
			return fmt.Errorf("it has no tables yet: no service with this projection has run: %w", ErrRebuildState)
		}
		if err := noneOpen(ctx, tx, p); err != nil {
			return err
		}
		taken, err := promotedReadings(ctx, tx)
		if err != nil {
			return err
		}
		id, err = order(ctx, tx, p, o, taken, "")
		return err
	})
	if err != nil {
		return Rebuild{}, fmt.Errorf("rebuilding %s: %w", p.Name(), err)
	}
	return GetRebuild(ctx, db, id)
}

// noneOpen is an error where a rebuild is open.
func noneOpen(ctx context.Context, q store.Querier, p pipeline.Projection) error {
	var open []rebuildRow
	err := q.Select(ctx, &open, `SELECT `+rebuildColumns+` FROM rebuilds WHERE projection = $1 AND state IN ('running', 'proving', 'ready')`, p.Name())
	switch {
	case err != nil:
		return fmt.Errorf("looking for rebuilds of %s: %w", p.Name(), err)
	case len(open) == 0:
		return nil
	case open[0].Renormalization != "":
		return fmt.Errorf("%s is a part of %s (pricemill renormalize cancel %s): %w", open[0].ID, open[0].Renormalization, open[0].Renormalization, ErrRebuilding)
	}
	return fmt.Errorf("%s: %w", open[0].ID, ErrRebuilding)
}

// order orders the build of a generation that takes some renormalizations, as a part of
// one of them or, where that is empty, of none.
func order(ctx context.Context, tx *store.Tx, p pipeline.Projection, o Order, taken readings, part string) (id string, err error) {
	g := pipeline.Generation{Projection: p.Name()}
	if g.Number, err = nextNumber(ctx, tx, p); err != nil {
		return "", err
	}
	if err := create(ctx, tx, p, g, rebuiltKind, taken); err != nil {
		return "", err
	}
	id, now := "rebuild_"+strings.ToLower(rand.Text()[:8]), schema.NewTime(time.Now())
	_, err = tx.Exec(ctx, `INSERT INTO rebuilds (id, projection, number, fold, state, promote, skip_poison, rate_limit, renormalization, created_at, changed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)`, id, p.Name(), g.Number, fingerprint(p), RebuildRunning, o.Promote,
		asInt(o.SkipPoison), o.RateLimit, part, now)
	return id, err
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Renew orders a rebuild where the generation that serves was built by an earlier
// version of the fold, or by other settings. Poison is skipped, as it was when
// it came. It leaves an unpromoted or rolled-back rebuild of this fold to the
// operator.
func Renew(ctx context.Context, db *store.Store, p pipeline.Projection, promote Promotion, log *slog.Logger) error {
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		rows, err := generationsOf(ctx, tx, p.Name())
		if err != nil {
			return err
		}
		is := fingerprint(p)
		at := slices.IndexFunc(rows, func(r generationRow) bool { return r.Active == 1 })
		if at < 0 {
			return nil
		}
		was, taken := rows[at].Fold, readings(rows[at].Renormalizations)
		promoted, err := promotedReadings(ctx, tx)
		if err != nil {
			return err
		}
		promoted = promoted.of(p)
		switch {
		case was == is && taken == promoted:
			return nil
		case versionOf(was) > p.Version():
			log.Warn("a later version of this projection serves: this process does not feed it", "projection", p.Name(), "serves", was, "is", is)
			return nil
		}
		var waiting int
		err = tx.Get(ctx, &waiting, `SELECT COUNT(*) FROM rebuilds r JOIN generations g ON g.projection = r.projection AND g.number = r.number
			WHERE r.projection = $1 AND r.fold = $2 AND g.renormalizations = $3 AND r.state IN ('running', 'proving', 'ready', 'rolled_back')`,
			p.Name(), is, promoted)
		switch {
		case err != nil:
			return err
		case waiting > 0:
			log.Warn("a generation of this fold is there, and another one serves: see pricemill rebuild list", "projection", p.Name(), "serves", was, "is", is)
			return nil
		}
		if err := giveUp(ctx, tx, p); err != nil {
			return err
		}
		id, err := order(ctx, tx, p, Order{Promote: promote, SkipPoison: true}, promoted, "")
		if err == nil {
			log.Warn("the fold of a projection or what its prices are read by changed: building it again from the log", "projection", p.Name(),
				"serves", was, "is", is, "rebuild", id, "promote", promote)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("renewing projection %s: %w", p.Name(), err)
	}
	return nil
}

// giveUp cancels what an earlier fold has not come to an end with.
func giveUp(ctx context.Context, tx *store.Tx, p pipeline.Projection) error {
	var rows []rebuildRow
	err := tx.Select(ctx, &rows, `SELECT `+rebuildColumns+` FROM rebuilds WHERE projection = $1 AND state IN ('running', 'proving', 'ready')`, p.Name())
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := r.end(ctx, tx, p, RebuildCancelled, "another fold came"); err != nil {
			return err
		}
	}
	return nil
}

// versionOf reads the version of a fold.
func versionOf(fold string) int {
	var version int
	_, _ = fmt.Sscanf(fold, "v%d", &version) // 0 where it is none of ours
	return version
}

// leaseOf is the lease of the process that works on a rebuild.
func leaseOf(id string) string { return "rebuild/" + id }

// CancelRebuild ends a rebuild, and drops its generation. One that serves cannot
// be cancelled: ErrServes. The process that works on it may read its tables for a moment yet;
// where they cannot be dropped now, a Rebuilder does it.
func CancelRebuild(ctx context.Context, db *store.Store, all []pipeline.Projection, id string) error {
	err := retrying(ctx, func() error {
		return db.Write(ctx, func(tx *store.Tx) error {
			row, _, err := locked(ctx, tx, all, id)
			if err != nil {
				return err
			}
			serves, _, err := servedGeneration(ctx, tx, row.Projection)
			switch {
			case err != nil:
				return err
			case row.Renormalization != "" && row.State.Open():
				return fmt.Errorf("rebuild %s: %w: %s: %w", id, ErrPart, row.Renormalization, ErrRebuildState)
			case row.State == RebuildCancelled:
				return fmt.Errorf("rebuild %s is %s: %w", id, row.State, ErrRebuildState)
			case serves.Number == row.Number:
				return fmt.Errorf("generation %d of %s: %w", row.Number, row.Projection, ErrServes)
			}
			return row.set(ctx, tx, RebuildCancelled, "")
		})
	})
	if err != nil {
		return err
	}
	_ = retrying(ctx, func() error { return sweep(ctx, db, all, id) }) // see above
	return nil
}

// sweep drops the generation of a rebuild that has ended.
func sweep(ctx context.Context, db *store.Store, all []pipeline.Projection, id string) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		row, p, err := locked(ctx, tx, all, id)
		if err != nil || row.State != RebuildCancelled && row.State != RebuildFailed {
			return err
		}
		return drop(ctx, tx, p, row.generation())
	})
}

// locked begins a transaction that changes generations: alone, and without waiting
// for readers for long, since others would wait behind it.
func locked(ctx context.Context, tx *store.Tx, all []pipeline.Projection, id string) (rebuildRow, pipeline.Projection, error) {
	if err := errors.Join(tx.BoundLocks(ctx, lockWait), tx.LockSchema(ctx)); err != nil {
		return rebuildRow{}, nil, err
	}
	row, err := getRow(ctx, tx, id)
	if err != nil {
		return row, nil, err
	}
	p, err := named(all, row.Projection)
	return row, p, err
}

// named finds a projection by its name.
func named(all []pipeline.Projection, name string) (pipeline.Projection, error) {
	i := slices.IndexFunc(all, func(p pipeline.Projection) bool { return p.Name() == name })
	if i < 0 {
		return nil, fmt.Errorf("projection %s: %w", name, ErrNotFound)
	}
	return all[i], nil
}
