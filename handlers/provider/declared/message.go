package declared

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// message is what a stream sends: a text, or JSON whose texts are templates. A definition
// has it as YAML, so that what is filled in is always escaped. The zero value is none.
type message struct{ root *node }

// node is a value of a message.
type node struct {
	kind    nodeKind
	text    template // of a text
	literal string   // of a number, true, false or null: its JSON
	keys    []string // of an object, in the order of the definition
	values  []*node  // of an object or a list
}

type nodeKind int

const (
	textNode nodeKind = iota
	literalNode
	objectNode
	listNode
)

// maxDepth bounds how deep a message is nested.
const maxDepth = 20

// parseMessage reads a message whose texts may have these places. {symbol} in an item of a
// list repeats the item for each symbol, and {symbol} elsewhere the message.
func parseMessage(n yaml.Node, places ...string) (message, error) {
	if n.Kind == 0 {
		return message{}, nil
	}
	root, err := parseNode(&n, maxDepth, places)
	if err != nil {
		return message{}, err
	}
	m := message{root}
	if m.isPerSymbol() && root.repeats() {
		return message{}, errors.New("{symbol} is both in a list and outside of one: want either, since it repeats the item of a list, or the message")
	}
	return m, nil
}

func parseNode(n *yaml.Node, depth int, places []string) (*node, error) {
	if depth == 0 {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch n.Kind {
	case yaml.ScalarNode:
		return parseScalar(n, places)
	case yaml.SequenceNode:
		list := &node{kind: listNode}
		for _, item := range n.Content {
			value, err := parseNode(item, depth-1, places)
			if err != nil {
				return nil, err
			}
			list.values = append(list.values, value)
		}
		return list, nil
	case yaml.MappingNode:
		object := &node{kind: objectNode}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || slices.Contains(object.keys, key.Value) {
				return nil, errors.New("a key that is no text, or is there twice")
			}
			value, err := parseNode(n.Content[i+1], depth-1, places)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key.Value, err)
			}
			object.keys, object.values = append(object.keys, key.Value), append(object.values, value)
		}
		return object, nil
	}
	return nil, errors.New("an alias of YAML: write the value itself")
}

func parseScalar(n *yaml.Node, places []string) (*node, error) {
	switch {
	case n.Tag == "!!str":
		text, err := parseTemplate(n.Value, places...)
		return &node{kind: textNode, text: text}, err
	case n.Tag == "!!null":
		return &node{kind: literalNode, literal: "null"}, nil
	case json.Valid([]byte(n.Value)): // a number, true or false
		return &node{kind: literalNode, literal: n.Value}, nil
	}
	return nil, fmt.Errorf("%q is neither a text nor a number of JSON: quote it", n.Value)
}

// isPerSymbol says that the message is sent once for each symbol.
func (m message) isPerSymbol() bool { return m.root != nil && m.root.isRepeated() }

// isRepeated says that {symbol} is in a node, and in no list within it.
func (n *node) isRepeated() bool {
	switch n.kind {
	case textNode:
		return n.text.has(symbolPlace)
	case objectNode:
		return slices.ContainsFunc(n.values, (*node).isRepeated)
	}
	return false
}

// repeats says that a list in a node has an item that is repeated.
func (n *node) repeats() bool {
	if n.kind == listNode && slices.ContainsFunc(n.values, (*node).isRepeated) {
		return true
	}
	return slices.ContainsFunc(n.values, (*node).repeats)
}

// templates are the texts of a message.
func (m message) templates() []template {
	if m.root == nil {
		return nil
	}
	return m.root.templates()
}

func (n *node) templates() []template {
	var all []template
	if n.kind == textNode {
		all = append(all, n.text)
	}
	for _, value := range n.values {
		all = append(all, value.templates()...)
	}
	return all
}

// fill gives the frames to send for symbols, as the service spells them, and the values of
// other places: one, or one for each symbol.
func (m message) fill(values map[string]string, symbols []string) [][]byte {
	switch {
	case m.root == nil:
		return nil
	case !m.isPerSymbol():
		return [][]byte{m.root.frame(filling{values: values, symbols: symbols})}
	}
	var frames [][]byte
	for _, symbol := range symbols {
		frames = append(frames, m.root.frame(filling{values: values, symbol: symbol}))
	}
	return frames
}

// filling is what a message is filled with.
type filling struct {
	values  map[string]string
	symbols []string // for the items of lists
	symbol  string   // of the item or message
}

func (f filling) text(t template) string {
	return t.fillFrom(func(place string) string {
		if place == symbolPlace {
			return f.symbol
		}
		return f.values[place]
	})
}

// frame is the root of a message as a frame: a text as it is, all else as JSON.
func (n *node) frame(f filling) []byte {
	if n.kind == textNode {
		return []byte(f.text(n.text))
	}
	var b bytes.Buffer
	n.write(&b, f)
	return b.Bytes()
}

func (n *node) write(b *bytes.Buffer, f filling) {
	switch n.kind {
	case textNode:
		writeText(b, f.text(n.text))
	case literalNode:
		b.WriteString(n.literal)
	case objectNode:
		b.WriteByte('{')
		for i, value := range n.values {
			if i > 0 {
				b.WriteByte(',')
			}
			writeText(b, n.keys[i])
			b.WriteByte(':')
			value.write(b, f)
		}
		b.WriteByte('}')
	case listNode:
		n.writeList(b, f)
	}
}

func (n *node) writeList(b *bytes.Buffer, f filling) {
	b.WriteByte('[')
	items := 0
	write := func(item *node, f filling) {
		if items++; items > 1 {
			b.WriteByte(',')
		}
		item.write(b, f)
	}
	for _, item := range n.values {
		if !item.isRepeated() {
			write(item, f)
			continue
		}
		for _, symbol := range f.symbols {
			write(item, filling{values: f.values, symbols: f.symbols, symbol: symbol})
		}
	}
	b.WriteByte(']')
}

// writeText writes a JSON string.
func writeText(b *bytes.Buffer, text string) {
	encoder := json.NewEncoder(b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string can be encoded, and a Buffer be written to
	b.Truncate(b.Len() - 1)  // the line feed
}
