package topology

import (
	"cmp"
	"math"
	"slices"
)

const (
	nodeGap   = 26 // between two nodes of a layer
	laneWidth = 10 // of an edge that passes a layer
	sweeps    = 24
)

// layout places the nodes of a graph in layers, so that edges lead down, except those
// that close a cycle (Sugiyama's method). Where an edge passes a layer, it has a place
// there as well, so that it crosses no node.
type layout struct {
	layers [][]int   // of places, from left to right
	width  []float64 // of each place: the nodes first, then where edges pass
	x      []float64 // the centre of each place
	rank   []int     // the layer of each place
	above  [][]int   // the places that lead to each place
	below  [][]int   // the places that each place leads to
	paths  [][]int   // the places of each edge; none for one that leads up
}

// newLayout places a graph whose nodes have these widths.
func newLayout(g graph, widths []float64) *layout {
	l := &layout{width: slices.Clone(widths), rank: ranks(g)}
	for _, e := range g.edges {
		path := []int{e.from}
		for r := l.rank[e.from] + 1; r < l.rank[e.to]; r++ {
			path = append(path, len(l.width))
			l.width, l.rank = append(l.width, laneWidth), append(l.rank, r)
		}
		if l.rank[e.from] < l.rank[e.to] {
			path = append(path, e.to)
		} else {
			path = nil
		}
		l.paths = append(l.paths, path)
	}
	l.above, l.below, l.x = make([][]int, len(l.width)), make([][]int, len(l.width)), make([]float64, len(l.width))
	for _, path := range l.paths {
		for i := 1; i < len(path); i++ {
			l.below[path[i-1]] = append(l.below[path[i-1]], path[i])
			l.above[path[i]] = append(l.above[path[i]], path[i-1])
		}
	}
	l.layers = make([][]int, slices.Max(append(slices.Clone(l.rank), 0))+1)
	for place, r := range l.rank {
		l.layers[r] = append(l.layers[r], place)
	}
	l.order()
	for i := range sweeps {
		l.sweep(i, l.align)
	}
	left := math.Inf(1)
	for place, x := range l.x {
		left = min(left, x-l.width[place]/2)
	}
	for place := range l.x {
		l.x[place] -= left
	}
	return l
}

// ranks returns the layer of each node: one below the lowest that leads to it, without
// edges that close a cycle. A node that nothing leads to is just above the next one.
func ranks(g graph) []int {
	out := make([][]int, len(g.nodes))
	entered := make([]int, len(g.nodes))
	for _, e := range g.edges {
		out[e.from] = append(out[e.from], e.to)
		entered[e.to]++
	}
	const onTheWay, done = 1, 2
	state := make([]int, len(g.nodes))
	forward := make([][]int, len(g.nodes))
	var finished []int
	var visit func(n int)
	visit = func(n int) {
		state[n] = onTheWay
		for _, to := range out[n] {
			if state[to] == onTheWay {
				continue
			}
			forward[n] = append(forward[n], to)
			if state[to] != done {
				visit(to)
			}
		}
		state[n] = done
		finished = append(finished, n)
	}
	for _, withInputs := range []bool{false, true} {
		for n := range g.nodes {
			if state[n] == 0 && entered[n] > 0 == withInputs {
				visit(n)
			}
		}
	}
	rank := make([]int, len(g.nodes))
	for _, n := range slices.Backward(finished) {
		for _, to := range forward[n] {
			rank[to] = max(rank[to], rank[n]+1)
		}
	}
	for _, n := range finished {
		lowest := math.MaxInt
		for _, to := range forward[n] {
			lowest = min(lowest, rank[to])
		}
		if entered[n] == 0 && lowest < math.MaxInt {
			rank[n] = lowest - 1
		}
	}
	return rank
}

// sweep calls f with each layer and the neighbours that it goes by: down in even
// rounds, with those above, and up in odd ones, with those below.
func (l *layout) sweep(round int, f func(layer []int, neighbours [][]int)) {
	if round%2 == 0 {
		for _, layer := range l.layers {
			f(layer, l.above)
		}
		return
	}
	for _, layer := range slices.Backward(l.layers) {
		f(layer, l.below)
	}
}

// order sorts each layer by the positions of its neighbours, repeatedly, and keeps the
// order with the fewest crossings.
func (l *layout) order() {
	position := make([]float64, len(l.width))
	number := func(layer []int) {
		for i, place := range layer {
			position[place] = float64(i)
		}
	}
	for _, layer := range l.layers {
		number(layer)
	}
	var best [][]int
	fewest := math.MaxInt
	for round := range sweeps {
		l.sweep(round, func(layer []int, neighbours [][]int) {
			wanted := map[int]float64{}
			for _, place := range layer {
				wanted[place] = mean(neighbours[place], position, position[place])
			}
			slices.SortStableFunc(layer, func(a, b int) int { return cmp.Compare(wanted[a], wanted[b]) })
			number(layer)
		})
		if n := l.crossings(position); n < fewest {
			fewest, best = n, nil
			for _, layer := range l.layers {
				best = append(best, slices.Clone(layer))
			}
		}
	}
	l.layers = best
}

// crossings counts the pairs of edges that cross.
func (l *layout) crossings(position []float64) int {
	n := 0
	for _, layer := range l.layers {
		for i, a := range layer {
			for _, b := range layer[i+1:] { // to the right of a
				for _, p := range l.below[a] {
					for _, q := range l.below[b] {
						if position[p] > position[q] {
							n++
						}
					}
				}
			}
		}
	}
	return n
}

// align moves the places of a layer as close to their neighbours as their order and
// widths allow. Places that would overlap share the distance (isotonic regression).
func (l *layout) align(layer []int, neighbours [][]int) {
	type block struct{ sum, n float64 }
	var blocks []block
	offsets := make([]float64, len(layer))
	for i, place := range layer {
		if i > 0 {
			offsets[i] = offsets[i-1] + (l.width[layer[i-1]]+l.width[place])/2 + nodeGap
		}
		b := block{mean(neighbours[place], l.x, l.x[place]) - offsets[i], 1}
		for len(blocks) > 0 && blocks[len(blocks)-1].sum/blocks[len(blocks)-1].n > b.sum/b.n {
			last := blocks[len(blocks)-1]
			b, blocks = block{b.sum + last.sum, b.n + last.n}, blocks[:len(blocks)-1]
		}
		blocks = append(blocks, b)
	}
	i := 0
	for _, b := range blocks {
		for range int(b.n) {
			l.x[layer[i]] = b.sum/b.n + offsets[i]
			i++
		}
	}
}

// mean returns the mean of the values of some places, or else otherwise.
func mean(places []int, values []float64, otherwise float64) float64 {
	if len(places) == 0 {
		return otherwise
	}
	sum := 0.0
	for _, place := range places {
		sum += values[place]
	}
	return sum / float64(len(places))
}
