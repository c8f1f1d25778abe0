package deletion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Config says what to delete, and where. All but Step and Progress is required; a plan needs
// neither Reason nor RequestedBy.
type Config struct {
	// Store is the database, and Log the log in it. Nothing else may work with them.
	Store *store.Store
	Log   *table.Log
	// Partition says on which partition a key lies.
	Partition func(key []byte, partitions int32) int32
	// Subject is whose data are deleted.
	Subject schema.Subject
	// Reason says why, for people, and RequestedBy who asked for it.
	Reason, RequestedBy string
	// Keepers are the modules that keep data of providers in tables of their own.
	Keepers []pipeline.DataKeeper
	// TablesOf are the plain names of the tables of a projection; nil where this binary does not
	// have it.
	TablesOf func(projection string) []string
	Now      func() time.Time
	// Step is called before each transaction. An error ends the run, which can be continued.
	Step func(ctx context.Context, what string) error
	// Progress is told how many records were read since.
	Progress func(n int)
}

// Why a deletion is refused.
var (
	// ErrRefused is wrapped where the data cannot be deleted as things are.
	ErrRefused = errors.New("the data cannot be deleted")
	// ErrNothing says that there are no data of the provider, or of the symbol.
	ErrNothing = errors.New("there are no such data")
	// ErrOther is wrapped where another deletion is not finished.
	ErrOther = errors.New("another deletion was interrupted")
)

// Left is what is not deleted, and why.
type Left struct {
	What  string `json:"what"`
	Count int64  `json:"count"`
	Why   string `json:"why"`
}

// Plan says what a deletion deletes.
type Plan struct {
	// Records are counted by topic, rows by table. Cleared rows stay, without data.
	Records map[schema.Topic]int64 `json:"records"`
	Rows    map[string]int64       `json:"rows"`
	Cleared map[string]int64       `json:"cleared"`
	// Emptied are the rows of tables that do not say whose data they hold, and Refilled the
	// stages that fill these again from the log, in the service.
	Emptied  map[string]int64 `json:"emptied"`
	Refilled []string         `json:"refilled"`
	Left     []Left           `json:"left"`
	// Asking are jobs, streams and backfills that still ask for the data.
	Asking []string `json:"asking"`
}

// deleted is what a deletion has deleted so far, as it is recorded.
type deleted struct {
	Records  map[schema.Topic]int64 `json:"records"`
	Rows     map[string]int64       `json:"rows"`
	Cleared  map[string]int64       `json:"cleared"`
	Emptied  map[string]int64       `json:"emptied"`
	Refilled []string               `json:"refilled"`
	Left     []Left                 `json:"left"`
	// Jobs are the polling jobs that asked for the data.
	Jobs []string `json:"jobs"`
}

// Result is what a deletion did.
type Result struct {
	DeletionID string `json:"deletion_id"`
	Plan
	// Resumed says that an interrupted deletion was continued.
	Resumed bool `json:"resumed"`
}

// The states of a deletion.
const (
	stateTables   = "tables"
	stateLog      = "log"
	stateFiles    = "files"
	stateFinished = "finished"
)

// Finished reports whether a recorded deletion is.
func Finished(d store.DeletionRecord) bool { return d.FinishedAt != nil }

// Ends are where the log ended when a recorded deletion began, by topic, for each partition:
// what was before holds none of the data.
func Ends(d store.DeletionRecord) (map[schema.Topic][]int64, error) {
	var ends map[schema.Topic][]int64
	if err := json.Unmarshal([]byte(d.Ends), &ends); err != nil {
		return nil, fmt.Errorf("reading deletion %s: %w", d.ID, err)
	}
	return ends, nil
}

// Summary is how much a recorded deletion has deleted: records of the log by topic, and rows of
// tables.
func Summary(d store.DeletionRecord) (records map[schema.Topic]int64, rows int64, err error) {
	var counted deleted
	if err := json.Unmarshal([]byte(d.Deleted), &counted); err != nil {
		return nil, 0, fmt.Errorf("reading deletion %s: %w", d.ID, err)
	}
	return counted.Records, sum(counted.Rows), nil
}

func sum[K comparable](counts map[K]int64) (n int64) {
	for _, count := range counts {
		n += count
	}
	return n
}

func (c Config) withDefaults() Config {
	if c.Step == nil {
		c.Step = func(context.Context, string) error { return nil }
	}
	if c.Progress == nil {
		c.Progress = func(int) {}
	}
	return c
}

// NewPlan says what would be deleted. It writes nothing.
func NewPlan(ctx context.Context, c Config) (Plan, error) {
	p, _, err := c.withDefaults().plan(ctx)
	return p, err
}

func (c Config) plan(ctx context.Context) (Plan, found, error) {
	p := Plan{Rows: map[string]int64{}, Cleared: map[string]int64{}, Emptied: map[string]int64{}}
	f, err := c.scan(ctx)
	if err != nil {
		return p, f, err
	}
	p.Records = f.records
	rows, err := c.rowsOf(ctx, sorted(f.jobs), nil)
	if err != nil {
		return p, f, err
	}
	for _, r := range rows.rules {
		n, err := r.count(ctx, c.Store)
		if err != nil {
			return p, f, err
		}
		r.countIn(p.Rows, p.Cleared, p.Emptied, n)
	}
	letters, err := c.letters(ctx)
	if err != nil {
		return p, f, err
	}
	streams, err := c.streams(ctx, c.Store)
	if err != nil {
		return p, f, err
	}
	revisions, err := c.revisions(ctx)
	if err != nil {
		return p, f, err
	}
	countIn(p.Rows, "revised_prices", int64(len(revisions)))
	countIn(p.Rows, "dead_letters", int64(len(letters)))
	countIn(p.Cleared, "streams", int64(len(streams)))
	p.Refilled, p.Left = stagesOf(rows.refilled), append(rows.left, f.left...)
	p.Asking, err = c.stillAsking(ctx)
	return p, f, err
}

// countIn counts rows as what the rule makes of them.
func (r rule) countIn(deleted, cleared, emptied map[string]int64, n int64) {
	switch {
	case r.emptied:
		countIn(emptied, r.table, n)
	case r.set != "":
		countIn(cleared, r.table, n)
	default:
		countIn(deleted, r.table, n)
	}
}

func countIn[K comparable](counts map[K]int64, of K, n int64) {
	if n > 0 {
		counts[of] += n
	}
}

func stagesOf(generations []generation) []string {
	var names []string
	for _, g := range generations {
		names = append(names, g.stages()[0])
	}
	return names
}

// stillAsking are what asks for the data, in words.
func (c Config) stillAsking(ctx context.Context) ([]string, error) {
	var found []string
	for _, of := range []struct {
		name, table, id, symbols string
		statuses                 []string
	}{
		{"polling job", "schedules", "job_id", "symbols", []string{string(schema.JobActive)}},
		{"stream", "streams", "stream_id", "symbols", []string{"active", "failing"}},
		{"backfill", "backfills", "backfill_id", "symbol", []string{"active", "failing"}},
	} {
		all, err := c.asking(ctx, of.table, of.id, of.symbols)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if slices.Contains(of.statuses, a.Status) {
				found = append(found, of.name+" "+a.ID)
			}
		}
	}
	var reading []string
	err := c.Store.Select(ctx, &reading, `SELECT id FROM renormalizations WHERE state IN ('reading', 'building') AND provider IN ('', $1) ORDER BY seq`, c.Subject.Provider)
	if err != nil {
		return nil, fmt.Errorf("looking for renormalizations: %w", err)
	}
	for _, id := range reading {
		found = append(found, "renormalization "+id)
	}
	return found, nil
}

// found is what a look through the log found.
type found struct {
	records map[schema.Topic]int64
	jobs    map[string]bool
	ends    map[schema.Topic][]int64
	left    []Left
}

// scan looks through the whole log.
func (c Config) scan(ctx context.Context) (found, error) {
	f := found{records: map[schema.Topic]int64{}, jobs: map[string]bool{}, ends: map[schema.Topic][]int64{}}
	topics, err := c.topics(ctx)
	if err != nil {
		return f, err
	}
	s := scanner{Config: c, found: f, answers: map[string]bool{}}
	for _, topic := range topics {
		ends, err := c.endsOf(ctx, topic)
		if err != nil {
			return f, err
		}
		f.ends[topic] = ends
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			err := c.Log.Read(ctx, tp, 0, end, func(records []pipeline.Record) error {
				for i := range records {
					if err := s.record(&records[i]); err != nil {
						return err
					}
				}
				c.Progress(len(records))
				return nil
			})
			if err != nil {
				return f, err
			}
		}
	}
	if s.unread > 0 {
		s.found.left = append(s.found.left, Left{"records that cannot be read", s.unread, "they name no provider, or no symbol: see pricemill dead-letters list"})
	}
	return s.found, nil
}

func (c Config) endsOf(ctx context.Context, topic schema.Topic) ([]int64, error) {
	ranges, err := c.Log.Offsets(ctx, topic)
	ends := make([]int64, len(ranges))
	for part, held := range ranges {
		ends[part] = held.End
	}
	return ends, err
}

// topics are those of the log, that of the answers first.
func (c Config) topics(ctx context.Context) ([]schema.Topic, error) {
	topics, err := c.Store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	names := []schema.Topic{schema.RawQuotes}
	for _, t := range topics {
		if name := schema.Topic(t.Name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// scanner looks at each record.
type scanner struct {
	Config
	found
	// answers are those of the provider, where the data of one symbol are deleted, by their
	// ids: whether they are that symbol's.
	answers map[string]bool
	unread  int64
}

func (s *scanner) record(r *pipeline.Record) error {
	subjects, unread := schema.SubjectsOf(r.Topic, r.Key, r.Headers, r.Value)
	holds := slices.ContainsFunc(subjects, s.Subject.Holds)
	noSymbol := schema.Subject{Provider: s.Subject.Provider}
	if unread && !holds && (len(subjects) == 0 || slices.Contains(subjects, noSymbol)) && r.Topic != schema.PollingJobs {
		s.unread++
	}
	if holds {
		s.records[r.Topic]++
	}
	ofProvider := slices.ContainsFunc(subjects, schema.Subject{Provider: s.Subject.Provider}.Holds)
	if unread || !ofProvider {
		return nil
	}
	event, err := schema.DecodeEvent(r.Headers, r.Value)
	if err != nil {
		return nil // not reached: it was read
	}
	if request, ok := event.Payload.(schema.FetchRequested); ok && holds {
		if job := schema.JobOfRequest(request.RequestID); job != "" {
			s.jobs[job] = true
		}
	}
	if s.Subject.Symbol == "" {
		return nil
	}
	if _, ok := event.Payload.(schema.QuoteFetched); ok {
		s.answers[event.ID] = holds
		return nil
	}
	if of, known := s.answers[answerOf(event.Payload)]; known && of != holds {
		return fmt.Errorf("%w: an answer of %s has prices of several symbols, and %s is one of them: only all data of the provider can be deleted (offset %d of %s)",
			ErrRefused, s.Subject.Provider, s.Subject.Symbol, r.Offset, r.TopicPartition)
	}
	return nil
}

// answerOf is the id of the answer that an event follows from.
func answerOf(payload schema.Payload) string {
	if added, ok := payload.(schema.PriceAdded); ok {
		payload = added.Fact()
	}
	if p, ok := schema.PriceOf(payload); ok {
		return p.RawResponseID
	}
	switch p := payload.(type) {
	case schema.QuoteUnchanged:
		return p.RawResponseID
	case schema.QuoteRejected:
		return p.RawResponseID
	}
	return ""
}

// Run deletes. After an error, it can be called again with the same Subject, and continues.
func Run(ctx context.Context, c Config) (Result, error) {
	d := &deleting{Config: c.withDefaults()}
	if err := d.begin(ctx); err != nil {
		return Result{}, err
	}
	if d.State == stateTables {
		if err := d.tables(ctx); err != nil {
			return Result{}, err
		}
	}
	if d.State == stateLog {
		if err := d.log(ctx); err != nil {
			return Result{}, err
		}
	}
	if d.State == stateFiles {
		if err := d.files(ctx); err != nil {
			return Result{}, err
		}
	}
	n := d.counted
	return Result{DeletionID: d.ID, Resumed: d.resumed,
		Plan: Plan{Records: n.Records, Rows: n.Rows, Cleared: n.Cleared, Emptied: n.Emptied, Refilled: n.Refilled, Left: n.Left}}, nil
}

// Interrupted is the deletion that is not finished; false where there is none.
func Interrupted(ctx context.Context, q store.Querier) (store.DeletionRecord, bool, error) {
	all, err := store.Deletions(ctx, q)
	if err != nil {
		return store.DeletionRecord{}, false, err
	}
	for _, d := range all {
		if !Finished(d) {
			return d, true, nil
		}
	}
	return store.DeletionRecord{}, false, nil
}

// deleting is one run.
type deleting struct {
	Config
	store.DeletionRecord
	counted deleted
	ends    map[schema.Topic][]int64
	resumed bool
}

// begin records the deletion, or takes up the one that was interrupted.
func (d *deleting) begin(ctx context.Context) error {
	former, there, err := Interrupted(ctx, d.Store)
	if err != nil {
		return err
	}
	if there {
		if of := (schema.Subject{Provider: former.Provider, Symbol: former.Symbol}); of != d.Subject {
			return fmt.Errorf("%w: finish that of %s first", ErrOther, of)
		}
		d.DeletionRecord, d.resumed = former, true
		if err := json.Unmarshal([]byte(former.Deleted), &d.counted); err != nil {
			return fmt.Errorf("reading deletion %s: %w", d.ID, err)
		}
		d.ends, err = Ends(former)
		return err
	}
	p, f, err := d.plan(ctx)
	switch {
	case err != nil:
		return err
	case len(p.Asking) > 0:
		return fmt.Errorf("%w: stop what asks for them first: %s", ErrRefused, p.Asking)
	case sum(p.Records)+sum(p.Rows) == 0:
		return fmt.Errorf("%w: of %s", ErrNothing, d.Subject)
	}
	d.ends = f.ends
	ends, err := json.Marshal(f.ends)
	if err != nil {
		return fmt.Errorf("recording the deletion: %w", err)
	}
	d.counted = deleted{Records: map[schema.Topic]int64{}, Rows: map[string]int64{}, Cleared: map[string]int64{}, Emptied: map[string]int64{}, Refilled: p.Refilled, Left: p.Left, Jobs: sorted(f.jobs)}
	d.DeletionRecord = store.DeletionRecord{ID: uuid.NewString(), Provider: d.Subject.Provider, Symbol: d.Subject.Symbol, Reason: d.Config.Reason,
		RequestedBy: d.Config.RequestedBy, State: stateTables, Ends: string(ends), BeganAt: schema.NewTime(d.Now())}
	if err := d.event().Validate(); err != nil {
		return fmt.Errorf("recording the deletion: %w", err)
	}
	return d.write(ctx, "beginning", func(tx *store.Tx, counted string) error {
		first := d.DeletionRecord
		first.Deleted = counted
		return tx.BeginDeletion(ctx, first)
	})
}

// write runs f in a transaction, after a step, with what was counted so far as JSON.
func (d *deleting) write(ctx context.Context, step string, f func(tx *store.Tx, counted string) error) error {
	if err := d.Step(ctx, step); err != nil {
		return err
	}
	return d.Store.Write(ctx, func(tx *store.Tx) error {
		counted, err := json.Marshal(d.counted)
		if err != nil {
			return fmt.Errorf("recording the deletion: %w", err)
		}
		return f(tx, string(counted))
	})
}

// change runs f, which deletes and counts, in a transaction, and records the counts. What a
// transaction counts that fails does not count.
func (d *deleting) change(ctx context.Context, step string, f func(tx *store.Tx, counted *deleted) error) error {
	if err := d.Step(ctx, step); err != nil {
		return err
	}
	var after deleted
	err := d.Store.Write(ctx, func(tx *store.Tx) error {
		after = d.counted
		after.Rows, after.Cleared, after.Emptied = maps.Clone(after.Rows), maps.Clone(after.Cleared), maps.Clone(after.Emptied)
		if err := f(tx, &after); err != nil {
			return err
		}
		text, err := json.Marshal(after)
		if err != nil {
			return fmt.Errorf("recording the deletion: %w", err)
		}
		return tx.UpdateDeletion(ctx, d.ID, d.State, string(text))
	})
	if err == nil {
		d.counted = after
	}
	return err
}

// tables deletes rows, as the log tells which ones: it is changed afterwards.
func (d *deleting) tables(ctx context.Context) error {
	rows, err := d.rowsOf(ctx, d.counted.Jobs, d.counted.Refilled)
	if err != nil {
		return err
	}
	if err := d.deleteLetters(ctx); err != nil {
		return err
	}
	if err := d.deleteRevisions(ctx); err != nil {
		return err
	}
	if err := d.change(ctx, "clearing streams", d.clearStreams(ctx)); err != nil {
		return err
	}
	for _, r := range rows.rules {
		if err := d.change(ctx, "deleting from "+r.table, func(tx *store.Tx, counted *deleted) error {
			n, err := r.apply(ctx, tx)
			r.countIn(counted.Rows, counted.Cleared, counted.Emptied, n)
			return err
		}); err != nil {
			return err
		}
	}
	for _, g := range rows.refilled {
		if err := d.change(ctx, "starting over with "+g.stages()[0], func(tx *store.Tx, _ *deleted) error { return startOver(ctx, tx, g) }); err != nil {
			return err
		}
	}
	return d.enter(ctx, stateLog)
}

func (d *deleting) deleteLetters(ctx context.Context) error {
	letters, err := d.letters(ctx)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(letters, 500) {
		if err := d.change(ctx, "deleting dead letters", func(tx *store.Tx, counted *deleted) error {
			for _, id := range chunk {
				n, err := tx.Exec(ctx, `DELETE FROM dead_letters WHERE id = $1`, id)
				if err != nil {
					return fmt.Errorf("deleting dead letters: %w", err)
				}
				countIn(counted.Rows, "dead_letters", n)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *deleting) deleteRevisions(ctx context.Context) error {
	revisions, err := d.revisions(ctx)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(revisions, 500) {
		if err := d.change(ctx, "deleting revised prices", func(tx *store.Tx, counted *deleted) error {
			for _, r := range chunk {
				n, err := tx.Exec(ctx, `DELETE FROM revised_prices WHERE renormalization = $1 AND event_id = $2`, r.Renormalization, r.EventID)
				if err != nil {
					return fmt.Errorf("deleting revised prices: %w", err)
				}
				countIn(counted.Rows, "revised_prices", n)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *deleting) clearStreams(ctx context.Context) func(tx *store.Tx, counted *deleted) error {
	return func(tx *store.Tx, counted *deleted) error {
		streams, err := d.streams(ctx, tx)
		if err != nil {
			return err
		}
		for _, s := range streams {
			_, err := tx.Exec(ctx, `UPDATE streams SET sequences = $1, holes = $2, last_error = $3 WHERE stream_id = $4`, s.Sequences, s.Holes, s.LastError, s.ID)
			if err != nil {
				return fmt.Errorf("clearing stream %s: %w", s.ID, err)
			}
			countIn(counted.Cleared, "streams", 1)
		}
		return nil
	}
}

// enter records that the deletion has come to a state.
func (d *deleting) enter(ctx context.Context, state string) error {
	err := d.write(ctx, "entering "+state, func(tx *store.Tx, counted string) error { return tx.UpdateDeletion(ctx, d.ID, state, counted) })
	if err == nil {
		d.State = state
	}
	return err
}

// log replaces the records, counts those that were, and appends the event that says so.
func (d *deleting) log(ctx context.Context) error {
	at := schema.NewTime(d.Now())
	for topic, ends := range d.ends {
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			if err := d.Log.Replace(ctx, tp, end, d.replacement(at), func(ctx context.Context) error { return d.Step(ctx, "replacing records of "+tp.String()) }); err != nil {
				return err
			}
		}
	}
	records, err := d.countReplaced(ctx)
	if err != nil {
		return err
	}
	d.counted.Records = records
	event := d.event()
	event.DeletedAt = at
	err = d.write(ctx, "appending the event", func(tx *store.Tx, counted string) error {
		if err := tx.UpdateDeletion(ctx, d.ID, stateFiles, counted); err != nil {
			return err
		}
		row, err := d.row(ctx, event)
		if err != nil {
			return err
		}
		return d.Log.AppendTx(ctx, tx, []store.OutboxRow{row})
	})
	if err == nil {
		d.State = stateFiles
	}
	return err
}

// Source is the source of the events that a deletion writes.
const Source = pipeline.SourcePrefix + "delete-data"

// replacement is what takes the place of a record that holds the data.
func (d *deleting) replacement(at schema.Time) func(r *pipeline.Record) (*table.Replacement, error) {
	payload := schema.RecordDeleted{DeletionID: d.ID, DeletedAt: at}
	return func(r *pipeline.Record) (*table.Replacement, error) {
		d.Progress(1)
		if !d.holds(r.Topic, r.Key, r.Headers, r.Value) {
			return nil, nil
		}
		id := fmt.Sprintf("%s/%s/%d/%d", d.ID, r.Topic, r.Partition, r.Offset)
		headers, value, err := schema.Event{ID: id, Source: Source, Payload: payload}.Encode()
		if err != nil {
			return nil, fmt.Errorf("making what takes the place of a record: %w", err)
		}
		return &table.Replacement{Headers: headers, Value: value}, nil
	}
}

// countReplaced counts the records that were replaced, in whatever run.
func (d *deleting) countReplaced(ctx context.Context) (map[schema.Topic]int64, error) {
	counts := map[schema.Topic]int64{}
	for topic, ends := range d.ends {
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			err := d.Log.Read(ctx, tp, 0, end, func(records []pipeline.Record) error {
				for _, r := range records {
					if id, ok := Replaced(r.Headers, r.Value); ok && id == d.ID {
						counts[topic]++
					}
				}
				d.Progress(len(records))
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return counts, nil
}

// Replaced reports whether a record was put in the place of another one, and by which
// deletion; empty where that cannot be read.
func Replaced(headers []schema.Header, value []byte) (deletion string, ok bool) {
	if !schema.IsRecordDeleted(headers) {
		return "", false
	}
	event, err := schema.DecodeEvent(headers, value)
	if err != nil {
		return "", true
	}
	return event.Payload.(schema.RecordDeleted).DeletionID, true
}

// event says what was deleted.
func (d *deleting) event() schema.DataDeleted {
	return schema.DataDeleted{DeletionID: d.ID, Provider: d.Subject.Provider, Symbol: d.Subject.Symbol, Reason: d.DeletionRecord.Reason,
		RequestedBy: d.DeletionRecord.RequestedBy, Records: sum(d.counted.Records), Rows: sum(d.counted.Rows), BeganAt: d.BeganAt, DeletedAt: d.BeganAt}
}

// row is an event on its way into the log.
func (d *deleting) row(ctx context.Context, payload schema.DataDeleted) (store.OutboxRow, error) {
	headers, value, err := schema.Event{ID: schema.DeriveID("deletion", d.ID), Source: Source, Payload: payload}.Encode()
	if err != nil {
		return store.OutboxRow{}, fmt.Errorf("making the event of the deletion: %w", err)
	}
	topics, err := d.Store.Topics(ctx)
	if err != nil {
		return store.OutboxRow{}, err
	}
	at := slices.IndexFunc(topics, func(t store.Topic) bool { return t.Name == string(payload.Topic()) })
	if at < 0 {
		return store.OutboxRow{}, fmt.Errorf("%w: the log has no topic %s", ErrRefused, payload.Topic())
	}
	key := []byte(payload.Key())
	return store.OutboxRow{Epoch: topics[at].Epoch, Part: d.Partition(key, topics[at].Partitions), Key: key, Headers: store.EncodeHeaders(headers), Payload: value}, nil
}

// files removes the bytes from the files of the database, and opens it to others again.
func (d *deleting) files(ctx context.Context) error {
	if err := d.Step(ctx, "writing the files again"); err != nil {
		return err
	}
	tables, err := d.rewritten(ctx)
	if err != nil {
		return err
	}
	if err := d.Store.Scrub(ctx, tables); err != nil {
		return err
	}
	return d.write(ctx, "finishing", func(tx *store.Tx, counted string) error {
		if err := tx.UpdateDeletion(ctx, d.ID, stateFinished, counted); err != nil {
			return err
		}
		return tx.FinishDeletion(ctx, d.ID, schema.NewTime(d.Now()))
	})
}
