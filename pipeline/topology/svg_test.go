package topology

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// TestAPictureHasEveryNodeAndEdge: the document is XML, every name is in it, escaped,
// and every edge is a line.
func TestAPictureHasEveryNodeAndEdge(t *testing.T) {
	t.Parallel()
	stored, observed := schema.QuoteStored{}.EventType(), schema.PriceObserved{}.EventType()
	components := []Component{
		{Kind: SourceComponent, Name: "feed", Produces: []schema.EventType{stored}},
		{Kind: HandlerComponent, Name: "a<b&c", Consumes: []schema.EventType{stored}, Produces: []schema.EventType{observed, stored}},
		{Kind: ProjectionComponent, Name: "prices", Consumes: []schema.EventType{observed}},
	}
	picture := SVG(components)
	assert.Equal(t, picture, SVG(components))
	var texts []string
	edges := 0
	for d := xml.NewDecoder(strings.NewReader(picture)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		start, isStart := token.(xml.StartElement)
		if !isStart {
			continue
		}
		switch {
		case start.Name.Local == "text":
			var text string
			require.NoError(t, d.DecodeElement(&text, &start))
			texts = append(texts, text)
		case slices.Contains(start.Attr, xml.Attr{Name: xml.Name{Local: "class"}, Value: "edge"}):
			edges++
		}
	}
	assert.Equal(t, []string{"stored-quotes", "price-events", "feed", "a<b&c", "prices"}, texts)
	assert.Equal(t, 5, edges)
}

// TestALayoutOverlapsNothing: of random graphs, cycles included, nodes of a layer keep
// their distance, and edges lead to a lower layer or close a cycle.
func TestALayoutOverlapsNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var g graph
		var widths []float64
		for i := range 2 + random.IntN(20) {
			g.nodes = append(g.nodes, node{HandlerComponent, fmt.Sprint(i)})
			widths = append(widths, 40+float64(random.IntN(100)))
		}
		for range random.IntN(30) {
			g.edges = append(g.edges, edge{random.IntN(len(g.nodes)), random.IntN(len(g.nodes))})
		}
		l := newLayout(g, widths)
		for _, layer := range l.layers {
			for i := 1; i < len(layer); i++ {
				a, b := layer[i-1], layer[i]
				assert.GreaterOrEqual(t, l.x[b]-l.x[a]+1e-6, (l.width[a]+l.width[b])/2+nodeGap, "seed %d", seed)
			}
		}
		for i, path := range l.paths {
			for j := 1; j < len(path); j++ {
				assert.Equal(t, l.rank[path[j-1]]+1, l.rank[path[j]], "seed %d: edge %d", seed, i)
			}
			if path == nil {
				assert.True(t, leadsTo(g, g.edges[i].to, g.edges[i].from), "seed %d: edge %d leads up and closes no cycle", seed, i)
			}
		}
	}
}

// leadsTo reports whether a path leads from one node to another.
func leadsTo(g graph, from, to int) bool {
	seen := map[int]bool{from: true}
	for next := []int{from}; len(next) > 0; next = next[1:] {
		if next[0] == to {
			return true
		}
		for _, e := range g.edges {
			if e.from == next[0] && !seen[e.to] {
				seen[e.to] = true
				next = append(next, e.to)
			}
		}
	}
	return false
}

// TestALayoutUntanglesEdges: parallel chains are drawn without a crossing.
func TestALayoutUntanglesEdges(t *testing.T) {
	t.Parallel()
	g := graph{nodes: make([]node, 8), edges: []edge{{0, 7}, {1, 6}, {2, 5}, {3, 4}}}
	l := newLayout(g, slices.Repeat([]float64{50}, 8))
	for _, e := range g.edges {
		assert.InDelta(t, l.x[e.from], l.x[e.to], 1, "%v is not straight", e)
	}
}
