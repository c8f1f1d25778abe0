package httpapi

import (
	"fmt"
	"strings"
)

// fault is one reason why a request is invalid, in the shape that pydantic 2
// gives it and that clients of the original service parse.
type fault struct {
	Type string `json:"type"`
	// Loc is the way to the value: "query" or "body", names, indexes.
	Loc []any  `json:"loc"`
	Msg string `json:"msg"`
	// Input is the value as it was sent; nil is null.
	Input any            `json:"input"`
	Ctx   map[string]any `json:"ctx,omitempty"`
}

// faults are all the reasons why a request is invalid. As an error they become
// a 422.
type faults []fault

func (f faults) Error() string {
	texts := make([]string, len(f))
	for i, one := range f {
		texts[i] = fmt.Sprintf("%v: %s", one.Loc, one.Msg)
	}
	return "invalid request: " + strings.Join(texts, "; ")
}

// orNil makes a nil error of no faults; a nil slice in an error would not be nil.
func (f faults) orNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// place is where a value stands and what it is: what every fault begins with.
type place struct {
	loc   []any
	input any
}

func inQuery(name, value string) place    { return place{[]any{"query", name}, value} }
func inHeader(name, value string) place   { return place{[]any{"header", name}, value} }
func inBody(input any, path ...any) place { return place{append([]any{"body"}, path...), input} }
func (p place) fault(typ, msg string) fault {
	return fault{Type: typ, Loc: p.loc, Msg: msg, Input: p.input}
}

func (p place) faultWith(typ, msg string, ctx map[string]any) fault {
	f := p.fault(typ, msg)
	f.Ctx = ctx
	return f
}

func (p place) missing() fault { return p.fault("missing", "Field required") }

func (p place) notString() fault { return p.fault("string_type", "Input should be a valid string") }

func (p place) notBool() fault { return p.fault("bool_type", "Input should be a valid boolean") }

func (p place) notList() fault { return p.fault("list_type", "Input should be a valid list") }

func (p place) notObject() fault {
	return p.fault("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
}

func (p place) notInt() fault { return p.fault("int_type", "Input should be a valid integer") }

func (p place) notIntText() fault {
	return p.fault("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
}

func (p place) fractional() fault {
	return p.fault("int_from_float", "Input should be a valid integer, got a number with a fractional part")
}

func (p place) notFinite() fault { return p.fault("finite_number", "Input should be a finite number") }

func (p place) tooManyDigits() fault {
	return p.fault("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size")
}

func (p place) below(bound int64) fault {
	return p.faultWith("greater_than_equal", fmt.Sprintf("Input should be greater than or equal to %d", bound),
		map[string]any{"ge": bound})
}

func (p place) above(bound int64) fault {
	return p.faultWith("less_than_equal", fmt.Sprintf("Input should be less than or equal to %d", bound),
		map[string]any{"le": bound})
}

func (p place) shortString(least int) fault {
	return p.faultWith("string_too_short", "String should have at least "+count(least, "character"),
		map[string]any{"min_length": least})
}

func (p place) longString(most int) fault {
	return p.faultWith("string_too_long", "String should have at most "+count(most, "character"),
		map[string]any{"max_length": most})
}

func (p place) mismatch(pattern string) fault {
	return p.faultWith("string_pattern_mismatch", fmt.Sprintf("String should match pattern '%s'", pattern),
		map[string]any{"pattern": pattern})
}

func (p place) notTime(reason string) fault {
	return p.faultWith("datetime_parsing", "Input should be a valid datetime, "+reason, map[string]any{"error": reason})
}

func (p place) notAfter(bound string) fault {
	return p.faultWith("greater_than", "Input should be greater than "+bound, map[string]any{"gt": bound})
}

// wrong is for what no type or bound expresses.
func (p place) wrong(reason string) fault {
	return p.faultWith("value_error", "Value error, "+reason, map[string]any{"error": reason})
}

// extra is for a parameter that is none of those that there are.
func (p place) extra(known []string) fault {
	if len(known) == 0 {
		return p.fault("extra_forbidden", "Extra inputs are not permitted; this route has no query parameters")
	}
	return p.fault("extra_forbidden", "Extra inputs are not permitted; known are "+strings.Join(known, ", "))
}

func (p place) notCursor() fault { return p.wrong("not a cursor of this list") }

func (p place) notOneOf(expected string) fault {
	return p.faultWith("literal_error", "Input should be "+expected, map[string]any{"expected": expected})
}

func (p place) shortList(least, actual int) fault {
	return p.faultWith("too_short",
		fmt.Sprintf("List should have at least %s after validation, not %d", count(least, "item"), actual),
		map[string]any{"field_type": "List", "min_length": least, "actual_length": actual})
}

func (p place) longList(most, actual int) fault {
	return p.faultWith("too_long",
		fmt.Sprintf("List should have at most %s after validation, not %d", count(most, "item"), actual),
		map[string]any{"field_type": "List", "max_length": most, "actual_length": actual})
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
