package topology

import (
	"slices"

	"github.com/pricemill/pricemill/schema"
)

// topicNode is the kind of the nodes that are topics.
const topicNode ComponentKind = "topic"

// node is a topic or a component in a picture.
type node struct {
	kind ComponentKind
	name string
}

// edge leads from one node to another, by their indexes.
type edge struct{ from, to int }

// graph is what pictures of components show: the topics first, as schema.Topics lists
// them, then the components, and edges component by component.
type graph struct {
	nodes []node
	edges []edge
}

func newGraph(components []Component) graph {
	var g graph
	topics := map[schema.Topic]int{}
	for _, topic := range schema.Topics() {
		if slices.ContainsFunc(components, func(c Component) bool {
			return slices.Contains(topicsOf(c.Consumes), topic) || slices.Contains(topicsOf(c.Produces), topic)
		}) {
			topics[topic] = len(g.nodes)
			g.nodes = append(g.nodes, node{topicNode, string(topic)})
		}
	}
	for _, c := range components {
		self := len(g.nodes)
		g.nodes = append(g.nodes, node{c.Kind, c.Name})
		for _, topic := range topicsOf(c.Consumes) {
			g.edges = append(g.edges, edge{topics[topic], self})
		}
		for _, topic := range topicsOf(c.Produces) {
			g.edges = append(g.edges, edge{self, topics[topic]})
		}
	}
	return g
}
