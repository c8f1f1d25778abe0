package deletion

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// rule is what is done with some rows of a table.
type rule struct {
	table string
	condition
	// set is what they get; empty where they are deleted.
	set string
	// emptied says that it is all rows of a table that is filled again.
	emptied bool
}

// count is how many rows it is for.
func (r rule) count(ctx context.Context, q store.Querier) (n int64, err error) {
	if err := q.Get(ctx, &n, "SELECT COUNT(*) FROM "+r.table+" WHERE "+r.text, r.args...); err != nil {
		return 0, fmt.Errorf("counting rows of %s: %w", r.table, err)
	}
	return n, nil
}

// apply changes the rows, and returns how many it were.
func (r rule) apply(ctx context.Context, tx *store.Tx) (int64, error) {
	statement := "DELETE FROM " + r.table
	if r.set != "" {
		statement = "UPDATE " + r.table + " SET " + r.set
	}
	n, err := tx.Exec(ctx, statement+" WHERE "+r.text, r.args...)
	if err != nil {
		return 0, fmt.Errorf("deleting from %s: %w", r.table, err)
	}
	return n, nil
}

// inList are rows by the values of a column, a few at a time.
func inList(table, column string, values []string) []rule {
	const most = 500
	var rules []rule
	for chunk := range slices.Chunk(values, most) {
		places, args := make([]string, len(chunk)), make([]any, len(chunk))
		for i, value := range chunk {
			places[i], args[i] = "$"+strconv.Itoa(i+1), value
		}
		rules = append(rules, rule{table: table, condition: condition{column + " IN (" + strings.Join(places, ", ") + ")", args}})
	}
	return rules
}

// rows is what a deletion does with tables, but for the dead letters and what streams remember.
type rows struct {
	rules []rule
	// refilled are generations that are emptied, and filled again from the log.
	refilled []generation
	left     []Left
}

// generation is a build of a read model.
type generation struct {
	Projection string `db:"projection"`
	Number     int    `db:"number"`
	Active     int    `db:"active"`
	Tables     string `db:"tables"`
}

// stages are the names that its stage has, as a part of the service and while it is filled.
func (g generation) stages() []string {
	name := g.Projection + ".g" + strconv.Itoa(g.Number)
	return []string{name, store.Scratch + name}
}

func (g generation) tables(c Config) ([]string, error) {
	names := strings.Split(g.Tables, ",")
	if g.Tables == "" {
		if names = c.TablesOf(g.Projection); names == nil {
			return nil, fmt.Errorf("%w: this binary does not have projection %s, and so does not know its tables", ErrRefused, g.Projection)
		}
	}
	of := pipeline.Generation{Projection: g.Projection, Number: g.Number, Active: g.Active == 1}
	for i, name := range names {
		names[i] = of.Table(name)
	}
	return names, nil
}

// rowsOf finds out what is to be done with all tables there are. jobs are the polling jobs
// that asked for the data, and refilled the stages of which it is known that they start over.
func (c Config) rowsOf(ctx context.Context, jobs, refilled []string) (rows, error) {
	var found rows
	known := map[string]bool{"goose_db_version": true}
	generations, err := c.generations(ctx)
	if err != nil {
		return found, err
	}
	for _, g := range generations {
		if err := c.ofGeneration(ctx, g, jobs, slices.Contains(refilled, g.stages()[0]), &found, known); err != nil {
			return found, err
		}
	}
	for _, k := range c.Keepers {
		for _, name := range k.DataTables() {
			text, args := k.DataOf(name, c.Subject.Provider, c.Subject.Symbol)
			found.rules = append(found.rules, rule{table: name, condition: condition{text, args}})
			known[name] = true
		}
	}
	for _, t := range Treatments {
		known[t.Table] = true
		switch {
		case t.Table == "failing_jobs":
			found.rules = append(found.rules, inList(t.Table, "job_id", jobs)...)
		case t.where != nil:
			found.rules = append(found.rules, rule{table: t.Table, condition: t.where(c.Subject), set: t.set})
		}
	}
	there, err := c.Store.Tables(ctx)
	if err != nil {
		return found, err
	}
	found.rules = slices.DeleteFunc(found.rules, func(r rule) bool { return r.text == "" || !slices.Contains(there, r.table) })
	for _, name := range there {
		if known[name] {
			continue
		}
		n, err := rule{table: name, condition: condition{"1 = 1", nil}}.count(ctx, c.Store)
		if err != nil {
			return found, err
		}
		if n > 0 {
			found.left = append(found.left, Left{"table " + name, n, "its plugin does not say which rows are of a provider"})
		}
	}
	return found, nil
}

func (c Config) generations(ctx context.Context) ([]generation, error) {
	var all []generation
	if err := c.Store.Select(ctx, &all, `SELECT projection, number, active, tables FROM generations ORDER BY projection, number`); err != nil {
		return nil, fmt.Errorf("reading the generations: %w", err)
	}
	return all, nil
}

// ofGeneration goes by the columns of its tables. Where they do not say whose a row is, all are
// deleted, and the service fills them again from the log.
func (c Config) ofGeneration(ctx context.Context, g generation, jobs []string, refilled bool, found *rows, known map[string]bool) error {
	names, err := g.tables(c)
	if err != nil {
		return err
	}
	for _, name := range names {
		known[name] = true
	}
	if refilled {
		found.refill(g, names)
		return nil
	}
	ofCommands, err := c.ofCommands(ctx, g)
	if err != nil {
		return err
	}
	var rules []rule
	for _, name := range names {
		columns, err := c.Store.Columns(ctx, name)
		if err != nil {
			return err
		}
		has := func(column string) bool {
			return slices.ContainsFunc(columns, func(c store.Column) bool { return c.Name == column })
		}
		byJob := inList(name, "job_id", jobs)
		switch {
		case len(columns) == 0:
		case has("provider") && has("symbol"):
			rules = append(rules, rule{table: name, condition: byColumns(c.Subject)})
		case ofCommands: // what users have asked for
		case has("quote_key"):
			rules = append(rules, rule{table: name, condition: byKey(c.Subject)})
		case has("job_id") && c.Subject.Symbol == "": // a job asks one provider
			rules = append(rules, byJob...)
		case has("job_id"):
			n, err := countAll(ctx, c.Store, byJob)
			if err != nil {
				return err
			}
			if n > 0 {
				found.refill(g, names)
				return nil
			}
		default:
			found.refill(g, names)
			return nil
		}
	}
	found.rules = append(found.rules, rules...)
	return nil
}

// refill has all rows of a generation deleted, and its stage start over.
func (r *rows) refill(g generation, names []string) {
	r.refilled = append(r.refilled, g)
	for _, name := range names {
		r.rules = append(r.rules, rule{table: name, condition: condition{"1 = 1", nil}, emptied: true})
	}
}

func countAll(ctx context.Context, q store.Querier, rules []rule) (n int64, err error) {
	for _, r := range rules {
		more, err := r.count(ctx, q)
		if err != nil {
			return 0, err
		}
		n += more
	}
	return n, nil
}

// ofCommands reports whether a generation is made of commands alone.
func (c Config) ofCommands(ctx context.Context, g generation) (bool, error) {
	var topics []schema.Topic
	names := g.stages()
	if err := c.Store.Select(ctx, &topics, `SELECT DISTINCT topic FROM positions WHERE stage IN ($1, $2)`, names[0], names[1]); err != nil {
		return false, fmt.Errorf("reading what %s is made of: %w", g.Projection, err)
	}
	return len(topics) == 1 && topics[0] == schema.PollingJobs, nil
}

// startOver puts the stage of a generation that was emptied at the start of the log.
func startOver(ctx context.Context, tx *store.Tx, g generation) error {
	for _, stage := range g.stages() {
		for _, statement := range []string{`UPDATE positions SET next_offset = 0, chain_outbox = '', chain_seq = 0, halted = '' WHERE stage = $1`,
			`DELETE FROM dead_letters WHERE stage = $1`} {
			if _, err := tx.Exec(ctx, statement, stage); err != nil {
				return fmt.Errorf("starting over with %s: %w", stage, err)
			}
		}
	}
	return nil
}

// Remaining counts rows that hold data of a subject, by table, of the tables whose rows nothing
// else holds against the log.
func Remaining(ctx context.Context, q store.Querier, subject schema.Subject, keepers []pipeline.DataKeeper, there []string) (map[string]int64, error) {
	var rules []rule
	for _, t := range Treatments {
		switch t.Table {
		case "raw_market_data", "provider_definitions": // the former is held against the log, the latter are kept again
		default:
			if t.Kind == Deleted && t.where != nil {
				rules = append(rules, rule{table: t.Table, condition: t.where(subject)})
			}
		}
	}
	for _, k := range keepers {
		for _, name := range k.DataTables() {
			text, args := k.DataOf(name, subject.Provider, subject.Symbol)
			rules = append(rules, rule{table: name, condition: condition{text, args}})
		}
	}
	counts := map[string]int64{}
	for _, r := range rules {
		if !slices.Contains(there, r.table) {
			continue
		}
		n, err := r.count(ctx, q)
		if err != nil {
			return nil, err
		}
		counts[r.table] += n
	}
	return counts, nil
}
