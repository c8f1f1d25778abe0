package topology

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// ErrTopology is wrapped by every fault that CheckComponents reports.
var ErrTopology = errors.New("the stages do not fit together")

// ComponentKind says what a Component is.
type ComponentKind string

// The kinds of components.
const (
	SourceComponent     ComponentKind = "source"
	HandlerComponent    ComponentKind = "handler"
	ProjectionComponent ComponentKind = "projection"
)

// Component is one working part of the service, as it declares itself: a source, a
// handler or a projection. Diagrams and documents are made of components.
type Component struct {
	Kind ComponentKind
	Name string
	Doc  string
	// Consumes and Produces are types of events.
	Consumes, Produces []schema.EventType
	// Tables are those of a projection.
	Tables []string
}

// CheckComponents reports components of the same kind and name, events that no package
// registers, and inputs that no component produces.
func CheckComponents(components []Component) error {
	var errs []error
	produced := map[schema.EventType]bool{}
	for _, p := range components {
		for _, t := range p.Produces {
			produced[t] = true
		}
	}
	seen := map[string]bool{}
	for _, p := range components {
		who := string(p.Kind) + " " + p.Name
		if seen[who] {
			errs = append(errs, fmt.Errorf("%w: there are two of %s: rename one", ErrTopology, who))
		}
		seen[who] = true
		if p.Kind != SourceComponent && len(p.Consumes) == 0 {
			errs = append(errs, fmt.Errorf("%w: %s consumes no events: list them in Consumes, or make it a source", ErrTopology, who))
		}
		if p.Kind == SourceComponent && len(p.Produces) == 0 {
			errs = append(errs, fmt.Errorf("%w: %s produces no events: list them in Produces", ErrTopology, who))
		}
		errs = append(errs, checkTypes(who, "consumes", p.Consumes, produced), checkTypes(who, "produces", p.Produces, nil))
	}
	return errors.Join(errs...)
}

// checkTypes reports types that are not registered, and where produced is not nil,
// those that are not among them.
func checkTypes(who, verb string, types []schema.EventType, produced map[schema.EventType]bool) error {
	known := schema.EventTypes()
	var errs []error
	for _, t := range types {
		switch {
		case !slices.Contains(known, t):
			errs = append(errs, fmt.Errorf("%w: %s %s %q, an event that no package registers: call schema.Register for it in init; did you mean %q?",
				ErrTopology, who, verb, t, names.Nearest(string(t), known)))
		case produced != nil && !produced[t]:
			errs = append(errs, fmt.Errorf("%w: %s %s %q, which nothing produces: switch on the plugin that does, or list it in its Produces",
				ErrTopology, who, verb, t))
		}
	}
	return errors.Join(errs...)
}

// topicsOf are the topics of some types, in the order in which topics are listed.
func topicsOf(types []schema.EventType) []schema.Topic {
	var topics []schema.Topic
	for _, topic := range schema.Topics() {
		if slices.ContainsFunc(types, func(t schema.EventType) bool {
			of, known := schema.TopicOf(t)
			return known && of == topic
		}) {
			topics = append(topics, topic)
		}
	}
	return topics
}

// Mermaid draws the components as a flowchart in the language of Mermaid:
// topics as stadiums, tables as cylinders.
func Mermaid(components []Component) string {
	g := newGraph(components)
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	id := func(n int) string {
		return string(g.nodes[n].kind) + "_" + strings.NewReplacer("-", "_", ".", "_").Replace(g.nodes[n].name)
	}
	shapes := map[ComponentKind]string{topicNode: "  %s([%s])\n", SourceComponent: "  %s[/%s/]\n", HandlerComponent: "  %s[%s]\n", ProjectionComponent: "  %s[(%s)]\n"}
	edges := g.edges
	for i, n := range g.nodes {
		fmt.Fprintf(&b, shapes[n.kind], id(i), n.name)
		for n.kind != topicNode && len(edges) > 0 && (edges[0].from == i || edges[0].to == i) {
			fmt.Fprintf(&b, "  %s --> %s\n", id(edges[0].from), id(edges[0].to))
			edges = edges[1:]
		}
	}
	return b.String()
}
