package projections

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/pricemill/pricemill/schema"
)

// Fact is a price, or the close of a bar, as a projection keeps it: as it came, or as it
// is after its correction. What a projection has no use for is zero.
type Fact struct {
	Symbol   schema.Symbol   `json:"symbol"`
	Provider schema.Provider `json:"provider"`
	Place
	Price schema.Decimal `json:"price"`
	// Size is zero where the provider does not say.
	Size schema.Decimal `json:"size,omitzero"`
	// Bar is nil where the fact is a price. Of a fact from the list of prices it has the
	// OpenTime alone.
	Bar           *schema.Bar `json:"bar,omitempty"`
	EventID       string      `json:"event_id,omitempty"`
	RawResponseID string      `json:"raw_response_id,omitempty"`
	ReceivedAt    schema.Time `json:"received_at,omitzero"`
	// Key is the FactKey of EventID, where a table has it.
	Key int64 `json:"key,omitzero"`
}

// FactKey stands for the id of an event in tables that have a row a price: 63 bits of its
// hash. Among the facts of one symbol, provider and event time it tells one from another.
func FactKey(id string) int64 {
	sum := sha256.Sum256([]byte(id))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 1)
}

// Lean takes from a fact what only a list of prices has a use for, and gives it its Key
// where keyed says that a table has it.
func (f *Fact) Lean(keyed bool) {
	if !keyed {
		f.Key = 0
	} else if f.Key == 0 {
		f.Key = FactKey(f.EventID)
	}
	f.EventID, f.RawResponseID, f.ReceivedAt = "", "", schema.Time{}
}

func (f Fact) market() market { return market{f.Symbol, f.Provider} }

// factOf is the fact of an event, with the row id of its record.
func factOf(e *schema.Event, id int64) (Fact, bool) {
	p, ok := schema.PriceOf(e.Payload)
	if !ok {
		return Fact{}, false
	}
	f := Fact{Symbol: p.Symbol, Provider: p.Source, Place: Place{p.Timestamp, p.Sequence, id}, Price: p.Price, Size: p.Size,
		EventID: e.ID, RawResponseID: p.RawResponseID, ReceivedAt: p.ReceivedAt}
	if b, isBar := e.Payload.(schema.BarObserved); isBar {
		bar := b.Bar // which alone is on the heap, and only here
		f.Bar = &bar
	}
	return f, true
}

// Change is what a record changes about one fact.
type Change struct {
	// Record is the row id of the record: of the fact itself, or of a correction.
	Record int64
	// Before and After are the fact as it was and as it is; nil where there is none.
	Before, After *Fact
	// Observed is the fact as it came.
	Observed *Fact
	// Correction is what After follows from; nil where the fact is as it came.
	Correction *CorrectionRow
}

// Market is the key of the symbol and provider of the fact.
func (c Change) Market() string { return c.fact().market().String() }

// Quote is the symbol and provider of the fact.
func (c Change) Quote() schema.Quote {
	return schema.Quote{Provider: c.fact().Provider, Symbol: c.fact().Symbol}
}

func (c Change) fact() *Fact {
	if c.Before != nil {
		return c.Before
	}
	return c.After
}

// Net leaves one change of each fact: from what it was before them all to what it is after
// them all.
func Net(changes []Change) []Change {
	amended := func(c Change) bool { return c.Before != nil || c.Record != c.After.ID }
	if !slices.ContainsFunc(changes, amended) {
		return changes // each is of another fact
	}
	net := make([]Change, 0, len(changes))
	at := make(map[int64]int, len(changes))
	for _, c := range changes {
		i, again := at[c.fact().ID]
		if !again {
			at[c.fact().ID] = len(net)
			net = append(net, c)
			continue
		}
		c.Before = net[i].Before
		net[i] = c
	}
	return slices.DeleteFunc(net, func(c Change) bool { return c.Before == nil && c.After == nil })
}
