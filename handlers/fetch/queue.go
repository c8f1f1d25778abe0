package fetch

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/handlers/failingjobs"
	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// request is a row of fetch_queue.
type request struct {
	ID          string          `db:"request_id"`
	Provider    schema.Provider `db:"provider"`
	Symbol      schema.Symbol   `db:"symbol"`
	Deadline    schema.Time     `db:"deadline"`
	Traceparent string          `db:"traceparent"`
	// Since is its place in the queue; Refused says that it inherited it.
	Since   schema.Time `db:"since"`
	Refused bool        `db:"refused"`
	// Scheduled tells the request of a polling job from that of a client.
	Scheduled bool `db:"scheduled"`

	turn bool // it is the jobs' turn, and may use what is kept for clients

	latest int64 // when its call has ended for certain, as the budget has it
}

const (
	// claimMillis is how long a claim lasts unless it is renewed: what a process
	// that died was working on is taken over after that.
	claimMillis = 3000
	// maxOverdue and maxLineup bound the requests of one transaction: those that
	// are overdue, and those of one provider.
	maxOverdue = 100
	maxLineup  = 200
)

// queue is the view that one process has of the tables.
//
// Where a transaction locks rows of several tables, it does so in one order:
// fetch_queue, provider_definitions, fetch_budgets, fetch_refused,
// failing_jobs, the outbox. Once it has rows of
// fetch_budgets, it waits for none of fetch_queue any more: it skips those
// that others hold.
type queue struct {
	owner string
	emit  pipeline.Emitter
	log   *slog.Logger
}

func newQueue(emit pipeline.Emitter, log *slog.Logger) (*queue, error) {
	owner, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("naming the owner of claims: %w", err)
	}
	return &queue{owner: owner.String(), emit: emit, log: log}, nil
}

// look shows the open requests and what there is to serve them with, and locks
// nothing. lineup says of a provider what this process knows without looking.
func (q *queue) look(ctx context.Context, local schema.Time, lineup func(schema.Provider) lineup) (view, error) {
	v := view{local: local}
	var providers []schema.Provider
	err := q.emit.Select(ctx, &providers, `SELECT DISTINCT provider FROM fetch_queue q WHERE `+open(q.emit)+` ORDER BY provider`, q.owner)
	if err != nil {
		return v, fmt.Errorf("looking for open requests: %w", err)
	}
	if len(providers) == 0 {
		return v, nil
	}
	for _, provider := range providers {
		v.lineups = append(v.lineups, lineup(provider))
	}
	rows, err := readBudgets(ctx, q.emit)
	if err != nil {
		return v, err
	}
	if err := v.setBudgets(rows); err != nil {
		return v, err
	}
	return v, q.fill(ctx, q.emit, &v, "")
}

// claim does what there is to do about the providers of v, seen before: it claims
// the requests that are to be served, with their calls, and ends those that are
// not. It first renews all claims of this process if renew says so.
func (q *queue) claim(ctx context.Context, seen view, renew bool) (plan, error) {
	var p plan
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		if renew {
			if err := q.renewIn(ctx, tx); err != nil {
				return nil, err
			}
		}
		v := view{local: seen.local, lineups: slices.Clone(seen.lineups)}
		rows, err := lockBudgets(ctx, tx, v.providers())
		if err != nil {
			return nil, err
		}
		if err := v.setBudgets(rows); err != nil {
			return nil, err
		}
		if err := q.fill(ctx, tx, &v, tx.LockFreeRows("q")); err != nil {
			return nil, err
		}
		p = v.plan()
		return q.apply(ctx, tx, v, p)
	})
	return p, err
}

// open is the condition of requests that this process, $1, may claim.
func open(db store.Querier) string {
	return `q.claimed_until < ` + db.NowMillis() + ` AND q.claimed_by <> $1`
}

// fill reads the clock and the open requests of a view. In each lineup are as
// many requests of clients and of jobs as can be served, or, where calls are
// rationed or some fail anyway, as many as one view takes, and those that are
// overdue: they need no answer any more.
func (q *queue) fill(ctx context.Context, db store.Querier, v *view, lock string) error {
	if err := db.Get(ctx, &v.now, `SELECT `+db.NowMillis()); err != nil {
		return fmt.Errorf("reading the clock: %w", err)
	}
	overdue, err := q.some(ctx, db, `q.deadline <= $2`, `q.requested_at`, lock, v.local, maxOverdue)
	if err != nil {
		return err
	}
	for i := range v.lineups {
		l := &v.lineups[i]
		// Whose symbol was refused last time takes the place that it had then.
		order, mostClients, mostJobs := `COALESCE(r.since, q.requested_at)`, maxLineup, maxLineup
		if rationed := len(l.limits) > 0 || l.budget.closed > v.now; !rationed && l.shut == nil {
			order, mostClients, mostJobs = `q.requested_at`, min(l.slots, maxLineup), min(l.jobSlots, maxLineup)
		}
		clients, err := q.some(ctx, db, `q.provider = $2 AND q.scheduled = 0`, order, lock, l.provider, mostClients)
		if err != nil {
			return err
		}
		jobs, err := q.some(ctx, db, `q.provider = $2 AND q.scheduled = 1`, order, lock, l.provider, mostJobs)
		if err != nil {
			return err
		}
		l.open = interleave(clients, jobs, l.sinceJob)
		for _, r := range overdue {
			if r.Provider == l.provider && !slices.ContainsFunc(l.open, func(o request) bool { return o.ID == r.ID }) {
				l.open = append(l.open, r)
			}
		}
	}
	return nil
}

// some reads the first open requests in an order that meet a condition on
// parameter $2.
func (q *queue) some(ctx context.Context, db store.Querier, condition, order, lock string, arg any, most int) ([]request, error) {
	var some []request
	if most <= 0 {
		return nil, nil
	}
	err := db.Select(ctx, &some, `SELECT q.request_id, q.provider, q.symbol, q.deadline, q.traceparent,
			COALESCE(r.since, q.requested_at) AS since, r.since IS NOT NULL AS refused,
			q.scheduled <> 0 AS scheduled
		FROM fetch_queue q LEFT JOIN fetch_refused r ON r.provider = q.provider AND r.symbol = q.symbol
		WHERE `+condition+` AND `+open(db)+` ORDER BY `+order+`, q.request_id LIMIT $3 `+lock, q.owner, arg, most)
	if err != nil {
		return nil, fmt.Errorf("reading open requests where %s: %w", condition, err)
	}
	return some, nil
}

// apply stores a plan made in this transaction, whose requests it has locked.
func (q *queue) apply(ctx context.Context, tx *pipeline.Tx, v view, p plan) ([]schema.Event, error) {
	if len(p.serve) > 0 {
		ids := make([]string, len(p.serve))
		for i, r := range p.serve {
			ids[i] = r.ID
			v.budget(r.Provider).spend(r.latest)
		}
		if _, err := store.SelectIn[string](ctx, tx, `UPDATE fetch_queue SET claimed_by = $1, claimed_until = `+tx.NowMillis()+` + $2
			WHERE request_id IN (?) RETURNING request_id`, ids, q.owner, claimMillis); err != nil {
			return nil, fmt.Errorf("claiming requests: %w", err)
		}
		if err := v.storeBudgets(ctx, tx); err != nil {
			return nil, err
		}
	}
	if err := keepPlaces(ctx, tx, p, v.local); err != nil {
		return nil, err
	}
	events, removed, err := remove(ctx, tx, p.fail)
	if err != nil {
		return nil, err
	}
	return events, failingjobs.Note(ctx, tx, q.log, failures(removed))
}

// own begins a statement on all claims of owner $1. They are locked in one
// order, so that two statements of different processes never wait in a circle.
func own(tx *pipeline.Tx) string {
	return `WITH held AS (SELECT request_id FROM fetch_queue WHERE claimed_by = $1
		ORDER BY request_id ` + tx.LockRows("fetch_queue") + `) `
}

// renew renews all claims: all that this owner claimed is under way.
func (q *queue) renew(ctx context.Context) error {
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) { return nil, q.renewIn(ctx, tx) })
	return err
}

func (q *queue) renewIn(ctx context.Context, tx *pipeline.Tx) error {
	if _, err := tx.Exec(ctx, own(tx)+`UPDATE fetch_queue SET claimed_until = `+tx.NowMillis()+` + $2
		WHERE request_id IN (SELECT request_id FROM held) AND claimed_by = $1`, q.owner, claimMillis); err != nil {
		return fmt.Errorf("renewing claims: %w", err)
	}
	return nil
}

// release gives up all claims, so that anyone who comes next need not wait until
// they end.
func (q *queue) release(ctx context.Context) error {
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		_, err := tx.Exec(ctx, own(tx)+`UPDATE fetch_queue SET claimed_by = '', claimed_until = 0
			WHERE request_id IN (SELECT request_id FROM held) AND claimed_by = $1`, q.owner)
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("giving up claims: %w", err)
	}
	return nil
}

// finish publishes the outcomes of requests and removes them, in one
// transaction, which also notes that their calls have ended. A request that
// another process finished meanwhile is left out: each has one outcome. It
// returns those that count.
func (q *queue) finish(ctx context.Context, outcomes []outcome, limits func(schema.Provider) []pipeline.Limit) ([]outcome, error) {
	var counted []outcome
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		events, removed, err := remove(ctx, tx, outcomes)
		if err != nil {
			return nil, err
		}
		counted = removed
		if err := keepDefinitions(ctx, tx, removed); err != nil {
			return nil, err
		}
		if err := endCalls(ctx, tx, outcomes, limits); err != nil {
			return nil, err
		}
		return events, failingjobs.Note(ctx, tx, q.log, failures(removed))
	})
	return counted, err
}

// keepDefinitions keeps what the answers are read by, in the transaction that gives the
// answers to the log: anyone who reads one finds its definition.
func keepDefinitions(ctx context.Context, tx *pipeline.Tx, outcomes []outcome) error {
	definitions := map[string]string{}
	for _, o := range outcomes {
		if answer, ok := o.payload.(schema.QuoteFetched); ok && answer.Definition != "" {
			definitions[answer.Definition] = o.definition
		}
	}
	return declared.Keep(ctx, tx, definitions)
}

// failures are those of some outcomes. Whether an answer holds a price is for
// normalize to say.
func failures(outcomes []outcome) []failingjobs.Outcome {
	var all []failingjobs.Outcome
	for _, o := range outcomes {
		if f, ok := o.payload.(schema.QuoteFailed); ok {
			all = append(all, failureOf(f))
		}
	}
	return all
}

func failureOf(f schema.QuoteFailed) failingjobs.Outcome {
	return failingjobs.Outcome{Quote: f.Quote, At: f.FailedAt, Code: f.Code, Reason: f.Reason}
}

// remove removes requests that have their outcome and returns the events that
// tell it, and the outcomes of those that were still there.
func remove(ctx context.Context, tx *pipeline.Tx, outcomes []outcome) ([]schema.Event, []outcome, error) {
	ids := make([]string, len(outcomes))
	byID := make(map[string]outcome, len(outcomes))
	for i, o := range outcomes {
		ids[i], byID[o.request.ID] = o.request.ID, o
	}
	removed, err := store.SelectIn[string](ctx, tx, `WITH held AS (SELECT request_id FROM fetch_queue
			WHERE request_id IN (?) ORDER BY request_id `+tx.LockRows("fetch_queue")+`)
		DELETE FROM fetch_queue WHERE request_id IN (SELECT request_id FROM held) RETURNING request_id`, ids)
	if err != nil {
		return nil, nil, fmt.Errorf("removing finished requests: %w", err)
	}
	events, counted := make([]schema.Event, len(removed)), make([]outcome, len(removed))
	for i, id := range removed {
		o := byID[id]
		counted[i] = o
		events[i] = schema.Event{ID: schema.DeriveID(Name, id), Source: "pricemill/" + Name,
			Traceparent: o.request.Traceparent, Payload: o.payload}
	}
	return events, counted, nil
}
