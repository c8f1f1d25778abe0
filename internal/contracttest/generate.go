package contracttest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what the document does not.
type Options struct {
	// Symbols and Providers are values of parameters and members of these names
	// that lead to something.
	Symbols, Providers []string
	// MaxCreated bounds how often each operation with a body succeeds. Each success
	// leaves something that works on. Once it is reached, only requests that must
	// be refused are made of that operation.
	MaxCreated int
	// MaxBody is the size from which on a body is refused, in bytes.
	MaxBody int
}

// Generator makes requests of a document. Every operation gets as many as every
// other, and of each operation every kind as many as every other. It is safe for
// concurrent use; with one user, the requests follow from the seed and the answers.
type Generator struct {
	values
	options Options

	mu      sync.Mutex
	turns   []*turn
	next    int
	created map[*Operation]int
	learned learned
	focus   map[string]bool // operations; empty for all
}

// turn is an operation, and the kinds of requests that are left of its round.
type turn struct {
	operation *Operation
	kinds     []kind
	left      []kind
}

// kind is a way to make a request of an operation; false where there is none just
// now, because nothing is known yet that it needs.
type kind struct {
	name string
	make func(*Operation) (Request, bool)
	// creates says that a success may leave something that works on.
	creates bool
}

// learned is what answers taught.
type learned struct {
	ids   map[string][]string // by parameter: job_id
	links []Request           // pages that answers lead to
	etags []validator
	keys  []Request // with an Idempotency-Key, that were accepted
}

type validator struct {
	request Request
	etag    string
}

// memory is how much of each sort is remembered.
const memory = 50

// NewGenerator makes a generator whose requests follow from random.
func NewGenerator(d *Document, random *rand.Rand, options Options) *Generator {
	g := &Generator{values: values{d, random}, options: options, created: map[*Operation]int{},
		learned: learned{ids: map[string][]string{}}}
	for _, o := range d.operations {
		g.turns = append(g.turns, &turn{operation: o, kinds: g.kinds(o)})
	}
	return g
}

// Next makes a request.
func (g *Generator) Next() Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if g.next == 0 {
			g.random.Shuffle(len(g.turns), func(i, j int) { g.turns[i], g.turns[j] = g.turns[j], g.turns[i] })
		}
		t := g.turns[g.next]
		g.next = (g.next + 1) % len(g.turns)
		if len(g.focus) > 0 && !g.focus[t.operation.String()] {
			continue
		}
		if len(t.left) == 0 {
			t.left = slices.Clone(t.kinds)
			g.random.Shuffle(len(t.left), func(i, j int) { t.left[i], t.left[j] = t.left[j], t.left[i] })
		}
		k := t.left[0]
		t.left = t.left[1:]
		if k.creates && g.created[t.operation] >= g.options.MaxCreated {
			continue
		}
		if r, ok := k.make(t.operation); ok {
			r.Operation, r.Kind = t.operation, k.name
			return r
		}
	}
}

// Focus has only requests for these operations follow, by their names; without any, all.
func (g *Generator) Focus(operations ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.focus = map[string]bool{}
	for _, operation := range operations {
		g.focus[operation] = true
	}
}

// Learn takes from an answer what later requests can use.
func (g *Generator) Learn(r Request, a Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Operation.body != nil && r.Method == r.Operation.Method && a.Status == http.StatusAccepted {
		g.created[r.Operation]++
		if r.Operation.hasParameter("Idempotency-Key") && r.has("Idempotency-Key") && r.Path == r.Operation.Path {
			g.learned.keys = remember(g.learned.keys, r)
		}
	}
	if a.Status != http.StatusOK && a.Status != http.StatusAccepted || r.Method == http.MethodHead {
		return
	}
	if etag := a.Header.Get("ETag"); etag != "" && r.Body == nil {
		g.learned.etags = remember(g.learned.etags, validator{r, etag})
	}
	if target, _, found := strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">"); found {
		path, query, _ := strings.Cut(target, "?")
		g.learned.links = remember(g.learned.links, Request{Operation: r.Operation, Method: http.MethodGet, Path: path, Query: strings.Split(query, "&")})
	}
	for from, name := range r.Operation.responses[a.Status].linked {
		if id := a.Header.Get(from); id != "" {
			g.learnIDs(object{name: id})
		}
	}
	var body any
	if strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") && json.Unmarshal(a.Body, &body) == nil {
		g.learnIDs(body)
	}
}

// learnIDs remembers every member whose name is that of a parameter of a path, but not
// the expressions of links, which the document has.
func (g *Generator) learnIDs(value any) {
	switch v := value.(type) {
	case []any:
		for _, one := range v {
			g.learnIDs(one)
		}
	case object:
		for name, one := range v {
			if id, isText := one.(string); isText && !strings.HasPrefix(id, "$response") && g.isPathParameter(name) && !slices.Contains(g.learned.ids[name], id) {
				g.learned.ids[name] = remember(g.learned.ids[name], id)
			} else if !isText {
				g.learnIDs(one)
			}
		}
	}
}

func (g *Generator) isPathParameter(name string) bool {
	return slices.ContainsFunc(g.operations, func(o *Operation) bool {
		return slices.ContainsFunc(o.parameters, func(p parameter) bool { return p.in == "path" && p.name == name })
	})
}

func (o *Operation) hasParameter(name string) bool {
	return slices.ContainsFunc(o.parameters, func(p parameter) bool { return p.name == name })
}

func remember[T any](all []T, one T) []T {
	if len(all) >= memory {
		all = all[1:]
	}
	return append(all, one)
}

// goodStatuses are those of a request that nothing is wrong with. That a provider
// has none or gives none now, or that there is no such thing, is not its fault.
func (o *Operation) goodStatuses() []int {
	return slices.DeleteFunc(o.Statuses(), func(status int) bool {
		switch status {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusMisdirectedRequest,
			http.StatusUnprocessableEntity:
			return true
		}
		return false
	})
}

// good is a request that nothing is wrong with.
func (g *Generator) good(o *Operation) Request {
	r := Request{Operation: o, Method: o.Method, Path: g.path(o, nil), Statuses: o.goodStatuses()}
	for _, p := range o.parameters {
		switch {
		case p.in == "query" && (p.required || g.isWanted(p, r)):
			r.Query = append(r.Query, pair(p.name, asText(g.goodValue(p.name, p.schema))))
		case p.in == "header" && !slices.Contains(continues, p.name) && g.random.IntN(3) == 0:
			r.Header = append(r.Header, [2]string{p.name, g.goodHeader(p)})
		}
	}
	g.random.Shuffle(len(r.Query), func(i, j int) { r.Query[i], r.Query[j] = r.Query[j], r.Query[i] })
	if o.body != nil {
		body := g.goodBody(o)
		if body["provider"] == nil { // the default may be unable to
			r.Statuses = append(r.Statuses, http.StatusBadRequest)
		}
		r.Body, r.Chunked = encode(body), g.random.IntN(4) == 0
		r.Header = append(r.Header, [2]string{"Content-Type", pick(g.random, []string{"application/json", "application/json; charset=utf-8", "text/plain"})})
	}
	return r
}

// continues are the parameters that are good only as an answer gave them.
var continues = []string{"cursor", "last_event_id", "Last-Event-ID", "after"}

// isWanted says whether a request shall have an optional parameter. A cursor is
// good for its list alone.
func (g *Generator) isWanted(p parameter, r Request) bool {
	if slices.Contains(continues, p.name) || r.query(periods[p.name]) >= 0 {
		return false
	}
	return g.random.IntN(2) == 0
}

// query is where a parameter stands, or negative.
func (r Request) query(name string) int {
	return slices.IndexFunc(r.Query, func(part string) bool { return strings.HasPrefix(part, name+"=") })
}

// goodValue goes by the name before it goes by the schema.
func (g *Generator) goodValue(name string, s object) any {
	switch {
	case name == "symbol" && g.random.IntN(5) > 0:
		return pick(g.random, g.options.Symbols)
	case name == "events":
		return pick(g.random, []string{"price", "average", "average:20,price", "price,average,average:1000"})
	case name == "as_of_log": // another place is one of the log's
		return "now"
	case name == "provider":
		return pick(g.random, append([]string{""}, g.options.Providers...))
	}
	return g.values.good(s)
}

func (g *Generator) goodHeader(p parameter) string {
	if p.name == "Idempotency-Key" { // a short one may have been used with another body
		return fmt.Sprintf("%016x%.200s", g.random.Uint64(), asText(g.values.good(p.schema)))
	}
	if text := asText(g.values.good(p.schema)); strings.Trim(text, " ") != "" {
		return text
	}
	return `"x"`
}

func (g *Generator) goodBody(o *Operation) object {
	body := g.goodObject(o.body)
	if symbols, ok := body["symbols"].([]any); ok {
		for i := range symbols {
			if g.random.IntN(5) > 0 {
				symbols[i] = pick(g.random, g.options.Symbols)
			}
		}
	}
	series, _ := body["series"].([]any)
	for _, one := range series {
		one := one.(object)
		if g.random.IntN(5) > 0 {
			one["symbol"] = pick(g.random, g.options.Symbols)
		}
		delete(one, "cursor") // good only as an answer gave it
		if _, given := one["provider"]; given {
			one["provider"] = pick(g.random, g.options.Providers)
		}
	}
	if _, isText := body["provider"].(string); isText { // not all can do everything
		property := g.follow(o.body["properties"].(object)["provider"].(object))
		body["provider"] = pick(g.random, property["examples"].([]any))
	}
	if _, isSpan := body["to"].(string); isSpan { // no schema says that it is in the past, and not before from
		body["from"], body["to"] = g.dayOf(2023), g.dayOf(2024)
	}
	if kind, is := body["kind"].(string); is && body["effective_at"] != nil { // no schema says what is of a split, or of a dividend
		body["effective_at"] = g.dayOf(2020)
		if text, isText := body["value"].(string); isText && kind != "split" {
			body["value"], _, _ = strings.Cut(text, ":")
		}
		if kind != "dividend" {
			delete(body, "currency")
		}
	}
	return body
}

// dayOf is the beginning of a day of a year, UTC.
func (g *Generator) dayOf(year int) string {
	return time.Date(year, 1, 1+g.random.IntN(365), 0, 0, 0, 0, time.UTC).Format(time.RFC3339)
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // values are made of what JSON has
	}
	return text
}

func pair(name, value string) string { return url.QueryEscape(name) + "=" + url.QueryEscape(value) }

// path fills the template: with values of these, or else with what is known.
func (g *Generator) path(o *Operation, values map[string]string) string {
	path := o.Path
	for _, p := range o.parameters {
		if p.in != "path" {
			continue
		}
		value, given := values[p.name]
		if known := g.learned.ids[p.name]; !given && len(known) > 0 && g.random.IntN(8) > 0 {
			value = pick(g.random, known)
		} else if !given {
			value = p.name // not the id of anything
			if p.example != nil {
				value = asText(p.example)
			}
		}
		path = strings.ReplaceAll(path, "{"+p.name+"}", url.PathEscape(value))
	}
	return path
}
