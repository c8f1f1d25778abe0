// Package claim shares the rows of a table among processes: a row belongs to one process for
// as long as it renews its claim. A claim is in two columns of the row, claimed_by and
// claimed_until, and its time is the database's, so no process needs the clock of another.
//
// A claim makes sharing efficient, not exact: a process that was suspended may work on a row
// that another has taken meanwhile. So a statement that writes what the work brought names
// the owner.
package claim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Table is a table whose rows are claimed.
type Table struct {
	Name string
	// ID is the column of the key. All transactions lock rows in its order.
	ID string
	// Open is the condition of rows that are worked on.
	Open string
	// Order are the columns by which rows are taken, the first ones first.
	Order string
	// Lasts is how long a claim lasts unless it is renewed: the rows of a process that died
	// are taken over after that.
	Lasts time.Duration
}

// Free is the condition of open rows that no process owns, and Held that of the others.
func (t Table) Free(q store.Querier) string { return t.Open + ` AND claimed_until < ` + q.NowMillis() }

// Held is the condition of open rows that a process owns.
func (t Table) Held(q store.Querier) string { return t.Open + ` AND claimed_until >= ` + q.NowMillis() }

// AnyFree reports whether a row is free. It takes no lock.
func (t Table) AnyFree(ctx context.Context, q store.Querier) (bool, error) {
	var n int
	if err := q.Get(ctx, &n, `SELECT count(*) FROM `+t.Name+` WHERE `+t.Free(q)); err != nil {
		return false, fmt.Errorf("looking for %s: %w", t.Name, err)
	}
	return n > 0, nil
}

// Count counts the open rows, and returns those of ids that are known. One that becomes known
// meanwhile may be counted and left out.
func (t Table) Count(ctx context.Context, q store.Querier, ids []string) (open int, known []string, err error) {
	known, err = store.SelectIn[string](ctx, q, `SELECT `+t.ID+` FROM `+t.Name+` WHERE `+t.ID+` IN (?)`, ids)
	if err == nil {
		err = q.Get(ctx, &open, `SELECT count(*) FROM `+t.Name+` WHERE `+t.Open)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("counting the %s: %w", t.Name, err)
	}
	return open, known, nil
}

// Statuses reads the column status of the rows that the records of a batch are about, and
// keeps their owners from changing it until the transaction ends. A row that there is not
// has none.
func Statuses[S ~string](ctx context.Context, tx *pipeline.Tx, t Table, in []pipeline.Record) (map[string]S, error) {
	ids := map[string]bool{}
	for i := range in {
		ids[in[i].Event.Payload.Key()] = true
	}
	type row struct {
		ID     string `db:"id"`
		Status S      `db:"status"`
	}
	rows, err := store.SelectIn[row](ctx, tx, `SELECT `+t.ID+` AS id, status FROM `+t.Name+` WHERE `+t.ID+` IN (?)
		ORDER BY `+t.ID+` `+tx.LockRows(t.Name), slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", t.Name, err)
	}
	statuses := make(map[string]S, len(ids))
	for _, r := range rows {
		statuses[r.ID] = r.Status
	}
	return statuses, nil
}

// Claims are those of one owner.
type Claims struct {
	Table
	Owner string
}

// Claims returns those of a new owner, who has none yet.
func (t Table) Claims() (Claims, error) {
	owner, err := uuid.NewRandom()
	if err != nil {
		return Claims{}, fmt.Errorf("naming the owner of claims: %w", err)
	}
	return Claims{t, owner.String()}, nil
}

// Take claims free rows, at most so many, and returns these columns of them.
func Take[R any](ctx context.Context, tx *pipeline.Tx, c Claims, most int, columns string) ([]R, error) {
	var taken []R
	// Rows that another process is about to take are skipped.
	err := tx.Select(ctx, &taken, `WITH held AS (SELECT `+c.ID+` FROM `+c.Name+` WHERE `+c.Free(tx)+`
			ORDER BY `+c.Order+`, `+c.ID+` LIMIT $3 `+tx.LockFreeRows(c.Name)+`)
		UPDATE `+c.Name+` SET claimed_by = $1, claimed_until = `+tx.NowMillis()+` + $2
		WHERE `+c.ID+` IN (SELECT `+c.ID+` FROM held) RETURNING `+columns, c.Owner, c.Lasts.Milliseconds(), most)
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", c.Name, err)
	}
	return taken, nil
}

// held begins a statement about those of ids, in place of ?, that are rows of owner $1.
func (c Claims) held(tx *pipeline.Tx, condition string) string {
	return `WITH held AS (SELECT ` + c.ID + ` FROM ` + c.Name + ` WHERE ` + c.ID + ` IN (?) AND claimed_by = $1` + condition + `
		ORDER BY ` + c.ID + ` ` + tx.LockRows(c.Name) + `) `
}

// Renew renews the claims of the owner on some rows, and returns these columns of those that
// are open, and still its own. It takes ids, since a claim whose commit was not answered is
// no one's work: it has to end.
func Renew[R any](ctx context.Context, tx *pipeline.Tx, c Claims, ids []string, columns string) ([]R, error) {
	ours, err := store.SelectIn[R](ctx, tx, c.held(tx, ` AND `+c.Open)+`UPDATE `+c.Name+` SET claimed_until = `+tx.NowMillis()+` + $2
		WHERE `+c.ID+` IN (SELECT `+c.ID+` FROM held) AND claimed_by = $1 RETURNING `+columns, ids, c.Owner, c.Lasts.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("renewing the claims of %s: %w", c.Name, err)
	}
	return ours, nil
}

// Release gives up the claims of the owner on some rows, so that the next owner need not wait
// until they end.
func (c Claims) Release(ctx context.Context, tx *pipeline.Tx, ids []string) error {
	_, err := store.SelectIn[string](ctx, tx, c.held(tx, ``)+`UPDATE `+c.Name+` SET claimed_by = '', claimed_until = 0
		WHERE `+c.ID+` IN (SELECT `+c.ID+` FROM held) AND claimed_by = $1 RETURNING `+c.ID, ids, c.Owner)
	if err != nil {
		return fmt.Errorf("giving up claims of %s: %w", c.Name, err)
	}
	return nil
}
