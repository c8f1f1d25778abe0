package projections

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// RenormalizationState is how far a renormalization has come.
type RenormalizationState string

// The states of a renormalization.
const (
	// RenormalizationReading: the stored answers are being read.
	RenormalizationReading RenormalizationState = "reading"
	// RenormalizationUnchanged: the answers are read as they were. There is nothing to do.
	RenormalizationUnchanged RenormalizationState = "unchanged"
	// RenormalizationBuilding: the read models are being built.
	RenormalizationBuilding RenormalizationState = "building"
	// RenormalizationReady: all are built and follow the log, and can be promoted together.
	RenormalizationReady RenormalizationState = "ready"
	// RenormalizationPromoted: what serves takes it.
	RenormalizationPromoted RenormalizationState = "promoted"
	// RenormalizationRolledBack: what serves took it.
	RenormalizationRolledBack RenormalizationState = "rolled_back"
	// RenormalizationFailed: it could not be read or built.
	RenormalizationFailed RenormalizationState = "failed"
	// RenormalizationCancelled: someone ended it.
	RenormalizationCancelled RenormalizationState = "cancelled"
)

// Renormalization is stored answers that were read again, and the read models that are
// built of it.
type Renormalization struct {
	ID string `json:"renormalization_id"`
	// Provider is the one whose answers were read; empty for all.
	Provider schema.Provider      `json:"provider,omitempty"`
	Reason   string               `json:"reason"`
	State    RenormalizationState `json:"state"`
	// Answers is how many were read.
	Answers int64 `json:"answers"`
	// Revised is how many prices are other ones by now, Withdrawn how many the answers do
	// not hold, and Added how many they hold as well.
	Revised   int64 `json:"revised"`
	Withdrawn int64 `json:"withdrawn"`
	Added     int64 `json:"added"`
	// Unread is how many answers could not be read, since there is no provider for them, or it
	// failed. Their prices stay as they are.
	Unread int64 `json:"unread"`
	// Rebuilds are those of the read models.
	Rebuilds  []Rebuild   `json:"rebuilds"`
	Error     string      `json:"error,omitempty"`
	CreatedAt schema.Time `json:"created_at"`
	ChangedAt schema.Time `json:"changed_at"`
}

// Refusals of renormalizations.
var (
	// ErrRenormalizing says that another one is open.
	ErrRenormalizing = errors.New("a renormalization is open already: promote or cancel it first")
	// ErrPart says that a rebuild is a part of a renormalization, which is promoted, rolled
	// back or cancelled as a whole.
	ErrPart = errors.New("it is a part of a renormalization")
	// ErrReadings says that a generation takes other renormalizations than what serves.
	ErrReadings = errors.New("it takes other renormalizations than what serves")
	// ErrUnexplained says that prices differ which the renormalization does not name.
	ErrUnexplained = errors.New("prices differ that it does not name")
	// errReadingTaken says that another process took the lease over.
	errReadingTaken = errors.New("another process renormalizes")
)

// renormalizationRow is a row of renormalizations.
type renormalizationRow struct {
	ID        string               `db:"id"`
	Seq       int64                `db:"seq"`
	Provider  schema.Provider      `db:"provider"`
	Reason    string               `db:"reason"`
	State     RenormalizationState `db:"state"`
	Answers   int64                `db:"answers"`
	Revised   int64                `db:"revised"`
	Withdrawn int64                `db:"withdrawn"`
	Added     int64                `db:"added"`
	Unread    int64                `db:"unread"`
	Error     string               `db:"error"`
	CreatedAt schema.Time          `db:"created_at"`
	ChangedAt schema.Time          `db:"changed_at"`
}

const renormalizationColumns = `id, seq, provider, reason, state, answers, revised, withdrawn, added, unread, error, created_at, changed_at`

// refused is the error of a command for which the renormalization is in no state.
func (r renormalizationRow) refused(state RenormalizationState, why string) error {
	if why != "" {
		return fmt.Errorf("%s is %s (%s): %w", r.ID, state, why, ErrRebuildState)
	}
	return fmt.Errorf("%s is %s: %w", r.ID, state, ErrRebuildState)
}

func (r renormalizationRow) set(ctx context.Context, tx *store.Tx, state RenormalizationState, why string) error {
	_, err := tx.Exec(ctx, `UPDATE renormalizations SET state = $1, error = $2, changed_at = $3 WHERE id = $4`, state, why, schema.NewTime(time.Now()), r.ID)
	return err
}

// parts are the rebuilds of a renormalization, the list of prices first, as batches lock.
func (r renormalizationRow) parts(ctx context.Context, q store.Querier) ([]rebuildRow, error) {
	var rows []rebuildRow
	err := q.Select(ctx, &rows, `SELECT `+rebuildColumns+` FROM rebuilds WHERE renormalization = $1 ORDER BY projection`, r.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the rebuilds of %s: %w", r.ID, err)
	}
	slices.SortStableFunc(rows, func(a, b rebuildRow) int {
		return asInt(b.Projection == PriceListName) - asInt(a.Projection == PriceListName)
	})
	return rows, nil
}

// stands is the state, by its parts where they are being built.
func (r renormalizationRow) stands(parts []rebuildRow) (RenormalizationState, string) {
	if r.State != RenormalizationBuilding {
		return r.State, r.Error
	}
	for _, p := range parts {
		if !p.State.Open() {
			why := fmt.Sprintf("rebuild %s of %s is %s", p.ID, p.Projection, p.State)
			if p.Error != "" {
				why += ": " + p.Error
			}
			return RenormalizationFailed, why
		}
	}
	if slices.ContainsFunc(parts, func(p rebuildRow) bool { return p.State != RebuildReady }) {
		return RenormalizationBuilding, ""
	}
	return RenormalizationReady, ""
}

func (r renormalizationRow) renormalization(ctx context.Context, q store.Querier) (Renormalization, error) {
	n := Renormalization{ID: r.ID, Provider: r.Provider, Reason: r.Reason, Answers: r.Answers, Revised: r.Revised, Withdrawn: r.Withdrawn,
		Added: r.Added, Unread: r.Unread, Rebuilds: []Rebuild{}, CreatedAt: r.CreatedAt, ChangedAt: r.ChangedAt}
	parts, err := r.parts(ctx, q)
	if err != nil {
		return n, err
	}
	n.State, n.Error = r.stands(parts)
	for _, p := range parts {
		b, err := p.rebuild(ctx, q)
		if err != nil {
			return n, err
		}
		n.Rebuilds = append(n.Rebuilds, b)
	}
	return n, nil
}

func getRenormalization(ctx context.Context, q store.Querier, id string) (renormalizationRow, error) {
	var row renormalizationRow
	if err := q.Get(ctx, &row, `SELECT `+renormalizationColumns+` FROM renormalizations WHERE id = $1`, id); err != nil {
		return row, QueryError("renormalization "+id, err)
	}
	return row, nil
}

// GetRenormalization finds a renormalization, or returns ErrNotFound.
func GetRenormalization(ctx context.Context, q store.Querier, id string) (Renormalization, error) {
	row, err := getRenormalization(ctx, q, id)
	if err != nil {
		return Renormalization{}, err
	}
	return row.renormalization(ctx, q)
}

// Renormalizations are the last ones, the newest first.
func Renormalizations(ctx context.Context, q store.Querier, limit int) ([]Renormalization, error) {
	var rows []renormalizationRow
	if err := q.Select(ctx, &rows, `SELECT `+renormalizationColumns+` FROM renormalizations ORDER BY seq DESC LIMIT $1`, limit); err != nil {
		return nil, QueryError("the renormalizations", err)
	}
	all := make([]Renormalization, len(rows))
	for i, row := range rows {
		var err error
		if all[i], err = row.renormalization(ctx, q); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// RenormalizationSource is the source of the events of added prices.
const RenormalizationSource = pipeline.SourcePrefix + "renormalize"

// Rereading is a renormalization whose answers are being read. One process at a time has
// one; what a process that was killed leaves behind, the next one deletes.
type Rereading struct {
	ID   string
	hold *heldLease
	row  renormalizationRow
}

const (
	rereadingLease = "renormalize"
	rereadingTTL   = 10 * time.Second
)

// Reread begins a renormalization of the answers of a provider, or of all for the empty one.
// It refuses to where read models of prices could not be built.
func Reread(ctx context.Context, db *store.Store, all []pipeline.Projection, provider schema.Provider, reason string) (*Rereading, error) {
	hold, err := acquireLease(ctx, db, rereadingLease, rereadingTTL, errReadingTaken)
	if err != nil {
		return nil, err
	}
	if hold == nil {
		return nil, fmt.Errorf("%w, or was killed less than %s ago", errReadingTaken, rereadingTTL)
	}
	r := &Rereading{hold: hold}
	if err = r.begin(ctx, all, provider, reason); err != nil {
		return nil, errors.Join(err, hold.release(context.WithoutCancel(ctx)))
	}
	return r, nil
}

func (r *Rereading) begin(ctx context.Context, all []pipeline.Projection, provider schema.Provider, reason string) error {
	var left []renormalizationRow
	err := r.hold.db.Select(ctx, &left, `SELECT `+renormalizationColumns+` FROM renormalizations WHERE state = $1`, RenormalizationReading)
	if err != nil {
		return fmt.Errorf("looking for renormalizations that were killed: %w", err)
	}
	for _, row := range left {
		if err := r.abandon(ctx, row, "the process that read the answers has ended"); err != nil {
			return err
		}
	}
	return r.write(ctx, func(tx *store.Tx) error {
		var open []renormalizationRow
		if err := tx.Select(ctx, &open, `SELECT `+renormalizationColumns+` FROM renormalizations WHERE state = $1`, RenormalizationBuilding); err != nil {
			return err
		}
		if len(open) > 0 {
			o := open[0]
			parts, err := o.parts(ctx, tx)
			if err != nil {
				return err
			}
			if state, why := o.stands(parts); state == RenormalizationFailed {
				return fmt.Errorf("%s has failed, since %s: drop what it has built by pricemill renormalize cancel %s: %w", o.ID, why, o.ID, ErrRenormalizing)
			}
			return fmt.Errorf("%s: %w", o.ID, ErrRenormalizing)
		}
		for _, p := range all {
			if err := buildable(ctx, tx, p); err != nil {
				return err
			}
		}
		now := schema.NewTime(time.Now())
		r.row = renormalizationRow{ID: "renormalization_" + strings.ToLower(rand.Text()[:8]), Provider: provider, Reason: reason, State: RenormalizationReading,
			CreatedAt: now, ChangedAt: now}
		r.ID = r.row.ID
		if err := tx.Get(ctx, &r.row.Seq, `SELECT COALESCE(MAX(seq), 0) + 1 FROM renormalizations`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO renormalizations (id, seq, provider, reason, state, created_at, changed_at) VALUES ($1, $2, $3, $4, $5, $6, $6)`,
			r.row.ID, r.row.Seq, provider, reason, r.row.State, now)
		return err
	})
}

// write is a transaction in which the lease is held.
func (r *Rereading) write(ctx context.Context, f func(tx *store.Tx) error) error {
	return r.hold.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		if err := r.hold.check(ctx, tx); err != nil {
			return err
		}
		return f(tx)
	})
}

// Lost tells why the lease was lost, if it was.
func (r *Rereading) Lost() <-chan error { return r.hold.lost }

// Taken tells what records say to the read models that serve, nil for one that says nothing
// to them.
func Taken(ctx context.Context, q store.Querier) (func(context.Context, []pipeline.Record) ([]schema.Payload, error), error) {
	taken, err := promotedReadings(ctx, q)
	last := memory{}
	return func(ctx context.Context, in []pipeline.Record) ([]schema.Payload, error) {
		payloads, err := taken.payloads(ctx, q, last, in)
		if err != nil || payloads != nil {
			return payloads, err
		}
		payloads = make([]schema.Payload, len(in))
		for i := range in {
			payloads[i] = in[i].Event.Payload
		}
		return payloads, nil
	}, err
}

// memory is lasts outside of a lane.
type memory map[lastKey]int64

func (m memory) Get(k lastKey) (int64, bool) { v, ok := m[k]; return v, ok }
func (m memory) Put(k lastKey, v int64)      { m[k] = v }

// Cut is a transaction from which on the stage normalize continues from what has been read: f
// changes its state, and it reads that again.
func (r *Rereading) Cut(ctx context.Context, f func(tx *store.Tx) error) error {
	err := r.write(ctx, func(tx *store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE renormalizations SET cut = 1 WHERE id = $1`, r.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("having normalize continue from %s: %w", r.ID, err)
	}
	return nil
}

// RevisedPrice is what an answer is read as in the place of an event.
type RevisedPrice struct {
	EventID string
	// RecordID is the row id of the event's record.
	RecordID int64
	// Payload is nil where the price is withdrawn. Of a price that was added it is the
	// schema.PriceAdded of the record.
	Payload schema.Payload
}

// revisedChunk is how many revised prices a transaction writes.
const revisedChunk = 2000

// Revise notes revised prices. Nothing takes them before Build.
func (r *Rereading) Revise(ctx context.Context, prices []RevisedPrice) error {
	for chunk := range slices.Chunk(prices, revisedChunk) {
		rows := store.Rows{Table: "revised_prices", Columns: []string{"renormalization", "event_id", "record_id", "event_type", "payload"}}
		for _, p := range chunk {
			var kind schema.EventType
			var text []byte
			if p.Payload != nil {
				kind = p.Payload.EventType()
				var err error
				if _, text, err = (schema.Event{ID: p.EventID, Source: RenormalizationSource, Payload: p.Payload}).Encode(); err != nil {
					return fmt.Errorf("writing a revised price: %w", err)
				}
			}
			switch p.Payload.(type) {
			case nil:
				r.row.Withdrawn++
			case schema.PriceAdded:
				r.row.Added++
			default:
				r.row.Revised++
			}
			rows.Add(r.ID, p.EventID, p.RecordID, kind, string(text))
		}
		if err := r.write(ctx, func(tx *store.Tx) error { return tx.Insert(ctx, rows) }); err != nil {
			return fmt.Errorf("noting revised prices: %w", err)
		}
	}
	return nil
}

// Build ends the reading, and orders the builds of all read models of prices. Where nothing
// was revised there is nothing to build.
func (r *Rereading) Build(ctx context.Context, all []pipeline.Projection, answers, unread int64, rate int) error {
	r.row.Answers, r.row.Unread = answers, unread
	err := r.write(ctx, func(tx *store.Tx) error {
		state := RenormalizationUnchanged
		if r.row.Revised+r.row.Withdrawn+r.row.Added > 0 {
			state = RenormalizationBuilding
			taken, err := promotedReadings(ctx, tx)
			if err != nil {
				return err
			}
			for _, p := range all {
				if !foldsPrices(p) {
					continue
				}
				if err := r.order(ctx, tx, p, taken.with(r.ID), rate); err != nil {
					return fmt.Errorf("projection %s: %w", p.Name(), err)
				}
			}
		}
		return errors.Join(r.row.count(ctx, tx), r.row.set(ctx, tx, state, ""))
	})
	if err != nil {
		return fmt.Errorf("ordering the builds of %s: %w", r.ID, err)
	}
	return r.hold.release(context.WithoutCancel(ctx))
}

func (r *Rereading) order(ctx context.Context, tx *store.Tx, p pipeline.Projection, taken readings, rate int) error {
	serves, _, err := servedGeneration(ctx, tx, p.Name())
	if err != nil || serves.Number == 0 {
		return err // its first tables will take it, once it is promoted
	}
	if err := buildable(ctx, tx, p); err != nil {
		return err
	}
	_, err = order(ctx, tx, p, Order{Promote: PromoteManual, SkipPoison: true, RateLimit: rate}, taken, r.ID)
	return err
}

// buildable checks that a generation of a projection can be built, if it folds prices and one
// serves.
func buildable(ctx context.Context, tx *store.Tx, p pipeline.Projection) error {
	if !foldsPrices(p) {
		return nil
	}
	serves, fold, err := servedGeneration(ctx, tx, p.Name())
	switch {
	case err != nil:
		return err
	case serves.Number == 0:
		return nil
	case fold != fingerprint(p):
		return fmt.Errorf("projection %s: the fold %q serves, and this binary has %q: start a service of this binary and settings first: %w",
			p.Name(), fold, fingerprint(p), ErrRebuildState)
	}
	if err := noneOpen(ctx, tx, p); err != nil {
		return fmt.Errorf("projection %s: %w", p.Name(), err)
	}
	return nil
}

// count writes the counts of a renormalization.
func (r renormalizationRow) count(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE renormalizations SET answers = $1, revised = $2, withdrawn = $3, added = $4, unread = $5 WHERE id = $6`,
		r.Answers, r.Revised, r.Withdrawn, r.Added, r.Unread, r.ID)
	return err
}

// Fail gives the renormalization up, and says why.
func (r *Rereading) Fail(ctx context.Context, why error) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(r.abandon(ctx, r.row, why.Error()), r.hold.release(ctx))
}

// abandon deletes what was read. A price that was added stays in the log, where nothing
// takes it.
func (r *Rereading) abandon(ctx context.Context, row renormalizationRow, why string) error {
	err := r.write(ctx, func(tx *store.Tx) error {
		if err := errors.Join(row.count(ctx, tx), row.set(ctx, tx, RenormalizationFailed, why)); err != nil {
			return err
		}
		return forgetRevised(ctx, tx, row.ID)
	})
	if err != nil {
		return fmt.Errorf("giving up %s: %w", row.ID, err)
	}
	return nil
}

func forgetRevised(ctx context.Context, tx *store.Tx, id string) error {
	_, err := tx.Exec(ctx, `DELETE FROM revised_prices WHERE renormalization = $1`, id)
	return err
}

// PromoteRenormalization has all read models that a renormalization built serve at once:
// readers see the prices as they were read before, or as they are read now. It refuses to
// where the list of prices differs in a price that the renormalization does not name.
func PromoteRenormalization(ctx context.Context, db *store.Store, all []pipeline.Projection, id string) error {
	return changing(ctx, db, id, func(tx *store.Tx, row renormalizationRow) error {
		parts, err := row.parts(ctx, tx)
		if err != nil {
			return err
		}
		if state, why := row.stands(parts); state != RenormalizationReady && state != RenormalizationRolledBack {
			return row.refused(state, why)
		}
		taken, err := promotedReadings(ctx, tx)
		if err != nil {
			return err
		}
		taken = taken.with(id)
		for _, part := range parts {
			if err := part.explained(ctx, tx); err != nil {
				return err
			}
			replaced, err := part.serve(ctx, tx, all, part.Number, taken)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE rebuilds SET replaced = $1 WHERE id = $2`, replaced, part.ID); err != nil {
				return err
			}
			if err := part.set(ctx, tx, RebuildPromoted, ""); err != nil {
				return err
			}
		}
		return row.set(ctx, tx, RenormalizationPromoted, "")
	})
}

// RollBackRenormalization has those read models serve again that served before, all at once.
func RollBackRenormalization(ctx context.Context, db *store.Store, all []pipeline.Projection, id string) error {
	return changing(ctx, db, id, func(tx *store.Tx, row renormalizationRow) error {
		taken, err := promotedReadings(ctx, tx)
		if err != nil {
			return err
		}
		parts, err := row.parts(ctx, tx)
		if err != nil {
			return err
		}
		if state, why := row.stands(parts); state != RenormalizationPromoted {
			return row.refused(state, why)
		}
		ids := taken.ids()
		if last := ids[len(ids)-1]; last != id {
			return fmt.Errorf("%s was promoted after %s: roll that back first: %w", last, id, ErrRebuildState)
		}
		before := readings(strings.Join(ids[:len(ids)-1], ","))
		for _, part := range parts {
			if _, err := part.serve(ctx, tx, all, part.Replaced, before); err != nil {
				return err
			}
			if err := part.set(ctx, tx, RebuildRolledBack, ""); err != nil {
				return err
			}
		}
		return row.set(ctx, tx, RenormalizationRolledBack, "")
	})
}

// CancelRenormalization ends a renormalization that does not serve, and drops what was built.
func CancelRenormalization(ctx context.Context, db *store.Store, all []pipeline.Projection, id string) error {
	err := changing(ctx, db, id, func(tx *store.Tx, row renormalizationRow) error {
		parts, err := row.parts(ctx, tx)
		if err != nil {
			return err
		}
		if row.State != RenormalizationBuilding && row.State != RenormalizationRolledBack {
			return row.refused(row.stands(parts))
		}
		for _, part := range parts {
			if part.State == RebuildFailed {
				continue
			}
			if err := part.set(ctx, tx, RebuildCancelled, ""); err != nil {
				return err
			}
		}
		return errors.Join(row.set(ctx, tx, RenormalizationCancelled, ""), forgetRevised(ctx, tx, id))
	})
	if err != nil {
		return err
	}
	row, err := getRenormalization(ctx, db, id)
	if err != nil {
		return err
	}
	parts, err := row.parts(ctx, db)
	for _, part := range parts {
		_ = retrying(ctx, func() error { return sweep(ctx, db, all, part.ID) }) // as CancelRebuild
	}
	return err
}

// changing is a transaction that changes which generations serve.
func changing(ctx context.Context, db *store.Store, id string, f func(tx *store.Tx, row renormalizationRow) error) error {
	return retrying(ctx, func() error {
		return db.Write(ctx, func(tx *store.Tx) error {
			if err := errors.Join(tx.BoundLocks(ctx, lockWait), tx.LockSchema(ctx)); err != nil {
				return err
			}
			row, err := getRenormalization(ctx, tx, id)
			if err != nil {
				return err
			}
			return f(tx, row)
		})
	})
}

// serve has a generation of the projection of a rebuild serve, which must take some
// renormalizations, and returns which one did.
func (r rebuildRow) serve(ctx context.Context, tx *store.Tx, all []pipeline.Projection, number int, taken readings) (replaced int, err error) {
	p, err := named(all, r.Projection)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(takes(ctx, tx, p, number, taken), feeds(ctx, tx, p, number)); err != nil {
		return 0, err
	}
	return swap(ctx, tx, p, number, false)
}

// feeds checks that this binary and its settings feed a generation.
func feeds(ctx context.Context, q store.Querier, p pipeline.Projection, number int) error {
	var folds []string
	err := q.Select(ctx, &folds, `SELECT fold FROM generations WHERE projection = $1 AND number = $2`, p.Name(), number)
	if err != nil {
		return fmt.Errorf("reading what built generation %d of %s: %w", number, p.Name(), err)
	}
	if len(folds) == 1 && folds[0] != fingerprint(p) {
		return fmt.Errorf("generation %d of %s was built by the fold %q, and this binary has %q, so nothing would feed it: %w",
			number, p.Name(), folds[0], fingerprint(p), ErrRebuildState)
	}
	return nil
}

// takes checks that a generation takes some renormalizations, and no others.
func takes(ctx context.Context, q store.Querier, p pipeline.Projection, number int, taken readings) error {
	var is []readings
	err := q.Select(ctx, &is, `SELECT renormalizations FROM generations WHERE projection = $1 AND number = $2`, p.Name(), number)
	switch {
	case err != nil:
		return fmt.Errorf("reading what generation %d of %s takes: %w", number, p.Name(), err)
	case len(is) == 0:
		return fmt.Errorf("generation %d of %s is gone: %w", number, p.Name(), ErrRebuildState)
	case is[0] != taken.of(p):
		return fmt.Errorf("generation %d of %s takes %q, and not %q: %w: %w", number, p.Name(), is[0], taken.of(p), ErrReadings, ErrRebuildState)
	}
	return nil
}

// servedReadings are those of the generation that serves.
func servedReadings(ctx context.Context, q store.Querier, p pipeline.Projection) (readings, error) {
	var taken []readings
	err := q.Select(ctx, &taken, `SELECT renormalizations FROM generations WHERE projection = $1 AND active = 1`, p.Name())
	if err != nil || len(taken) == 0 {
		return "", err
	}
	return taken[0], nil
}

// explained checks that the list of prices differs in no price but those that the
// renormalization names.
func (r rebuildRow) explained(ctx context.Context, q store.Querier) error {
	b, err := r.rebuild(ctx, q)
	if err != nil || r.Projection != PriceListName {
		return err
	}
	if b.Proof == nil {
		return fmt.Errorf("rebuild %s was not compared with what serves: %w", r.ID, ErrRebuildState)
	}
	for _, t := range b.Proof.Tables {
		if t.Unexplained > 0 {
			return fmt.Errorf("%d rows of %s differ that renormalization %s does not name: see pricemill rebuild show %s: %w: %w",
				t.Unexplained, t.Table, r.Renormalization, r.ID, ErrUnexplained, ErrRebuildState)
		}
	}
	return nil
}

// named are the records whose prices a renormalization revises.
func (r rebuildRow) revised(ctx context.Context, q store.Querier) (map[int64]bool, error) {
	if r.Renormalization == "" || r.Projection != PriceListName {
		return nil, nil
	}
	var ids []int64
	if err := q.Select(ctx, &ids, `SELECT record_id FROM revised_prices WHERE renormalization = $1`, r.Renormalization); err != nil {
		return nil, fmt.Errorf("reading which prices %s revises: %w", r.Renormalization, err)
	}
	all := make(map[int64]bool, len(ids))
	for _, id := range ids {
		all[id] = true
	}
	return all, nil
}
