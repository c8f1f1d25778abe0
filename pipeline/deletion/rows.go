package deletion

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
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

// letters are the ids of dead letters of records that hold the data.
func (c Config) letters(ctx context.Context) ([]int64, error) {
	const page = 50 // each may be large
	var ids []int64
	for after := int64(0); ; {
		var letters []store.DeadLetter
		err := c.Store.Select(ctx, &letters, `SELECT id, topic, msg_key, headers, payload FROM dead_letters WHERE id > $1 ORDER BY id LIMIT $2`, after, page)
		if err != nil {
			return nil, fmt.Errorf("reading dead letters: %w", err)
		}
		for _, l := range letters {
			after = l.ID
			headers, err := store.DecodeHeaders(l.Headers)
			if err != nil {
				headers = nil
			}
			if c.holds(schema.Topic(l.Topic), l.Key, headers, l.Payload) {
				ids = append(ids, l.ID)
			}
		}
		if len(letters) < page {
			return ids, nil
		}
	}
}

// revision is the key of a row of revised_prices.
type revision struct {
	Renormalization string `db:"renormalization"`
	EventID         string `db:"event_id"`
}

// revisions are the revised prices of records that hold the data.
func (c Config) revisions(ctx context.Context) ([]revision, error) {
	const page = 1000
	topics, err := c.Store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	var found []revision
	last := revision{}
	for {
		var rows []struct {
			revision
			RecordID int64            `db:"record_id"`
			Type     schema.EventType `db:"event_type"`
			Payload  string           `db:"payload"`
		}
		err := c.Store.Select(ctx, &rows, `SELECT renormalization, event_id, record_id, event_type, payload FROM revised_prices
			WHERE (renormalization, event_id) > ($1, $2) ORDER BY renormalization, event_id LIMIT $3`, last.Renormalization, last.EventID, page)
		if err != nil {
			return nil, fmt.Errorf("reading revised prices: %w", err)
		}
		for _, r := range rows {
			last = r.revision
			var holds bool
			if payload, err := schema.DecodePayload(r.Type, []byte(r.Payload)); err == nil {
				subject, ok := schema.SubjectOfKey(payload.Key())
				holds = ok && c.Subject.Holds(subject)
			} else if holds, err = c.recordHolds(ctx, topics, r.RecordID); err != nil { // one that was withdrawn has no payload
				return nil, err
			}
			if holds {
				found = append(found, r.revision)
			}
		}
		if len(rows) < page {
			return found, nil
		}
	}
}

// recordHolds reports whether the record that rows with an id follow from holds the data.
func (c Config) recordHolds(ctx context.Context, topics []store.Topic, id int64) (holds bool, err error) {
	for _, t := range topics {
		first, last := rowid.Range(t.Epoch, rowid.PartitionOf(id))
		if id < first || id > last {
			continue
		}
		tp := pipeline.TopicPartition{Topic: schema.Topic(t.Name), Partition: rowid.PartitionOf(id)}
		offset := rowid.Offset(id)
		err = c.Log.Read(ctx, tp, offset, offset+1, func(records []pipeline.Record) error {
			for _, r := range records {
				holds = holds || c.holds(r.Topic, r.Key, r.Headers, r.Value)
			}
			return nil
		})
		return holds, err
	}
	return false, nil
}

// holds reports whether a record holds the data.
func (c Config) holds(topic schema.Topic, key []byte, headers []schema.Header, value []byte) bool {
	subjects, _ := schema.SubjectsOf(topic, key, headers, value)
	return slices.ContainsFunc(subjects, c.Subject.Holds)
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

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
