package contracttest

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// bodyKinds break the body of a request.
func (g *Generator) bodyKinds(o *Operation) []kind {
	refused := []int{http.StatusUnprocessableEntity}
	var all []kind
	breaks := func(name string, statuses []int, body func(object) []byte) {
		all = append(all, kind{name, g.ofGood(func(r *Request) bool {
			r.Body, r.Statuses = body(g.goodBody(o)), statuses
			if len(r.Body) > g.options.MaxBody {
				r.Statuses = []int{http.StatusRequestEntityTooLarge}
			}
			return true
		}), slices.Contains(statuses, http.StatusAccepted)})
	}
	properties := o.body["properties"].(object)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		property := properties[name].(object)
		if isRequired(o.body, name) {
			breaks("body without "+name, refused, func(body object) []byte { delete(body, name); return encode(body) })
		}
		breaks("wrong type of "+name, refused, func(body object) []byte { body[name] = g.wrongType(property); return encode(body) })
		if _, breakable := g.bad(property); breakable {
			breaks("bad "+name+" in the body", refused, func(body object) []byte { body[name], _ = g.bad(property); return encode(body) })
			breaks("twice "+name+" in the body, the last one bad", refused, func(body object) []byte {
				value, _ := g.bad(property)
				text := bytes.TrimSuffix(encode(body), []byte("}"))
				return append(text, ","+string(encode(name))+":"+string(encode(value))+"}"...)
			})
		}
	}
	if _, named := properties["provider"]; named {
		breaks("unknown provider in the body", []int{http.StatusBadRequest}, func(body object) []byte {
			body["provider"] = "nobody" + g.text(4)
			return encode(body)
		})
	}
	breaks("body cut short", refused, func(body object) []byte {
		text := encode(body)
		end := g.random.IntN(len(text))
		for !utf8.RuneStart(text[end]) { // within a character it would be no UTF-8
			end--
		}
		return text[:end]
	})
	breaks("more than one body", refused, func(body object) []byte {
		return append(encode(body), pick(g.random, []string{"{}", "x", ",", "}", "\x00", "//", "null", "\n\n[1"})...)
	})
	breaks("no UTF-8", []int{http.StatusBadRequest}, func(body object) []byte {
		text := encode(body)
		at := g.random.IntN(len(text) + 1)
		return slices.Insert(text, at, pick(g.random, []byte{0x80, 0xc0, 0xf8, 0xff}))
	})
	breaks("no JSON", []int{http.StatusBadRequest, http.StatusUnprocessableEntity}, func(object) []byte {
		return []byte(pick(g.random, []string{g.garbage(1 + g.random.IntN(300)), "symbols=AAPL&interval=60", "<xml/>", "\xef\xbb\xbf{}", "{'a':1}",
			"{\"symbols\":[\"A\"],}", "{symbols:[]}", "NaN", "/**/{}", "{\"symbols\":[\"\xff\"]}", "\"", "tru", "01", "-", "\x00", g.anyText()}))
	})
	breaks("another sort of JSON", refused, func(object) []byte {
		return []byte(pick(g.random, []string{"null", "[]", "1", "\"x\"", "true", "{}", "[{}]", " ", "1e400", "\"\\ud800\"", "{\"\":{}}"}))
	})
	breaks("too deep", refused, func(object) []byte {
		depth := pick(g.random, []int{100, 9_998, 9_999, 10_000, 10_001, 30_000})
		return []byte(pick(g.random, []string{"[", "{\"symbols\":", "[{\"a\":"}) + strings.Repeat("[", depth) + strings.Repeat("]", depth))
	})
	breaks("too large", []int{http.StatusRequestEntityTooLarge}, func(body object) []byte {
		return append(encode(body), bytes.Repeat([]byte(" "), g.options.MaxBody+g.random.IntN(100_000))...)
	})
	breaks("members that no one asked for", append(o.goodStatuses(), http.StatusBadRequest), func(body object) []byte {
		body["x"+g.text(3)] = pick(g.random, []any{nil, 1, json.RawMessage("1e400"), g.anyText(), object{"symbols": 1}, []any{[]any{}}})
		return encode(body)
	})
	all = append(all, kind{"hostile body", g.ofAny(func(r *Request) {
		body := g.goodBody(o)
		body[pick(g.random, slices.Sorted(maps.Keys(properties)))] = pick(g.random, []any{g.anyText(), []any{g.anyText()}, json.RawMessage("-0"),
			json.RawMessage("60.0"), json.RawMessage("6e1"), "60", " +6_0.0 ", true, object{g.anyText(): g.anyText()}})
		r.Body = encode(body)
	}), true})
	if o.hasParameter("Idempotency-Key") {
		all = append(all, kind{"a key that was used", g.again(func(r *Request) { r.Statuses = o.goodStatuses() }), false},
			kind{"a key that was used with another body", g.again(func(r *Request) {
				r.Body = []byte(`{"symbols":["ANOTHER.BODY"],"interval":3599}`)
				r.Statuses = refused
			}), false})
	}
	return all
}

// again sends a request with a key that was accepted, changed.
func (g *Generator) again(change func(*Request)) func(*Operation) (Request, bool) {
	return func(*Operation) (Request, bool) {
		if len(g.learned.keys) == 0 {
			return Request{}, false
		}
		r := pick(g.random, g.learned.keys)
		change(&r)
		return r, true
	}
}

// wrongType is a value of a type that the schema does not have, and of none that
// is read as one of those.
func (g *Generator) wrongType(s object) any {
	all := []any{object{}, object{"a": 1}}
	allowed := types(g.follow(s))
	if !slices.Contains(allowed, "array") {
		all = append(all, []any{}, []any{60})
	}
	if !slices.Contains(allowed, "string") {
		all = append(all, "x", "", "[]")
	}
	if slices.Contains(allowed, "number") {
		all = append(all, false)
	} else if !slices.Contains(allowed, "integer") {
		all = append(all, 1, json.RawMessage("1e400"))
		if !slices.Contains(allowed, "boolean") {
			all = append(all, false)
		}
	}
	if !slices.Contains(allowed, "null") {
		all = append(all, nil)
	}
	return pick(g.random, all)
}
