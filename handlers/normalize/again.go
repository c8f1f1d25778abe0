package normalize

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Again reads stored answers again, as the providers of this binary and its settings read
// them today, and compares the prices with those that the answers were read as. The
// definition that an answer was stored with does not matter: that of today does.
//
// It may be given the log in several spans, one after the other. It is not safe for
// concurrent use.
type Again struct {
	// Providers finds a provider.
	Providers func(schema.Provider) (pipeline.Provider, bool)
	// Provider is the one whose answers are read; empty for all.
	Provider schema.Provider
	// Partial says of a partition that the log does not have its first answers any more.
	Partial func(partition int32) bool
	// Whole says that the log has the first answers of every partition.
	Whole bool
	// Held bounds how many prices are in memory at once; 0 for DefaultHeld. The log is read
	// again for each further part of them.
	Held int64

	// Answers is how many answers were read, and Unread how many were not: there is no
	// provider for them, or it failed. What those were read as stays.
	Answers, Unread int64

	known prices
	// unread are the keys of answers that were not read.
	unread map[string]bool
	// state is the state of the stage at the beginning; see Begin.
	state map[string]last
}

// DefaultHeld is how many prices are in memory at once, some 100 bytes each.
const DefaultHeld = 500_000

// Span is a part of the log.
type Span struct {
	// Prices calls f with the records of price-events and of quote-outcomes, each once.
	Prices func(ctx context.Context, f func([]Said) error) error
	// Answers calls f with the records of stored-quotes, decoded, partition by partition, each
	// record once.
	Answers func(ctx context.Context, f func([]pipeline.Record) error) error
	// Records is how many records Prices has, about.
	Records int64
}

// Said is a record, decoded, and what it says to the read models that serve; nil where it says
// nothing to them.
type Said struct {
	Record *pipeline.Record
	Is     schema.Payload
}

// Difference is what an answer is read as today and was not, or the reverse: a price, a bar, or
// that a price is unchanged.
type Difference struct {
	// EventID and RecordID are those of the event that says it, and the id of a row of its
	// record; empty and 0 for a price of which no event tells.
	EventID  string
	RecordID int64
	// Is is what it is read as today; nil where the answer does not say it.
	Is schema.Payload
	// Answer is the id of the stored answer, and Number counts its differences.
	Answer string
	Number int
}

// Read calls f with the differences of a span, in the order of the answers in each partition.
func (a *Again) Read(ctx context.Context, s Span, f func([]Difference) error) error {
	held := a.Held
	if held == 0 {
		held = DefaultHeld
	}
	if a.unread == nil {
		a.unread = map[string]bool{}
	}
	passes := uint64(max(1, (s.Records+held-1)/held))
	for pass := range passes {
		p := reading{Again: a, was: map[answerKey][]was{}, last: maps.Clone(a.known), mine: func(k answerKey) bool {
			return binary.BigEndian.Uint64(k[:8])%passes == pass
		}}
		if p.last == nil {
			p.last = prices{}
		}
		if err := s.Prices(ctx, p.remember); err != nil {
			return fmt.Errorf("reading the prices: %w", err)
		}
		if err := s.Answers(ctx, func(records []pipeline.Record) error { return p.compare(records, f) }); err != nil {
			return fmt.Errorf("reading the answers: %w", err)
		}
		if pass == passes-1 {
			a.known = p.last
		}
	}
	return nil
}

// Begin reads the state of the stage, in a transaction in which its positions are locked.
func (a *Again) Begin(ctx context.Context, q store.Querier) error {
	var rows []last
	if err := q.Select(ctx, &rows, `SELECT quote_key, price, timestamp FROM normalized_quotes`); err != nil {
		return fmt.Errorf("reading the last prices: %w", err)
	}
	a.state = make(map[string]last, len(rows))
	for _, row := range rows {
		if a.Provider == "" || strings.HasPrefix(row.Key, string(a.Provider)+"/") {
			a.state[row.Key] = row
		}
	}
	return nil
}

// Cut changes the state of the stage to what it would be if the answers up to Begin had been
// read as they are read today, in a transaction in which its positions are locked. What the stage
// has changed since stays. Without it, a polled answer that is unchanged would count as news.
func (a *Again) Cut(ctx context.Context, tx *store.Tx) error {
	for _, key := range slices.Sorted(maps.Keys(a.known)) {
		is, before := a.known[key], a.state[key]
		if before.Key == "" {
			before = last{Key: key}
		}
		if is.Timestamp.Equal(before.Timestamp.Time) && is.Price.Cmp(before.Price) == 0 {
			continue
		}
		if err := a.change(ctx, tx, before, &is); err != nil {
			return err
		}
	}
	if !a.Whole {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(a.state)) {
		quote, _, _ := strings.Cut(key, "|")
		if _, read := a.known[key]; read || a.unread[quote] {
			continue
		}
		if err := a.change(ctx, tx, a.state[key], nil); err != nil {
			return err
		}
	}
	return nil
}

// change changes a row of the state that is as it was.
func (a *Again) change(ctx context.Context, tx *store.Tx, from last, to *last) (err error) {
	switch {
	case to == nil:
		_, err = tx.Exec(ctx, `DELETE FROM normalized_quotes WHERE quote_key = $1 AND timestamp = $2 AND price = $3`, from.Key, from.Timestamp, from.Price)
	case from.Timestamp.IsZero():
		_, err = tx.Exec(ctx, `INSERT INTO normalized_quotes (quote_key, price, timestamp) VALUES ($1, $2, $3) ON CONFLICT (quote_key) DO NOTHING`,
			to.Key, to.Price, to.Timestamp)
	default:
		_, err = tx.Exec(ctx, `UPDATE normalized_quotes SET price = $1, timestamp = $2 WHERE quote_key = $3 AND timestamp = $4 AND price = $5`,
			to.Price, to.Timestamp, from.Key, from.Timestamp, from.Price)
	}
	if err != nil {
		return fmt.Errorf("changing the last price of %s: %w", from.Key, err)
	}
	return nil
}

// answerKey stands for the id of an answer.
type answerKey [16]byte

func keyOfAnswer(id string) answerKey {
	sum := sha256.Sum256([]byte(id))
	return answerKey(sum[:16])
}

// was is what an answer was read as.
type was struct {
	event  string
	record int64
	kind   string // kindOf
	// served says that the read models that serve have it. Else they leave its record out.
	served  bool
	content [16]byte
}

// reading is one pass over a span.
type reading struct {
	*Again
	mine func(answerKey) bool
	was  map[answerKey][]was
	last prices
}

// origin is the provider and the answer that an event follows from; empty for one that follows
// from none.
func origin(p schema.Payload) (provider schema.Provider, answer string) {
	if u, is := p.(schema.QuoteUnchanged); is {
		return u.Provider, u.RawResponseID
	}
	price, _ := schema.PriceOf(p)
	return price.Source, price.RawResponseID
}

// kindOf tells what may take the place of what.
func kindOf(p schema.Payload) string {
	if _, is := p.(schema.QuoteUnchanged); is {
		return "unchanged " + p.Key()
	}
	return p.Key()
}

// remember notes what the answers of this pass were read as.
func (p *reading) remember(records []Said) error {
	for _, said := range records {
		is := said.Is
		if is == nil {
			is = said.Record.Event.Payload
		}
		if added, isAdded := is.(schema.PriceAdded); isAdded {
			is = added.Fact()
		}
		provider, answer := origin(is)
		if answer == "" || !p.wants(provider) {
			continue
		}
		key := keyOfAnswer(answer)
		if !p.mine(key) {
			continue
		}
		id, err := said.Record.RowID(0)
		if err != nil {
			return err
		}
		w := was{event: said.Record.Event.ID, record: id, kind: kindOf(is), served: said.Is != nil}
		if w.content, err = contentOf(is); err != nil {
			return err
		}
		p.was[key] = append(p.was[key], w)
	}
	return nil
}

func (p *reading) wants(provider schema.Provider) bool {
	return p.Provider == "" || p.Provider == provider
}

// compare reads answers. It reads all of them in each pass, since whether a price is news
// depends on the answer before.
func (p *reading) compare(records []pipeline.Record, f func([]Difference) error) error {
	var differences []Difference
	for i := range records {
		r := &records[i]
		quote, is := r.Event.Payload.(schema.QuoteStored)
		if !is || !p.wants(quote.Provider) {
			continue
		}
		now, read := p.read(r, quote)
		key := keyOfAnswer(quote.RawResponseID)
		if !p.mine(key) {
			continue
		}
		if !read {
			p.Unread++
			p.unread[quote.Key()] = true
			continue
		}
		p.Answers++
		found, err := differ(p.was[key], now)
		if err != nil {
			return err
		}
		for n := range found {
			found[n].Answer, found[n].Number = quote.RawResponseID, n
		}
		differences = append(differences, found...)
		delete(p.was, key)
	}
	if len(differences) == 0 {
		return nil
	}
	return f(differences)
}

// read is what an answer is read as; false where it cannot be read. Where the log does not have
// the answers before, whether a price is news cannot be told, and it is taken for none.
func (p *reading) read(r *pipeline.Record, quote schema.QuoteStored) (all []schema.Payload, read bool) {
	answer := readByCompiled(p.Providers, r)
	if failed, is := errors.AsType[*pipeline.QuoteError](answer.err); is && (failed.Code == schema.CodeUnknownProvider || failed.Code == schema.CodeInternal) {
		return nil, false
	}
	unsure := map[string]bool{}
	if quote.RequestID != "" && p.Partial(r.Partition) {
		for _, price := range answer.prices {
			if _, ok := p.last.Get(stateKey(quote, price.Symbol)); !ok {
				unsure[schema.MarketKey(quote.Provider, price.Symbol)] = true
			}
		}
	}
	answer.doubt(p.last)
	for _, e := range emit(answer, p.last, map[string]last{}) {
		if _, answerID := origin(e.Payload); answerID != "" && !unsure[e.Payload.Key()] {
			all = append(all, e.Payload)
		}
	}
	return all, true
}

// prices is a memory that has all there was.
type prices map[string]last

func (p prices) Get(key string) (last, bool) { l, ok := p[key]; return l, ok }
func (p prices) Put(key string, to last)     { p[key] = to }

// differ compares what an answer was read as with what it is read as. What is read otherwise
// takes the place of something of its kind: first of what serves, and then of what is left out,
// so that a price that comes back has its own event again.
func differ(before []was, now []schema.Payload) ([]Difference, error) {
	var left []schema.Payload
	before = slices.Clone(before)
	for _, payload := range now {
		content, err := contentOf(payload)
		if err != nil {
			return nil, err
		}
		same := slices.IndexFunc(before, func(w was) bool { return w.served && w.content == content })
		if same < 0 {
			left = append(left, payload)
			continue
		}
		before = slices.Delete(before, same, same+1)
	}
	var differences []Difference
	for _, served := range []bool{true, false} {
		for _, w := range before {
			if w.served != served {
				continue
			}
			d := Difference{EventID: w.event, RecordID: w.record}
			if at := slices.IndexFunc(left, func(p schema.Payload) bool { return kindOf(p) == w.kind }); at >= 0 {
				d.Is = left[at]
				left = slices.Delete(left, at, at+1)
			}
			if served || d.Is != nil {
				differences = append(differences, d)
			}
		}
	}
	for _, payload := range left {
		// That a price is unchanged, of which no event tells, is no loss: the price is there.
		if _, isPrice := schema.PriceOf(payload); isPrice {
			differences = append(differences, Difference{Is: payload})
		}
	}
	return differences, nil
}

// contentOf stands for what a price or a bar says.
func contentOf(p schema.Payload) ([16]byte, error) {
	value, err := json.Marshal(p)
	if err != nil {
		return [16]byte{}, fmt.Errorf("writing a price: %w", err)
	}
	sum := sha256.Sum256(append(value, p.EventType()...))
	return [16]byte(sum[:16]), nil
}
