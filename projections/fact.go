package projections

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/schema"
)

// Fact is a price, or the close of a bar, as a projection keeps it: as it came, or as it
// is after its correction. What a projection has no use for is zero.
type Fact struct {
	Symbol   schema.Symbol   `json:"symbol"`
	Provider schema.Provider `json:"provider"`
	Place
	// Key is that of the id of its event; see FactKey.
	Key   int64          `json:"key"`
	Price schema.Decimal `json:"price"`
	// Size is zero where the provider does not say.
	Size schema.Decimal `json:"size,omitzero"`
	// Bar is nil where the fact is a price.
	Bar           *schema.Bar `json:"bar,omitempty"`
	EventID       string      `json:"event_id,omitempty"`
	RawResponseID string      `json:"raw_response_id,omitempty"`
	ReceivedAt    schema.Time `json:"received_at,omitzero"`
}

// FactKey stands for the id of an event in tables that have a row a price: 63 bits of its
// hash. Among the facts of one symbol, provider and event time it tells one from another.
func FactKey(id string) int64 {
	sum := sha256.Sum256([]byte(id))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 1)
}

// Lean is the fact without what only a list of prices has a use for.
func (f Fact) Lean() Fact {
	f.EventID, f.RawResponseID, f.ReceivedAt = "", "", schema.Time{}
	return f
}

func (f Fact) market() market { return market{f.Symbol, f.Provider} }

// factOf is the fact of an event, with the row id of its record.
func factOf(e schema.Event, id int64) (Fact, bool) {
	p, ok := schema.PriceOf(e.Payload)
	if !ok {
		return Fact{}, false
	}
	f := Fact{Symbol: p.Symbol, Provider: p.Source, Place: Place{p.Timestamp, p.Sequence, id}, Key: FactKey(e.ID), Price: p.Price, Size: p.Size,
		EventID: e.ID, RawResponseID: p.RawResponseID, ReceivedAt: p.ReceivedAt}
	if b, isBar := e.Payload.(schema.BarObserved); isBar {
		f.Bar = &b.Bar
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

// New reports whether the change is a fact that came, and not a correction of one.
func (c Change) New() bool { return c.Before == nil && c.Record == c.After.ID }

// Market is the key of the symbol and provider of the fact.
func (c Change) Market() string { return c.fact().market().String() }

func (c Change) fact() *Fact {
	if c.Before != nil {
		return c.Before
	}
	return c.After
}

// Net leaves one change of each fact: from what it was before them all to what it is after
// them all. They are in the order of the places of the facts.
func Net(changes []Change) []Change {
	byID := map[int64]Change{}
	for _, c := range changes {
		if first, again := byID[c.fact().ID]; again {
			c.Before = first.Before
		}
		byID[c.fact().ID] = c
	}
	net := slices.DeleteFunc(slices.Collect(maps.Values(byID)), func(c Change) bool { return c.Before == nil && c.After == nil })
	slices.SortFunc(net, func(a, b Change) int { return a.fact().Compare(b.fact().Place) })
	return net
}
