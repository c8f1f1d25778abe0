package fetch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// budgetRow is a row of fetch_budgets, with the database's clock next to it.
type budgetRow struct {
	Provider schema.Provider `db:"provider"`
	Closed   int64           `db:"closed_until"`
	Spent    string          `db:"spent"`
	Now      int64           `db:"now"`
}

const nothingSpent = `{}`

// readBudgets reads all rows.
func readBudgets(ctx context.Context, db store.Querier) ([]budgetRow, error) {
	var rows []budgetRow
	if err := db.Select(ctx, &rows, `SELECT provider, closed_until, spent, `+db.NowMillis()+` AS now FROM fetch_budgets`); err != nil {
		return nil, fmt.Errorf("reading budgets: %w", err)
	}
	return rows, nil
}

// lockBudgets keeps all other processes from granting calls of these providers
// until the transaction ends. The providers are in order: two transactions that
// lock several never wait in a circle.
func lockBudgets(ctx context.Context, tx *pipeline.Tx, providers []schema.Provider) ([]budgetRow, error) {
	missing := store.Rows{Table: "fetch_budgets", Columns: []string{"provider", "closed_until", "spent"},
		Clause: "ON CONFLICT (provider) DO NOTHING"}
	for _, p := range providers {
		missing.Add(p, int64(0), nothingSpent)
	}
	if err := tx.Insert(ctx, missing); err != nil {
		return nil, err
	}
	rows, err := store.SelectIn[budgetRow](ctx, tx, `SELECT provider, closed_until, spent, `+tx.NowMillis()+` AS now FROM fetch_budgets
		WHERE provider IN (?) ORDER BY provider `+tx.LockRows("fetch_budgets"), providers)
	if err != nil {
		return nil, fmt.Errorf("locking budgets: %w", err)
	}
	return rows, nil
}

func storeBudget(ctx context.Context, tx *pipeline.Tx, provider schema.Provider, b *budget, now int64) error {
	text, err := b.text(now)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE fetch_budgets SET closed_until = $1, spent = $2 WHERE provider = $3`, b.closed, text, provider); err != nil {
		return fmt.Errorf("storing the budget of %s: %w", provider, err)
	}
	return nil
}

func (v view) providers() []schema.Provider {
	var providers []schema.Provider
	for _, l := range v.lineups {
		providers = append(providers, l.provider)
	}
	return providers
}

func (v view) budget(provider schema.Provider) *budget {
	at := slices.IndexFunc(v.lineups, func(l lineup) bool { return l.provider == provider })
	return v.lineups[at].budget
}

// setBudgets reads the budgets of the lineups from rows. A provider without a
// row has spent nothing.
func (v view) setBudgets(rows []budgetRow) error {
	for i := range v.lineups {
		l := &v.lineups[i]
		row := budgetRow{Provider: l.provider, Spent: nothingSpent}
		if at := slices.IndexFunc(rows, func(r budgetRow) bool { return r.Provider == l.provider }); at >= 0 {
			row = rows[at]
		}
		var err error
		if l.budget, err = newBudget(l.limits, row.Closed, row.Spent); err != nil {
			return fmt.Errorf("provider %s: %w", l.provider, err)
		}
	}
	return nil
}

// storeBudgets stores those that calls were entered into.
func (v view) storeBudgets(ctx context.Context, tx *pipeline.Tx) error {
	for _, l := range v.lineups {
		if len(l.limits) == 0 {
			continue
		}
		if err := storeBudget(ctx, tx, l.provider, l.budget, v.now); err != nil {
			return err
		}
	}
	return nil
}

// endCalls notes that calls have ended, and the pauses that providers asked for.
func endCalls(ctx context.Context, tx *pipeline.Tx, outcomes []outcome, limits func(schema.Provider) []pipeline.Limit) error {
	var providers []schema.Provider
	for _, o := range outcomes {
		p := o.request.Provider
		if !slices.Contains(providers, p) && (o.pause > 0 || len(limits(p)) > 0) {
			providers = append(providers, p)
		}
	}
	if len(providers) == 0 {
		return nil
	}
	slices.Sort(providers)
	rows, err := lockBudgets(ctx, tx, providers)
	if err != nil {
		return err
	}
	var now int64 // the locks may have taken a while
	if err := tx.Get(ctx, &now, `SELECT `+tx.NowMillis()); err != nil {
		return fmt.Errorf("reading the clock: %w", err)
	}
	for _, row := range rows {
		b, err := newBudget(limits(row.Provider), row.Closed, row.Spent)
		if err != nil {
			return fmt.Errorf("provider %s: %w", row.Provider, err)
		}
		for _, o := range outcomes {
			if o.request.Provider != row.Provider {
				continue
			}
			b.end(o.request.latest, now)
			if o.pause > 0 {
				b.closed = max(b.closed, now+o.pause.Milliseconds()+1)
			}
		}
		if err := storeBudget(ctx, tx, row.Provider, b, now); err != nil {
			return err
		}
	}
	return nil
}

// forgetRefused is how long the place of a symbol is kept that no one asks for
// again: longer than the longest interval of a polling job.
const forgetRefused = 2 * time.Hour

// keepPlaces keeps the places of requests that fail for want of a call, for the
// next ones of their symbols, and drops those of symbols that are served. It runs
// under the locks of the budgets.
func keepPlaces(ctx context.Context, tx *pipeline.Tx, p plan, now schema.Time) error {
	type symbol struct {
		provider schema.Provider
		symbol   schema.Symbol
	}
	done := map[symbol]bool{} // served, or refused once: the first came before the others
	served := map[schema.Provider][]schema.Symbol{}
	for _, r := range p.serve {
		done[symbol{r.Provider, r.Symbol}] = true
		if r.Refused {
			served[r.Provider] = append(served[r.Provider], r.Symbol)
		}
	}
	for provider, symbols := range served {
		if _, err := store.SelectIn[string](ctx, tx, `DELETE FROM fetch_refused WHERE provider = $1 AND symbol IN (?)
			RETURNING symbol`, symbols, provider); err != nil {
			return fmt.Errorf("forgetting refused symbols of %s: %w", provider, err)
		}
	}
	rows := store.Rows{Table: "fetch_refused", Columns: []string{"provider", "symbol", "since", "refused_at"},
		Clause: "ON CONFLICT (provider, symbol) DO UPDATE SET refused_at = excluded.refused_at"}
	refused := map[schema.Provider]bool{}
	for _, o := range p.fail {
		r := o.request
		if s := (symbol{r.Provider, r.Symbol}); o.refused && !done[s] {
			done[s], refused[r.Provider] = true, true
			rows.Add(r.Provider, r.Symbol, r.Since, now)
		}
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return err
	}
	for provider := range refused {
		if _, err := tx.Exec(ctx, `DELETE FROM fetch_refused WHERE provider = $1 AND refused_at < $2`,
			provider, now.Add(-forgetRefused)); err != nil {
			return fmt.Errorf("forgetting old refusals of %s: %w", provider, err)
		}
	}
	return nil
}
