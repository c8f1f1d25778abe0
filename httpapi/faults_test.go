package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

const patternFault = `{"type":"string_pattern_mismatch","loc":%s,"msg":"String should match pattern '` + httpapi.SymbolPattern +
	`'","input":%s,"ctx":{"pattern":"` + httpapi.SymbolPattern + `"}}`

func TestQueryFaults(t *testing.T) {
	t.Parallel()
	const latest, average = "/api/v1/prices/latest", "/api/v1/prices/moving-average"
	intParsing := func(name, input string) string {
		return `{"type":"int_parsing","loc":["query","` + name +
			`"],"msg":"Input should be a valid integer, unable to parse string as an integer","input":"` + input + `"}`
	}
	missing := `{"type":"missing","loc":["query","symbol"],"msg":"Field required","input":null}`
	tests := []struct{ name, target, want string }{
		{"latest without symbol", latest, missing},
		{"average without symbol", average, missing},
		{"empty symbol", latest + "?symbol=",
			`{"type":"string_too_short","loc":["query","symbol"],"msg":"String should have at least 1 character","input":"","ctx":{"min_length":1}}`},
		{"blank symbol", latest + "?symbol=%20",
			`{"type":"string_too_short","loc":["query","symbol"],"msg":"String should have at least 1 character","input":" ","ctx":{"min_length":1}}`},
		{"long symbol", latest + "?symbol=" + strings.Repeat("A", 65),
			`{"type":"string_too_long","loc":["query","symbol"],"msg":"String should have at most 64 characters","input":"` +
				strings.Repeat("A", 65) + `","ctx":{"max_length":64}}`},
		{"symbol with a strange character", latest + "?symbol=A%3CB", fmt.Sprintf(patternFault, `["query","symbol"]`, `"A<B"`)},
		{"letter whose upper case is plain", latest + "?symbol=%C5%BFPY", fmt.Sprintf(patternFault, `["query","symbol"]`, `"ſPY"`)},
		{"the last symbol counts", latest + "?symbol=AAPL&symbol=%21", fmt.Sprintf(patternFault, `["query","symbol"]`, `"!"`)},
		{"window not a number", average + "?symbol=A&window=five", intParsing("window", "five")},
		{"window empty", average + "?symbol=A&window=", intParsing("window", "")},
		{"window with a fraction", average + "?symbol=A&window=5.5", intParsing("window", "5.5")},
		{"window below", average + "?symbol=A&window=0",
			`{"type":"greater_than_equal","loc":["query","window"],"msg":"Input should be greater than or equal to 1","input":"0","ctx":{"ge":1}}`},
		{"window above", average + "?symbol=A&window=1001",
			`{"type":"less_than_equal","loc":["query","window"],"msg":"Input should be less than or equal to 1000","input":"1001","ctx":{"le":1000}}`},
		{"window beyond an int64", average + "?symbol=A&window=-99999999999999999999",
			`{"type":"greater_than_equal","loc":["query","window"],"msg":"Input should be greater than or equal to 1","input":"-99999999999999999999","ctx":{"ge":1}}`},
		{"max_age above", latest + "?symbol=A&max_age=3601",
			`{"type":"less_than_equal","loc":["query","max_age"],"msg":"Input should be less than or equal to 3600","input":"3601","ctx":{"le":3600}}`},
		{"stale unknown", latest + "?symbol=A&stale=maybe",
			`{"type":"literal_error","loc":["query","stale"],"msg":"Input should be 'allow' or 'deny'","input":"maybe","ctx":{"expected":"'allow' or 'deny'"}}`},
		{"all at once, before the provider", average + "?window=x&provider=nobody", missing + "," + intParsing("window", "x")},
	}
	api := newAPI(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			expect(t, get(t, api, test.target), http.StatusUnprocessableEntity, `{"detail":[`+test.want+`]}`)
		})
	}
}

// bodyFault is a fault without ctx.
func bodyFault(typ, loc, msg, input string) string {
	return `{"type":"` + typ + `","loc":["body"` + loc + `],"msg":"` + msg + `","input":` + input + `}`
}

func withCtx(fault, ctx string) string { return strings.TrimSuffix(fault, "}") + `,"ctx":` + ctx + `}` }

const (
	notObject = "Input should be a valid dictionary or object to extract fields from"
	notString = "Input should be a valid string"
	notInt    = "Input should be a valid integer"
	notNumber = notInt + ", unable to parse string as an integer"
)

type bodyTest struct{ name, body, want string }

// checkBodies expects a 422 with the faults that are wanted.
func checkBodies(t *testing.T, tests []bodyTest) {
	t.Helper()
	api := newAPI(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			expect(t, poll(t, api, test.body), http.StatusUnprocessableEntity, `{"detail":[`+test.want+`]}`)
		})
	}
}

func TestBodyFaults(t *testing.T) {
	t.Parallel()
	missing := bodyFault("missing", "", "Field required", "null")
	syntax := func(position int, reason string) string {
		return withCtx(bodyFault("json_invalid", fmt.Sprintf(",%d", position), "JSON decode error", "{}"), `{"error":"`+reason+`"}`)
	}
	checkBodies(t, []bodyTest{
		{"no body", "", missing},
		{"null", " null\n", missing},
		{"broken", `{"a":}`, syntax(5, "invalid character '}' looking for beginning of value")},
		{"broken after space", "\n {\"a\" 1}", syntax(7, "invalid character '1' after object key")},
		{"cut short", `{"symbols":[`, syntax(12, "unexpected end of JSON input")},
		{"only space", "  ", syntax(2, "unexpected end of JSON input")},
		{"more than one value", `{} x`, syntax(3, "Extra data")},
		{"list", `[1]`, bodyFault("model_attributes_type", "", notObject, "[1]")},
		{"string", `"a<b"`, bodyFault("model_attributes_type", "", notObject, `"a<b"`)},
		{"empty object", `{}`, bodyFault("missing", `,"symbols"`, "Field required", "{}") + "," +
			bodyFault("missing", `,"interval"`, "Field required", "{}")},
		{"all faults at once", `{"provider":7,"symbols":[1,"b?","c"],"x":1}`,
			bodyFault("string_type", `,"symbols",0`, notString, "1") + "," +
				fmt.Sprintf(patternFault, `["body","symbols",1]`, `"b?"`) + "," +
				bodyFault("missing", `,"interval"`, "Field required", `{"provider":7,"symbols":[1,"b?","c"],"x":1}`) + "," +
				bodyFault("string_type", `,"provider"`, notString, "7")},
	})
}

func TestSymbolsFaults(t *testing.T) {
	t.Parallel()
	symbols := func(name, value, typ, loc, msg, input, ctx string) bodyTest {
		want := bodyFault(typ, `,"symbols"`+loc, msg, input)
		if ctx != "" {
			want = withCtx(want, ctx)
		}
		return bodyTest{name, `{"symbols":` + value + `,"interval":60}`, want}
	}
	eleven := `["A","A","A","A","A","A","A","A","A","A",1]`
	checkBodies(t, []bodyTest{
		symbols("a string", `"AAPL"`, "list_type", "", "Input should be a valid list", `"AAPL"`, ""),
		symbols("null", `null`, "list_type", "", "Input should be a valid list", `null`, ""),
		symbols("none", `[]`, "too_short", "", "List should have at least 1 item after validation, not 0", `[]`,
			`{"actual_length":0,"field_type":"List","min_length":1}`),
		symbols("too many, a wrong one among them", eleven, "too_long", "",
			"List should have at most 10 items after validation, not 11", eleven,
			`{"actual_length":11,"field_type":"List","max_length":10}`),
		symbols("a null one", `["A",null]`, "string_type", ",1", notString, "null", ""),
		symbols("an empty one", `[""]`, "string_too_short", ",0", "String should have at least 1 character", `""`, `{"min_length":1}`),
	})
}

func TestIntervalFaults(t *testing.T) {
	t.Parallel()
	interval := func(name, value, typ, msg, ctx string) bodyTest {
		want := bodyFault(typ, `,"interval"`, msg, value)
		if ctx != "" {
			want = withCtx(want, ctx)
		}
		return bodyTest{name, `{"symbols":["A"],"interval":` + value + `}`, want}
	}
	below := func(name, value string) bodyTest {
		return interval(name, value, "greater_than_equal", "Input should be greater than or equal to 60", `{"ge":60}`)
	}
	above := func(name, value string) bodyTest {
		return interval(name, value, "less_than_equal", "Input should be less than or equal to 3600", `{"le":3600}`)
	}
	checkBodies(t, []bodyTest{
		interval("null", "null", "int_type", notInt, ""),
		interval("a list", "[60]", "int_type", notInt, ""),
		interval("a word", `"soon"`, "int_parsing", notNumber, ""),
		interval("a fraction in a string", `"60.5"`, "int_parsing", notNumber, ""),
		interval("a fraction", "60.5", "int_from_float", notInt+", got a number with a fractional part", ""),
		interval("infinite", "1e400", "finite_number", "Input should be a finite number", ""),
		below("below", "59"),
		below("negative", "-60"),
		below("below, in a string", `"10"`),
		below("true is 1", "true"),
		below("false is 0", "false"),
		above("above", "3601"),
		above("beyond an int64", "99999999999999999999"),
		above("nearly that, as a float", "9e18"),
		interval("beyond an int64, as a float", "1e300", "int_parsing_size",
			"Unable to parse input string as an integer, exceeded maximum size", ""),
	})
}

func TestMinIntervalIsASetting(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.MinInterval = 2 * time.Second })
	if w := poll(t, api, `{"symbols":["A"],"interval":2}`); w.Code != http.StatusAccepted {
		t.Errorf("2 s: %d %s", w.Code, w.Body)
	}
	expect(t, poll(t, api, `{"symbols":["A"],"interval":1}`), http.StatusUnprocessableEntity,
		`{"detail":[{"type":"greater_than_equal","loc":["body","interval"],"msg":"Input should be greater than or equal to 2","input":1,"ctx":{"ge":2}}]}`)
}

// TestLaxIntegers: what the original took for an integer.
func TestLaxIntegers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"7": 7, "%2B7": 7, "%207%20": 7, "7.0": 7, "0_7": 7, "0000000000000000000000007": 7} {
		api := newAPI(t, func(s *setup) {
			s.Averages = averageFunc(func(_ context.Context, _ schema.Provider, _ schema.Symbol, window int) (movingaverages.Average, error) {
				if window != want {
					t.Errorf("%s: window %d, want %d", text, window, want)
				}
				return movingaverages.Average{Symbol: "A", Value: schema.MustDecimal("1"), Timestamp: eventTime}, nil
			})
		})
		if w := get(t, api, "/api/v1/prices/moving-average?symbol=A&window="+text); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", text, w.Code, w.Body)
		}
	}
	for _, text := range []string{"_7", "7_", "7__0", "7.", ".0", "%2B-7", "0x7", "٧"} {
		if w := get(t, newAPI(t, nil), "/api/v1/prices/moving-average?symbol=A&window="+text); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", text, w.Code, w.Body)
		}
	}
}
