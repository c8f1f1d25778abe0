// Package normalize reads prices out of stored answers.
package normalize

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/pricemill/pricemill/handlers/failingjobs"
	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "normalize"

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Reads prices out of stored answers, by the pure Normalize of their provider.",
		Consumes: []schema.EventType{schema.QuoteStored{}.EventType()},
		Produces: append(schema.PriceTypes(), schema.QuoteRejected{}.EventType(), schema.QuoteUnchanged{}.EventType()),
		New: func(env pipeline.Env) (pipeline.Handler, error) {
			return &handler{provider: env.Provider, log: env.Log, delay: promauto.With(env.Metrics).NewHistogramVec(prometheus.HistogramOpts{
				Name: "pricemill_provider_delay_seconds", Help: "Time from the event of a new price, by the provider's clock, to its receipt.",
				Buckets: prometheus.ExponentialBuckets(0.001, 4, 12),
			}, []string{"provider"})}, nil
		},
	})
}

type handler struct {
	provider func(schema.Provider) (pipeline.Provider, bool)
	log      *slog.Logger
	delay    *prometheus.HistogramVec
	// definitions are those of answers that were read.
	definitions declared.Library
}

var _ pipeline.Handler = (*handler)(nil)

// last is the newest price known of one symbol in the answers for a key. The
// answers for one key are on one partition; another key's answers may hold the
// same symbol, but are read by another lane or process, and must not share what
// is remembered.
type last struct {
	Key       string         `db:"quote_key"`
	Price     schema.Decimal `db:"price"`
	Timestamp schema.Time    `db:"timestamp"`
}

// stateKey names the state of a symbol in the answers for a quote.
func stateKey(quote schema.QuoteStored, symbol schema.Symbol) string {
	if symbol == quote.Symbol {
		return quote.Key()
	}
	return quote.Key() + "|" + string(symbol) // no symbol holds a |
}

// read is what one record holds.
type read struct {
	record *pipeline.Record
	prices []pipeline.Price
	err    error // of the provider: there is no price
}

// Handle gives a price for every one that is news, and says so where an answer
// holds none or only what is known.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	definitions, err := h.definitions.Load(ctx, tx, versions(in))
	if err != nil {
		return nil, err
	}
	reads := make([]read, len(in))
	keys := map[string]bool{}
	for i := range in {
		reads[i] = h.read(&in[i], definitions)
		quote := in[i].Event.Payload.(schema.QuoteStored)
		for _, p := range reads[i].prices {
			keys[stateKey(quote, p.Symbol)] = true
		}
		if isUnknown(reads[i].err) {
			keys[quote.Key()] = true
		}
	}
	known, err := h.known(ctx, tx, in)
	if err != nil {
		return nil, err
	}
	if err := load(ctx, tx, known, keys); err != nil {
		return nil, err
	}
	var events []schema.Event
	changed := map[string]last{}
	for i := range reads {
		reads[i].doubt(known)
		events = append(events, emit(reads[i], known, changed)...)
	}
	if err := save(ctx, tx, changed); err != nil {
		return nil, err
	}
	h.observe(events)
	return events, failingjobs.Note(ctx, tx, h.log, outcomes(reads))
}

// cutCache owns the memory of last prices after so many cuts; see Again.Cut.
type cutCache struct {
	handler *handler
	cuts    int
}

// known is the memory of last prices. It begins empty once another process has changed the
// state, which matters to answers to requests alone: what was asked for may be known.
func (h *handler) known(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) (*pipeline.Cache[string, last], error) {
	seen := pipeline.CacheFor[string, int](tx, h)
	cuts, looked := seen.Get("cuts")
	asked := slices.ContainsFunc(in, func(r pipeline.Record) bool { return r.Event.Payload.(schema.QuoteStored).RequestID != "" })
	if asked || !looked {
		if err := tx.Get(ctx, &cuts, `SELECT COUNT(*) FROM renormalizations WHERE cut = 1`); err != nil {
			return nil, fmt.Errorf("looking for renormalizations: %w", err)
		}
		seen.Put("cuts", cuts)
	}
	return pipeline.CacheFor[string, last](tx, cutCache{h, cuts}), nil
}

// observe notes how long prices took to come.
func (h *handler) observe(events []schema.Event) {
	for _, e := range events {
		if p, isPrice := e.Payload.(schema.PriceObserved); isPrice {
			h.delay.WithLabelValues(string(p.Source)).Observe(p.ReceivedAt.Sub(p.Timestamp.Time).Seconds())
		}
	}
}

// versions are those of the definitions by which the answers are read.
func versions(in []pipeline.Record) map[string]bool {
	all := map[string]bool{}
	for i := range in {
		if version := in[i].Event.Payload.(schema.QuoteStored).Definition; version != "" {
			all[version] = true
		}
	}
	return all
}

func isUnknown(err error) bool {
	var q *pipeline.QuoteError
	return errors.As(err, &q) && q.Code == schema.CodeUnknownSymbol
}

// memory has the last price by key. A key that it lacks it has as the zero value.
type memory interface {
	Get(key string) (last, bool)
	Put(key string, to last)
}

// doubt makes a passing fault of the answer that the symbol is unknown, if the provider
// had a price of it before. Finnhub now and then answers all zeros, its answer for
// symbols that it does not know, to a request for one that it does.
func (r *read) doubt(known memory) {
	quote := r.record.Event.Payload.(schema.QuoteStored)
	if !isUnknown(r.err) {
		return
	}
	if before, _ := known.Get(quote.Key()); !before.Timestamp.IsZero() {
		r.err = pipeline.Quotef(schema.CodeUnavailable, "no price this time; the last known one, %s of %s, is stale (%v)", before.Price, before.Timestamp, r.err)
	}
}

// outcomes are what became of the requests that were answered.
func outcomes(reads []read) []failingjobs.Outcome {
	var all []failingjobs.Outcome
	for _, r := range reads {
		quote := r.record.Event.Payload.(schema.QuoteStored)
		if quote.RequestID == "" {
			continue // of a stream or a file
		}
		o := failingjobs.Outcome{Quote: quote.Quote, At: quote.ReceivedAt}
		if r.err != nil {
			o.Code, o.Reason = explain(r.err)
		}
		all = append(all, o)
	}
	return all
}

// normalizer is what reads an answer: a provider, or the definition that the answer was
// stored under.
type normalizer interface {
	Normalize(quote schema.QuoteFetched) ([]pipeline.Price, error)
}

// read asks the provider, and checks what no provider may answer.
func (h *handler) read(r *pipeline.Record, definitions map[string]*declared.Definition) read {
	quote := r.Event.Payload.(schema.QuoteStored)
	if quote.Definition != "" {
		return readBy(definitions[quote.Definition], r)
	}
	return readByCompiled(h.provider, r)
}

// readByCompiled asks the provider that this binary and its settings have.
func readByCompiled(providers func(schema.Provider) (pipeline.Provider, bool), r *pipeline.Record) read {
	quote := r.Event.Payload.(schema.QuoteStored)
	provider, known := providers(quote.Provider)
	if !known {
		return read{record: r, err: pipeline.Quotef(schema.CodeUnknownProvider, "no provider %q in this binary", quote.Provider)}
	}
	return readBy(provider, r)
}

func readBy(provider normalizer, r *pipeline.Record) read {
	quote := r.Event.Payload.(schema.QuoteStored)
	prices, err := normalize(provider, quote.QuoteFetched)
	if err == nil && len(prices) == 0 {
		err = pipeline.Quotef(schema.CodeBadResponse, "the answer holds no price")
	}
	for _, p := range prices {
		if ahead := p.CheckAhead(quote.ReceivedAt); ahead != nil {
			err = ahead
		}
		if p.Price.Sign() <= 0 && !p.Signed {
			err = pipeline.Quotef(schema.CodeBadPrice, "price %s is not positive", p.Price)
		}
		if invalid := observed(quote, p).Validate(); invalid != nil {
			err = pipeline.Quotef(schema.CodeBadPrice, "%v", invalid)
		}
	}
	if err != nil {
		return read{record: r, err: err}
	}
	return read{record: r, prices: prices}
}

// normalize makes an error of a panic, so that the answer is rejected and
// anyone who waits for its outcome learns of it.
func normalize(provider normalizer, quote schema.QuoteFetched) (prices []pipeline.Price, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = pipeline.Quotef(schema.CodeInternal, "the provider panicked: %v", p)
		}
	}()
	return provider.Normalize(quote)
}

func observed(quote schema.QuoteStored, p pipeline.Price) schema.Payload {
	if p.Bar != nil {
		return schema.BarObserved{Symbol: p.Symbol, Price: p.Price, Bar: *p.Bar, Timestamp: p.Time, Source: quote.Provider,
			RawResponseID: quote.RawResponseID, ReceivedAt: quote.ReceivedAt, RequestID: quote.RequestID}
	}
	return schema.PriceObserved{Symbol: p.Symbol, Price: p.Price, Size: p.Size, Timestamp: p.Time, Sequence: p.Sequence, Source: quote.Provider,
		RawResponseID: quote.RawResponseID, ReceivedAt: quote.ReceivedAt, RequestID: quote.RequestID}
}

// load fills the memory with the keys it lacks. A key that SQL lacks too is
// remembered as the zero value.
func load(ctx context.Context, tx *pipeline.Tx, known *pipeline.Cache[string, last], keys map[string]bool) error {
	var missing []string
	for key := range keys {
		if _, ok := known.Get(key); !ok {
			missing = append(missing, key)
			known.Put(key, last{Key: key})
		}
	}
	rows, err := store.SelectIn[last](ctx, tx, `SELECT quote_key, price, timestamp FROM normalized_quotes
		WHERE quote_key IN (?)`, missing)
	if err != nil {
		return fmt.Errorf("loading the last prices: %w", err)
	}
	for _, row := range rows {
		known.Put(row.Key, row)
	}
	return nil
}

func emit(r read, known memory, changed map[string]last) []schema.Event {
	quote := r.record.Event.Payload.(schema.QuoteStored)
	if r.err != nil {
		code, reason := explain(r.err)
		return []schema.Event{r.record.Derive(schema.QuoteRejected{Quote: quote.Quote, RawResponseID: quote.RawResponseID,
			Code: code, Reason: reason, ReceivedAt: quote.ReceivedAt})}
	}
	var events []schema.Event
	for _, p := range r.prices {
		key := stateKey(quote, p.Symbol)
		before, _ := known.Get(key)
		// What no request asked for, as a trade of a stream or a line of a file,
		// is a fact of its own: raw-store has dropped its repeats by their id. Two
		// trades may well have one price and one time.
		if quote.RequestID != "" && before.Timestamp.Equal(p.Time.Time) && before.Price.Cmp(p.Price) == 0 {
			unchanged := schema.QuoteUnchanged{Quote: quote.Quote, RawResponseID: quote.RawResponseID,
				Price: p.Price, Timestamp: p.Time, ReceivedAt: quote.ReceivedAt}
			unchanged.Symbol = p.Symbol
			events = append(events, r.record.Derive(unchanged))
			continue
		}
		events = append(events, r.record.Derive(observed(quote, p)))
		if !before.Timestamp.After(p.Time) {
			now := last{Key: key, Price: p.Price, Timestamp: p.Time}
			known.Put(key, now)
			changed[key] = now
		}
	}
	return events
}

func explain(err error) (schema.Code, string) {
	var q *pipeline.QuoteError
	if !errors.As(err, &q) {
		q = pipeline.Quotef(schema.CodeInternal, "%v", err)
	}
	return q.Code, schema.CutReason(q.Reason)
}

func save(ctx context.Context, tx *pipeline.Tx, changed map[string]last) error {
	rows := store.Rows{Table: "normalized_quotes", Columns: []string{"quote_key", "price", "timestamp"},
		Clause: `ON CONFLICT (quote_key) DO UPDATE SET price = excluded.price, timestamp = excluded.timestamp`}
	// In one order everywhere: two transactions never wait in a circle.
	for _, key := range slices.Sorted(maps.Keys(changed)) {
		rows.Add(key, changed[key].Price, changed[key].Timestamp)
	}
	return tx.Insert(ctx, rows)
}
