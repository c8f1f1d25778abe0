package contracttest

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pricemill/pricemill/schema"
)

var options = Options{Symbols: []string{"AAPL"}, Providers: []string{"simulated"}, MaxCreated: 10, MaxBody: 1 << 10}

func newTestGenerator(t testing.TB, seed uint64) *Generator {
	t.Helper()
	d, err := Load(schema.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	return NewGenerator(d, rand.New(rand.NewPCG(seed, 0)), options)
}

func TestTheSameSeedMakesTheSameRequests(t *testing.T) {
	t.Parallel()
	a, b, other := newTestGenerator(t, 1), newTestGenerator(t, 1), newTestGenerator(t, 2)
	differ := 0
	for i := range 1000 {
		first, second := a.Next(), b.Next()
		if !bytes.Equal(first.Bytes(), second.Bytes()) || first.Kind != second.Kind {
			t.Fatalf("request %d is %q, and then %q", i, first.Bytes(), second.Bytes())
		}
		if !bytes.Equal(first.Bytes(), other.Next().Bytes()) {
			differ++
		}
	}
	if differ < 500 {
		t.Errorf("only %d requests of another seed differ", differ)
	}
}

// TestEveryKindHasItsTurn: of each operation, and about as often as any other.
func TestEveryKindHasItsTurn(t *testing.T) {
	t.Parallel()
	g := newTestGenerator(t, 1)
	counts := map[string]int{}
	for range 20_000 {
		r := g.Next()
		counts[r.Operation.String()+": "+r.Kind]++
	}
	for _, turn := range g.turns {
		for _, k := range turn.kinds {
			needsAnswers := slices.Contains([]string{"a page that an answer led to", "what is known already", "a key that was used",
				"a key that was used with another body"}, k.name)
			if n := counts[turn.operation.String()+": "+k.name]; (n < 2) != needsAnswers {
				t.Errorf("%s: %q was made %d times", turn.operation, k.name, n)
			}
		}
	}
}

// TestValuesAreWhatTheyAreCalled: what is made as good is valid by the document's
// own schema, and what is made as bad is not.
func TestValuesAreWhatTheyAreCalled(t *testing.T) {
	t.Parallel()
	g := newTestGenerator(t, 1)
	l := loader{g.Document, jsonschema.NewCompiler()}
	l.compiler.AssertFormat()
	if err := l.compiler.AddResource(documentURL, any(g.raw)); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"#/components/schemas/PollRequest", "#/components/schemas/PollRequest/properties/interval",
		"#/components/schemas/StreamRequest", "#/components/schemas/StreamRequest/properties/symbols", "#/components/schemas/SymbolInput",
		"#/components/parameters/From/schema", "#/components/parameters/Limit/schema", "#/components/parameters/IdempotencyKey/schema"} {
		compiled, err := l.compile(at)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := g.resolve(at)
		check := func(value any) error {
			read, err := jsonschema.UnmarshalJSON(bytes.NewReader(encode(value)))
			if err != nil {
				t.Fatal(err)
			}
			return compiled.Validate(read)
		}
		for range 100 {
			if good := g.values.good(s); check(good) != nil {
				t.Errorf("%s: %s is made as good: %v", at, encode(good), check(good))
			}
			if bad, ok := g.bad(s); ok && check(bad) == nil && !isBeyondYear9999(bad) {
				t.Errorf("%s: %s is made as bad", at, encode(bad))
			}
		}
	}
}

// isBeyondYear9999: such a time is in RFC 3339 and in none of our databases.
func isBeyondYear9999(value any) bool {
	text, _ := value.(string)
	return text == "9999-12-31T23:59:59-14:00" || text == "0000-12-31T23:59:59Z"
}

func TestShrinkLeavesWhatMatters(t *testing.T) {
	t.Parallel()
	r := Request{Method: "POST", Path: "/a", Query: []string{"a=1", "b=2", "c=3"}, Header: [][2]string{{"A", "1"}, {"B", "2"}, {"C", "3"}},
		Body: []byte(strings.Repeat("x", 1000) + "guilty" + strings.Repeat("y", 500)), Chunked: true}
	smallest := Shrink(r, func(r Request) bool {
		return slices.Contains(r.Query, "b=2") && r.has("C") && bytes.Contains(r.Body, []byte("guilty"))
	})
	want := Request{Method: "POST", Path: "/a", Query: []string{"b=2"}, Header: [][2]string{{"C", "3"}}, Body: []byte("guilty")}
	if got := string(smallest.Bytes()); got != string(want.Bytes()) {
		t.Errorf("got  %q\nwant %q", got, want.Bytes())
	}
	if r.Query[0] != "a=1" || len(r.Header) != 3 {
		t.Errorf("the request it was given is %+v", r)
	}
}

func TestCurl(t *testing.T) {
	t.Parallel()
	r := Request{Method: "POST", Path: "/a'b", Query: []string{"x=%00"}, Header: [][2]string{{"X", "it's"}}, Body: []byte("{\"%\":\"\x00é\"}\n")}
	const want = `printf '{"\045":"\000\303\251"}\012' | curl -sS -i -X 'POST' --request-target '/a'\''b?x=%00' -H 'X: it'\''s' ` +
		`-H 'Host: localhost' -H 'Content-Type:' --data-binary @- http://127.0.0.1:8000`
	if got := r.Curl("http://127.0.0.1:8000"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
