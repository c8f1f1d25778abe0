package contracttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
)

// values makes values of schemas. It knows as much of JSON Schema as the document
// uses.
type values struct {
	*Document
	random *rand.Rand
}

func pick[T any](random *rand.Rand, all []T) T { return all[random.IntN(len(all))] }

// number reads a bound; the document was read with exact numbers.
func number(s object, name string, absent int64) int64 {
	if n, ok := s[name].(json.Number); ok {
		if i, err := n.Int64(); err == nil {
			return i
		}
	}
	return absent
}

// types are what a schema allows; "null" goes last.
func types(s object) []string {
	switch t := s["type"].(type) {
	case string:
		return []string{t}
	case []any:
		var all []string
		for _, one := range t {
			all = append(all, one.(string))
		}
		return all
	}
	return nil
}

// good is a value that the schema allows, as it is in JSON.
func (v values) good(s object) any {
	s = v.follow(s)
	if enum, ok := s["enum"].([]any); ok {
		return pick(v.random, enum)
	}
	if examples, ok := s["examples"].([]any); ok && v.random.IntN(2) == 0 {
		return pick(v.random, examples)
	}
	switch pick(v.random, types(s)) {
	case "null":
		return nil
	case "boolean":
		return v.random.IntN(2) == 0
	case "integer":
		low, high := number(s, "minimum", -1000), number(s, "maximum", 1000)
		return pick(v.random, []int64{low, high, low + v.random.Int64N(high-low+1)})
	case "number":
		return pick(v.random, []any{json.RawMessage("185.57"), json.RawMessage("0.000000000000000001"), json.RawMessage("1e3"), v.random.IntN(1000) + 1, "7.25"})
	case "array":
		return v.goodArray(s, int(number(s, "minItems", 0)), int(number(s, "maxItems", 5)))
	case "object":
		return v.goodObject(s)
	default:
		return v.goodString(s)
	}
}

func (v values) goodArray(s object, low, high int) []any {
	items := make([]any, low+v.random.IntN(high-low+1))
	for i := range items {
		items[i] = v.good(s["items"].(object))
	}
	return items
}

// goodObject has all required members, and some of the others.
func (v values) goodObject(s object) object {
	o := object{}
	properties, _ := s["properties"].(object)
	for _, name := range slices.Sorted(maps.Keys(properties)) { // so that it follows from the seed
		if isRequired(s, name) || v.random.IntN(2) == 0 {
			o[name] = v.good(properties[name].(object))
		}
	}
	return o
}

func isRequired(s object, name string) bool {
	required, _ := s["required"].([]any)
	for _, one := range required {
		if one == name {
			return true
		}
	}
	return false
}

func (v values) goodString(s object) string {
	if s["format"] == "date-time" {
		at := time.Unix(v.random.Int64N(4_000_000_000), v.random.Int64N(1_000_000_000)).UTC()
		return pick(v.random, []string{at.Format(time.RFC3339), at.Format(time.RFC3339Nano),
			at.In(time.FixedZone("", 14*3600)).Format(time.RFC3339), "0001-01-01T00:00:01Z", "9999-12-31T23:59:59.999999999Z"})
	}
	low, high := int(number(s, "minLength", 0)), int(number(s, "maxLength", 20))
	if pattern, ok := s["pattern"].(string); ok {
		parsed, err := syntax.Parse(pattern, syntax.Perl)
		for tries := 0; err == nil && tries < 100; tries++ {
			if text := v.matching(parsed.Simplify()); len(text) >= low && len(text) <= high {
				return text
			}
		}
	}
	for {
		// Where none is not enough, space is not either.
		if text := v.text(low + v.random.IntN(high-low+1)); low == 0 || strings.TrimSpace(text) != "" {
			return text
		}
	}
}

// text is plain text of some length.
func (v values) text(length int) string {
	const letters = "abcXYZ019-_.~ "
	var out strings.Builder
	for range length {
		out.WriteByte(letters[v.random.IntN(len(letters))])
	}
	return out.String()
}

// matching is a text that a regular expression matches.
func (v values) matching(re *syntax.Regexp) string {
	var out strings.Builder
	switch re.Op {
	case syntax.OpLiteral:
		out.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		at := 2 * v.random.IntN(len(re.Rune)/2)
		low, high := re.Rune[at], re.Rune[at+1]
		out.WriteRune(low + v.random.Int32N(high-low+1))
	case syntax.OpConcat, syntax.OpCapture:
		for _, sub := range re.Sub {
			out.WriteString(v.matching(sub))
		}
	case syntax.OpAlternate:
		out.WriteString(v.matching(pick(v.random, re.Sub)))
	case syntax.OpQuest:
		if v.random.IntN(2) == 0 {
			out.WriteString(v.matching(re.Sub[0]))
		}
	case syntax.OpStar, syntax.OpPlus:
		times := v.random.IntN(12)
		if re.Op == syntax.OpPlus {
			times++
		}
		for range times {
			out.WriteString(v.matching(re.Sub[0]))
		}
	default: // places such as ^, which are empty
	}
	return out.String()
}

// bad is a value that the schema forbids, and that no lenience makes good; false
// where there is none.
func (v values) bad(s object) (value any, ok bool) {
	s = v.follow(s)
	var all []any
	if _, ok := s["enum"]; ok {
		all = append(all, "", "ALLOW", "none of them", "allow ")
	}
	for _, t := range types(s) {
		switch t {
		case "boolean":
			all = append(all, "true", "no", 1, json.RawMessage("0.5"), object{}, []any{})
		case "integer":
			all = append(all, json.RawMessage("1.5"), json.RawMessage("1e400"), json.RawMessage("-1e400"), "abc", "NaN", "1e3", "0x10",
				"1_", "--1", "1 2", "٣", "", json.RawMessage("99999999999999999999"), "99999999999999999999999999")
			if _, bounded := s["minimum"]; bounded {
				all = append(all, number(s, "minimum", 0)-1, json.RawMessage("-99999999999999999999"), "-9223372036854775809")
			}
			if _, bounded := s["maximum"]; bounded {
				all = append(all, number(s, "maximum", 0)+1, int64(1)<<53, int64(1)<<62)
			}
		case "number":
			all = append(all, json.RawMessage("1e400"), json.RawMessage("-1e400"), json.RawMessage("1e18"), json.RawMessage("0.0000000000000000001"),
				"abc", "NaN", "1,5", "0x10", "1 2", "", true, object{}, []any{})
		case "array":
			all = append(all, v.goodArray(s, 0, 0), "AAPL", object{}, 1, true)
			if high := int(number(s, "maxItems", 0)); high > 0 {
				all = append(all, v.goodArray(s, high+1, high+1), v.goodArray(s, 10*high, 10*high))
			}
			if item, ok := v.bad(s["items"].(object)); ok {
				all = append(all, []any{item}, append(v.goodArray(s, 1, 1), item))
			}
		case "string":
			all = append(all, v.badStrings(s)...)
		}
	}
	if len(all) == 0 {
		return nil, false
	}
	return pick(v.random, all), true
}

// badStrings are none where a schema allows all.
func (v values) badStrings(s object) (all []any) {
	if s["format"] == "date-time" {
		return []any{"yesterday", "", "2025-06-15", "2025-13-01T00:00:00Z", "2025-02-30T00:00:00Z", "2025-06-15T14:30:00",
			"2025-06-15 14:30:00Z", "2025-06-15T24:00:01Z", "10000-01-01T00:00:00Z", "2025-06-15T1:00:00Z", "1718461800", "0000-12-31T23:59:59Z",
			"2025-06-15T14:30:00,5Z", "9999-12-31T23:59:59-14:00"}
	}
	if low := number(s, "minLength", 0); low > 0 {
		all = append(all, "", strings.Repeat(" ", 40))
	}
	if pattern, ok := s["pattern"].(string); ok {
		allowed := regexp.MustCompile(pattern)
		for _, text := range hostile {
			if trimmed := strings.TrimSpace(text); trimmed == text && text != "" && !allowed.MatchString(text) {
				all = append(all, text)
			}
		}
	}
	if high, ok := s["maxLength"]; ok {
		n, _ := strconv.Atoi(fmt.Sprint(high))
		all = append(all, strings.Repeat("A", n+1), strings.Repeat("A", n+5000))
	}
	return all
}

// hostile are texts that have broken something somewhere.
var hostile = []string{
	"", " ", "\x00", "a\x00b", "\xff\xfe", "\xc0\xaf", "\xed\xa0\x80", "\r\nX-Injected: 1\r\n\r\n", "\n", "\t", "\x7f", "\x1b[31m",
	"'", "\"", "`", "\\", "' OR '1'='1", "'; DROP TABLE positions; --", "1; SELECT pg_sleep(10)", "$1", "?", "%", "_", "%s%s%s%n", "{{7*7}}",
	"${jndi:ldap://127.0.0.1:1/a}", "$(sleep 5)", "|sleep 5", "../../../../etc/passwd", "..\\..\\windows\\win.ini", "file:///etc/passwd",
	"<script>alert(1)</script>", "]]>", "<!--", "=1+1", "=HYPERLINK(\"http://evil.example\")", "@SUM(1)", "+1", "-1", "0", "-0", "00", "1e400", "1E+2",
	"9223372036854775807", "9223372036854775808", "-9223372036854775808", "99999999999999999999999999999999", "1e-400", "0x7fffffff", "NaN",
	"Infinity", "-Infinity", "null", "undefined", "true", "[]", "{}", "[object Object]", "١٢٣", "日本語", "\u202e\u0007", "ﬀ", "İ", "ſ", "K", "𝟙",
	"a\u0300\u0301\u0302", "👩‍👩‍👧‍👦", "%00", "%2e%2e%2f", "%252e", "AAPL;MSFT", "AAPL,MSFT", "AAPL&symbol=MSFT", "AAPL#x", "AAPL?x=1", "AAPL/../x",
	"__proto__", "constructor", "2025-06-15T14:30:00Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:60Z", "poll_abc12345", "stream_abc12345", "W/\"x\"", "*",
}

// anyText is something hostile, or garbage.
func (v values) anyText() string {
	switch v.random.IntN(8) {
	case 0:
		return v.garbage(v.random.IntN(200))
	case 1:
		return strings.Repeat(pick(v.random, hostile), 1+v.random.IntN(200))
	default:
		return pick(v.random, hostile)
	}
}

func (v values) garbage(length int) string {
	out := make([]byte, length)
	for i := range out {
		out[i] = byte(v.random.UintN(256))
	}
	return string(out)
}

// asText is a value as it is in a query or a header.
func asText(value any) string {
	switch t := value.(type) {
	case string:
		return t
	case json.RawMessage:
		return string(t)
	case nil:
		return "null"
	default:
		return fmt.Sprint(t)
	}
}
