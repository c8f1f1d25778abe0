package live

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// A value is not handed out while an earlier price of another symbol on the partition has
// none yet: the position of the stream would be after it. That happens where one of the
// projections that a kind is read from is further than another.
func TestNoValuePassesAPriceThatWaits(t *testing.T) {
	t.Parallel()
	kind, err := Kinds{Window: 5, MaxWindow: 10}.Parse(AverageEvent)
	require.NoError(t, err)
	f := &feed{next: 100, markets: map[string]*market{}}
	s := &Stream{kinds: []Kind{kind}, news: make(chan struct{}, 1)}
	p := &part{feed: f, cursors: []int64{100}, joined: true}
	s.parts = []*part{p}
	for _, symbol := range []schema.Symbol{"A", "B"} {
		m := f.marketOf("p", symbol)
		m.watch(s)
		p.places = append(p.places, &place{market: m, past: make([]map[int64][]int64, 1), gate: make([]int64, 1)})
	}
	view := func(symbol schema.Symbol) *view { return f.marketOf("p", symbol).views[kind.Text] }
	show := func(symbol schema.Symbol, offset int64) {
		delete(view(symbol).pending, newest)
		view(symbol).show(newest, &entry{offset: offset, data: Data{Value: movingaverages.Average{Symbol: symbol}}})
	}
	taken := func() (symbols []schema.Symbol) {
		events, err := s.take()
		require.NoError(t, err)
		for _, e := range events {
			symbols = append(symbols, e.Data.Value.(movingaverages.Average).Symbol)
		}
		return symbols
	}

	view("A").await(newest, 150)
	view("B").await(newest, 140)
	view("B").await(newest, 160)
	f.next = 161
	assert.Empty(t, taken())
	assert.Equal(t, []int64{140}, p.cursors)
	show("B", 160)
	assert.Empty(t, taken(), "the price of A at 150 comes first")
	assert.Equal(t, []int64{150}, p.cursors)
	show("A", 150)
	assert.Equal(t, []schema.Symbol{"A", "B"}, taken())
	assert.Equal(t, []int64{161}, p.cursors)
	assert.Empty(t, taken())
}
