package topology

import (
	"fmt"
	"html"
	"strings"
	"unicode/utf8"
)

const (
	nodeHeight  = 34.0
	layerHeight = 76.0
	margin      = 14.0
	letterWidth = 7.4 // of a text of 13 pixels, at the most on average
)

const svgStyle = `
.node{fill:#fff;stroke:#57606a;stroke-width:1.2}
.topic{fill:#ddf4ff;stroke:#0969da}
.projection{fill:#dafbe1;stroke:#1a7f37}
.source{fill:#fff8c5;stroke:#9a6700}
.edge{fill:none;stroke:#57606a;stroke-width:1.2}
.head{fill:#57606a}
text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1f2328;text-anchor:middle}
@media (prefers-color-scheme:dark){
.node{fill:#21262d;stroke:#8b949e}
.topic{fill:#0c2d6b;stroke:#58a6ff}
.projection{fill:#033a16;stroke:#3fb950}
.source{fill:#341a00;stroke:#d29922}
.edge{stroke:#8b949e}
.head{fill:#8b949e}
text{fill:#e6edf3}
}
`

// SVG draws the components as a picture: topics with round ends, sources slanted,
// handlers as boxes and projections as cylinders. Events flow from the top down. The
// same components give the same bytes.
func SVG(components []Component) string {
	g := newGraph(components)
	widths := make([]float64, len(g.nodes))
	for i, n := range g.nodes {
		widths[i] = letterWidth*float64(utf8.RuneCountInString(n.name)) + 32
	}
	l := newLayout(g, widths)
	right := 0.0
	for place, x := range l.x {
		right = max(right, x+l.width[place]/2)
	}
	width, height := right+2*margin+nodeGap, layerHeight*float64(len(l.layers)-1)+nodeHeight+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="title">`, width, height, width, height)
	fmt.Fprintf(&b, "\n<title id=\"title\">Topics, and the components that produce to them and consume from them</title>\n<style>%s</style>\n", svgStyle)
	b.WriteString(`<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>` + "\n")
	for i, e := range g.edges {
		fmt.Fprintf(&b, `<path class="edge" marker-end="url(#arrow)" d="%s"/>`+"\n", l.path(i, e))
	}
	for i, n := range g.nodes {
		x, y := l.x[i]+margin, l.top(i)
		baseline := y + nodeHeight/2 + 4.5
		if n.kind == ProjectionComponent {
			baseline += 2 // below the lid of the cylinder
		}
		fmt.Fprintf(&b, "<g>%s<text x=\"%.0f\" y=\"%.0f\">%s</text></g>\n", outline(n.kind, x-widths[i]/2, y, widths[i]), x, baseline, html.EscapeString(n.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// top is the upper end of a place.
func (l *layout) top(place int) float64 { return margin + layerHeight*float64(l.rank[place]) }

// path is the line of an edge: down, and straight where it passes a layer; one that
// leads up goes from side to side.
func (l *layout) path(i int, e edge) string {
	var b strings.Builder
	path := l.paths[i]
	if path == nil {
		x, y := l.x[e.from]+l.width[e.from]/2+margin, l.top(e.from)+nodeHeight/2
		toX, toY := l.x[e.to]+l.width[e.to]/2+margin, l.top(e.to)+nodeHeight/2
		fmt.Fprintf(&b, "M%.0f %.0fC%.0f %.0f %.0f %.0f %.0f %.0f", x, y, x+nodeGap, y, toX+nodeGap, toY, toX, toY)
		return b.String()
	}
	for j, place := range path {
		x, y := l.x[place]+margin, l.top(place)
		if j == 0 {
			fmt.Fprintf(&b, "M%.0f %.0f", x, y+nodeHeight)
			continue
		}
		fromX, fromY := l.x[path[j-1]]+margin, l.top(path[j-1])+nodeHeight
		half := (fromY + y) / 2
		fmt.Fprintf(&b, "C%.0f %.0f %.0f %.0f %.0f %.0f", fromX, half, x, half, x, y)
		if j < len(path)-1 {
			fmt.Fprintf(&b, "V%.0f", y+nodeHeight)
		}
	}
	return b.String()
}

// outline is the shape of a node.
func outline(kind ComponentKind, x, y, width float64) string {
	switch kind {
	case topicNode:
		return fmt.Sprintf(`<rect class="node topic" x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="%.0f"/>`, x, y, width, nodeHeight, nodeHeight/2)
	case SourceComponent:
		return fmt.Sprintf(`<path class="node source" d="M%.0f %.0fh%.0fl-10 %.0fh-%.0fz"/>`, x+10, y, width-10, nodeHeight, width-10)
	case ProjectionComponent:
		return fmt.Sprintf(`<path class="node projection" d="M%.0f %.0fv%.0fa%.1f 5 0 0 0 %.0f 0v-%.0fa%.1f 5 0 0 0-%.0f 0a%.1f 5 0 0 0 %.0f 0"/>`,
			x, y+5, nodeHeight-10, width/2, width, nodeHeight-10, width/2, width, width/2, width)
	}
	return fmt.Sprintf(`<rect class="node" x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="3"/>`, x, y, width, nodeHeight)
}
