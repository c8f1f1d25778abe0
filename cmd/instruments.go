package cmd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections/instruments"
	"github.com/pricemill/pricemill/schema"
)

const (
	// instrumentsKept is for how long it is remembered what answers told of a market.
	instrumentsKept = 10 * time.Second
	// maxInstruments bounds of how many markets.
	maxInstruments = 10_000
)

// known tells what is known of instruments: by providers, and by answers where the projection
// of that is on. It is safe for concurrent use.
type known struct {
	provider func(schema.Provider) (pipeline.Provider, bool)
	db       store.Querier
	told     bool // the projection is on
	now      func() time.Time

	mu   sync.Mutex
	kept map[instruments.Market]toldAt
}

// toldAt is what answers told, as it was read at some time.
type toldAt struct {
	about schema.Instrument
	read  time.Time
}

// newKnown tells what the modules know.
func newKnown(m *modules, db store.Querier) *known {
	on := slices.ContainsFunc(m.projections, func(p pipeline.Projection) bool { return p.Name() == instruments.Name })
	return &known{provider: m.provider, db: db, told: on, now: time.Now, kept: map[instruments.Market]toldAt{}}
}

// describe is httpapi.Ports.Instruments. What answers told goes before what the provider
// knows of the symbol.
func (k *known) describe(ctx context.Context, of []instruments.Market) ([]schema.Instrument, error) {
	all := make([]schema.Instrument, len(of))
	var ask []instruments.Market
	for i, m := range of {
		provider, exists := k.provider(m.Provider)
		if describer, ok := provider.(pipeline.Describer); exists && ok {
			all[i] = describer.DescribeSymbol(m.Symbol)
		}
		if _, tells := provider.(pipeline.AnswerDescriber); exists && tells && k.told {
			ask = append(ask, m)
		}
	}
	if len(ask) == 0 {
		return all, nil
	}
	told, err := k.read(ctx, ask)
	if err != nil {
		return nil, err
	}
	for i, m := range of {
		all[i] = told[m].Or(all[i])
	}
	return all, nil
}

// read returns what answers told of markets: as it was at most a few seconds ago.
func (k *known) read(ctx context.Context, markets []instruments.Market) (map[instruments.Market]schema.Instrument, error) {
	now := k.now()
	all := make(map[instruments.Market]schema.Instrument, len(markets))
	var missing []instruments.Market
	k.mu.Lock()
	for _, m := range markets {
		if kept, found := k.kept[m]; found && now.Sub(kept.read) < instrumentsKept {
			all[m] = kept.about
		} else {
			missing = append(missing, m)
		}
	}
	k.mu.Unlock()
	if len(missing) == 0 {
		return all, nil
	}
	told, err := instruments.Told(ctx, k.db, missing)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.kept)+len(missing) > maxInstruments {
		clear(k.kept)
	}
	for _, m := range missing { // those of which nothing is told, too
		all[m] = told[m]
		k.kept[m] = toldAt{told[m], now}
	}
	return all, nil
}
