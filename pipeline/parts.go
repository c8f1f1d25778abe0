package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// PartKind says what a Part is.
type PartKind string

// The kinds of parts.
const (
	SourcePart     PartKind = "source"
	HandlerPart    PartKind = "handler"
	ProjectionPart PartKind = "projection"
)

// Part is one working part of the service, as it declares itself: a source, a
// handler or a projection. Pictures and documents are made of parts.
type Part struct {
	Kind PartKind
	Name string
	Doc  string
	// Takes and Gives are types of events.
	Takes, Gives []schema.EventType
	// Tables are those of a projection.
	Tables []string
}

// CheckParts reports parts of one kind and name, events that no package registers,
// and inputs that no part gives.
func CheckParts(parts []Part) error {
	var errs []error
	given := map[schema.EventType]bool{}
	for _, p := range parts {
		for _, t := range p.Gives {
			given[t] = true
		}
	}
	seen := map[string]bool{}
	for _, p := range parts {
		who := string(p.Kind) + " " + p.Name
		if seen[who] {
			errs = append(errs, fmt.Errorf("%w: there are two of %s: rename one", ErrTopology, who))
		}
		seen[who] = true
		if p.Kind != SourcePart && len(p.Takes) == 0 {
			errs = append(errs, fmt.Errorf("%w: %s takes no events: list them in Takes, or make it a source", ErrTopology, who))
		}
		if p.Kind == SourcePart && len(p.Gives) == 0 {
			errs = append(errs, fmt.Errorf("%w: %s gives no events: list them in Gives", ErrTopology, who))
		}
		errs = append(errs, checkTypes(who, "takes", p.Takes, given), checkTypes(who, "gives", p.Gives, nil))
	}
	return errors.Join(errs...)
}

// checkTypes reports types that are not registered, and where given is not nil,
// those that are not among them.
func checkTypes(who, verb string, types []schema.EventType, given map[schema.EventType]bool) error {
	known := schema.EventTypes()
	names := make([]string, len(known))
	for i, t := range known {
		names[i] = string(t)
	}
	var errs []error
	for _, t := range types {
		switch {
		case !slices.Contains(known, t):
			errs = append(errs, fmt.Errorf("%w: %s %s %q, an event that no package registers: call schema.Register for it in init; did you mean %q?",
				ErrTopology, who, verb, t, Nearest(string(t), names)))
		case given != nil && !given[t]:
			errs = append(errs, fmt.Errorf("%w: %s %s %q, which nobody gives: switch on the plugin that does, or let its handler list it in Gives",
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

// Mermaid is the picture of the parts as a flowchart in the language of Mermaid:
// topics as stadiums, tables as cylinders.
func Mermaid(parts []Part) string {
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	id := func(kind, name string) string {
		return kind + "_" + strings.NewReplacer("-", "_", ".", "_").Replace(name)
	}
	drawn := map[schema.Topic]bool{}
	for _, p := range parts {
		for _, topic := range topicsOf(append(slices.Clone(p.Takes), p.Gives...)) {
			drawn[topic] = true
		}
	}
	for _, topic := range schema.Topics() {
		if drawn[topic] {
			fmt.Fprintf(&b, "  %s([%s])\n", id("topic", string(topic)), topic)
		}
	}
	shapes := map[PartKind]string{SourcePart: "  %s[/%s/]\n", HandlerPart: "  %s[%s]\n", ProjectionPart: "  %s[(%s)]\n"}
	for _, p := range parts {
		self := id(string(p.Kind), p.Name)
		fmt.Fprintf(&b, shapes[p.Kind], self, p.Name)
		for _, topic := range topicsOf(p.Takes) {
			fmt.Fprintf(&b, "  %s --> %s\n", id("topic", string(topic)), self)
		}
		for _, topic := range topicsOf(p.Gives) {
			fmt.Fprintf(&b, "  %s --> %s\n", self, id("topic", string(topic)))
		}
	}
	return b.String()
}
