package normalize

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Again reads stored answers again, as the providers of this binary and its settings read
// them today, and compares the prices with those that the answers were read as. The
// definition that an answer was stored with does not matter: that of today does.
type Again struct {
	// Providers finds a provider.
	Providers func(schema.Provider) (pipeline.Provider, bool)
	// Provider is the one whose answers are read; empty for all.
	Provider schema.Provider
	// Prices calls f with the records of price-events, decoded, as read models have them,
	// partition by partition, each record once.
	Prices func(ctx context.Context, f func([]pipeline.Record) error) error
	// Answers calls f with the records of stored-quotes, decoded, partition by partition, each
	// record once.
	Answers func(ctx context.Context, f func([]pipeline.Record) error) error
	// Partial says of a partition that the log does not have its first answers any more.
	Partial func(partition int32) bool
	// Records is how many records Prices has, about.
	Records int64
	// Held bounds how many prices are in memory at once; 0 for DefaultHeld. The log is read
	// again for each further part of them.
	Held int64
}

// DefaultHeld is how many prices are in memory at once, some 100 bytes each.
const DefaultHeld = 500_000

// Difference is a price that an answer is read as today and was not, or the reverse.
type Difference struct {
	// EventID and RecordID are those of the event of the price and the id of a row of its
	// record; empty and 0 for a price that the answer was not read as holding.
	EventID  string
	RecordID int64
	// Is is the price or bar of today; nil where the answer does not hold it.
	Is schema.Payload
	// Answer is the id of the stored answer, and Number counts its differences.
	Answer string
	Number int
}

// Run calls f with the differences, in the order of the answers in each partition, and
// returns how many answers there were.
func (a Again) Run(ctx context.Context, f func([]Difference) error) (answers int64, err error) {
	held := a.Held
	if held == 0 {
		held = DefaultHeld
	}
	passes := uint64(max(1, (a.Records+held-1)/held))
	for pass := range passes {
		p := reading{Again: a, was: map[answerKey][]was{}, mine: func(k answerKey) bool { return binary.BigEndian.Uint64(k[:8])%passes == pass }}
		if err := p.remember(ctx); err != nil {
			return answers, fmt.Errorf("reading the prices: %w", err)
		}
		n, err := p.compare(ctx, f)
		if answers += n; err != nil {
			return answers, fmt.Errorf("reading the answers: %w", err)
		}
	}
	return answers, nil
}

// answerKey stands for the id of an answer.
type answerKey [16]byte

func keyOfAnswer(id string) answerKey {
	sum := sha256.Sum256([]byte(id))
	return answerKey(sum[:16])
}

// was is a price that an answer was read as.
type was struct {
	event   string
	record  int64
	market  string
	content [16]byte
}

// reading is one pass over the log.
type reading struct {
	Again
	mine func(answerKey) bool
	was  map[answerKey][]was
}

// remember notes the prices of the answers of this pass.
func (p *reading) remember(ctx context.Context) error {
	return p.Prices(ctx, func(records []pipeline.Record) error {
		for i := range records {
			r := &records[i]
			price, is := schema.PriceOf(r.Event.Payload)
			if !is || price.RawResponseID == "" || !p.wants(price.Source) {
				continue
			}
			key := keyOfAnswer(price.RawResponseID)
			if !p.mine(key) {
				continue
			}
			id, err := r.RowID(0)
			if err != nil {
				return err
			}
			content, err := contentOf(r.Event.Payload)
			if err != nil {
				return err
			}
			p.was[key] = append(p.was[key], was{r.Event.ID, id, r.Event.Payload.Key(), content})
		}
		return nil
	})
}

func (p *reading) wants(provider schema.Provider) bool {
	return p.Provider == "" || p.Provider == provider
}

// compare reads the answers of this pass. All answers are read, since whether a price is
// news depends on the answer before.
func (p *reading) compare(ctx context.Context, f func([]Difference) error) (answers int64, err error) {
	known := prices{}
	err = p.Answers(ctx, func(records []pipeline.Record) error {
		var differences []Difference
		for i := range records {
			r := &records[i]
			quote, is := r.Event.Payload.(schema.QuoteStored)
			if !is || !p.wants(quote.Provider) {
				continue
			}
			now := p.read(r, quote, known)
			key := keyOfAnswer(quote.RawResponseID)
			if !p.mine(key) {
				continue
			}
			answers++
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
	})
	return answers, err
}

// read are the prices that an answer is read as. Where the log does not have the answers
// before, whether a price is news cannot be told, and it is taken for none.
func (p *reading) read(r *pipeline.Record, quote schema.QuoteStored, known prices) []schema.Payload {
	answer := readByCompiled(p.Providers, r)
	unsure := map[string]bool{}
	if quote.RequestID != "" && p.Partial(r.Partition) {
		for _, price := range answer.prices {
			if _, ok := known.Get(stateKey(quote, price.Symbol)); !ok {
				unsure[schema.MarketKey(quote.Provider, price.Symbol)] = true
			}
		}
	}
	answer.doubt(known)
	var all []schema.Payload
	for _, e := range emit(answer, known, map[string]last{}) {
		if _, isPrice := schema.PriceOf(e.Payload); isPrice && !unsure[e.Payload.Key()] {
			all = append(all, e.Payload)
		}
	}
	return all
}

// prices is a memory that has all there was.
type prices map[string]last

func (p prices) Get(key string) (last, bool) { l, ok := p[key]; return l, ok }
func (p prices) Put(key string, to last)     { p[key] = to }

// differ compares what an answer was read as with what it is read as. A price that is
// another one takes the place of one of its symbol, in their order.
func differ(before []was, now []schema.Payload) ([]Difference, error) {
	var left []schema.Payload
	for _, payload := range now {
		content, err := contentOf(payload)
		if err != nil {
			return nil, err
		}
		same := slices.IndexFunc(before, func(w was) bool { return w.content == content })
		if same < 0 {
			left = append(left, payload)
			continue
		}
		before = slices.Delete(slices.Clone(before), same, same+1)
	}
	differences := make([]Difference, 0, len(left)+len(before))
	for _, w := range before {
		d := Difference{EventID: w.event, RecordID: w.record}
		if at := slices.IndexFunc(left, func(p schema.Payload) bool { return p.Key() == w.market }); at >= 0 {
			d.Is = left[at]
			left = slices.Delete(left, at, at+1)
		}
		differences = append(differences, d)
	}
	for _, payload := range left {
		differences = append(differences, Difference{Is: payload})
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
