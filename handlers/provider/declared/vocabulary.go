package declared

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/itchyny/gojq"

	"github.com/pricemill/pricemill/schema/names"
)

// Bounds of a program's text, in bytes.
const (
	maxProgram = 2000
	maxLiteral = 200
)

// functions are those that a program may call, each with the numbers of arguments that it
// may have. All else is refused when the definition is read: maxSteps bounds the time of a
// program but not its memory, and a loop that doubles a text takes all of it in a few dozen
// steps. What these functions give grows no faster than the steps that they take.
var functions = map[string][]int{
	"all": {0, 1, 2}, "any": {0, 1, 2}, "arrays": {0}, "ascii_downcase": {0}, "ascii_upcase": {0}, "booleans": {0},
	"capture": {1}, "del": {1}, "empty": {0}, "endswith": {1}, "error": {0}, "first": {0, 1}, "fromdateiso8601": {0}, "gsub": {2},
	"has": {1}, "keys": {0}, "last": {0, 1}, "length": {0}, "ltrimstr": {1}, "map": {1}, "max": {0}, "max_by": {1},
	"min": {0}, "min_by": {1}, "mktime": {0}, "not": {0}, "nulls": {0}, "numbers": {0}, "objects": {0}, "reverse": {0},
	"rtrimstr": {1}, "scalars": {0}, "select": {1}, "sort": {0}, "sort_by": {1}, "split": {1}, "startswith": {1},
	"strings": {0}, "strptime": {1}, "sub": {2}, "test": {1, 2}, "tonumber": {0}, "trim": {0}, "type": {0}, "values": {0},
	symbolVariable: {0}, spelledVariable: {0},
}

// fixed are those of functions whose arguments must be constants, such as patterns.
var fixed = map[string]bool{"capture": true, "gsub": true, "strptime": true, "test": true}

// replaceAll is the name under which gsub runs. That of jq makes an object for each place.
const replaceAll = "_replace_all"

// checkQuery refuses a program that uses anything but functions, and operators whose values
// cannot grow without bound. It renames gsub.
func checkQuery(q *gojq.Query) error {
	switch {
	case q == nil:
		return nil
	case q.Meta != nil || len(q.Imports) > 0:
		return mayNot("import")
	case len(q.FuncDefs) > 0:
		return mayNot("def")
	case len(q.Patterns) > 0:
		return mayNot("as")
	}
	if q.Term != nil {
		return checkTerm(q.Term)
	}
	switch q.Op {
	case gojq.OpPipe, gojq.OpAlt, gojq.OpAnd, gojq.OpOr, gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpGe, gojq.OpLt, gojq.OpLe:
	case gojq.OpComma:
		return errors.New(`"," may not be used: want one value, as in .a // .b`)
	case gojq.OpAdd, gojq.OpSub, gojq.OpDiv:
		if !isConstant(q.Left) && !isConstant(q.Right) {
			return fmt.Errorf(`%q may only be used with a constant on one side, as in "EUR-" + .a`, q.Op.String())
		}
	default:
		return mayNot(q.Op.String())
	}
	if q.Op != gojq.OpPipe && q.Op != gojq.OpAlt {
		return errors.Join(checkOne(q.Left), checkOne(q.Right))
	}
	return errors.Join(checkQuery(q.Left), checkQuery(q.Right))
}

// checkOne is checkQuery for a place that wants one value. With several, such as in
// [if .[] then . else . end], each would be put together with all of the input.
func checkOne(q *gojq.Query) error {
	if generates(reflect.ValueOf(q)) {
		return errors.New("[] may not be used here, where one value is wanted: use first(…), last(…) or any(…)")
	}
	return checkQuery(q)
}

// collapsing are functions with one value, however many their arguments have.
var collapsing = []string{"all", "any", "del", "first", "last", "map", "max_by", "min_by", "sort_by"}

// generates says that a part of a syntax tree may have several values.
func generates(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return false
		}
		switch node := v.Interface().(type) {
		case *gojq.Suffix:
			if node.Iter {
				return true
			}
		case *gojq.Func:
			if slices.Contains(collapsing, node.Name) {
				return false
			}
		case *gojq.Array:
			return false
		}
		return generates(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if generates(v.Field(i)) {
				return true
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if generates(v.Index(i)) {
				return true
			}
		}
	}
	return false
}

func mayNot(what string) error {
	return fmt.Errorf("%s may not be used: it is not among what reads an answer (see Programs in docs/providers.md)", what)
}

// isConstant says that a query is a literal or a variable.
func isConstant(q *gojq.Query) bool {
	if q == nil || q.Term == nil || len(q.Patterns) > 0 || len(q.FuncDefs) > 0 || len(q.Term.SuffixList) > 0 {
		return false
	}
	switch q.Term.Type {
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
		return true
	case gojq.TermTypeString:
		return len(q.Term.Str.Queries) == 0
	case gojq.TermTypeFunc:
		return q.Term.Func.Name == symbolVariable || q.Term.Func.Name == spelledVariable
	}
	return false
}

func checkTerm(t *gojq.Term) error {
	errs := []error{checkSuffixes(t.SuffixList)}
	switch t.Type {
	case gojq.TermTypeIdentity, gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse:
	case gojq.TermTypeNumber:
		errs = append(errs, checkLiteral(t.Number))
	case gojq.TermTypeString:
		errs = append(errs, checkString(t.Str))
	case gojq.TermTypeIndex:
		errs = append(errs, checkIndex(t.Index))
	case gojq.TermTypeFunc:
		errs = append(errs, checkCall(t.Func))
	case gojq.TermTypeObject:
		errs = append(errs, checkObject(t.Object))
	case gojq.TermTypeArray:
		errs = append(errs, checkQuery(t.Array.Query))
	case gojq.TermTypeUnary:
		errs = append(errs, checkTerm(t.Unary.Term))
	case gojq.TermTypeIf:
		errs = append(errs, checkOne(t.If.Cond), checkQuery(t.If.Then), checkQuery(t.If.Else))
		for _, e := range t.If.Elif {
			errs = append(errs, checkOne(e.Cond), checkQuery(e.Then))
		}
	case gojq.TermTypeTry:
		errs = append(errs, checkQuery(t.Try.Body), checkQuery(t.Try.Catch))
	case gojq.TermTypeQuery:
		errs = append(errs, checkQuery(t.Query))
	case gojq.TermTypeRecurse:
		errs = append(errs, mayNot(".."))
	case gojq.TermTypeReduce:
		errs = append(errs, mayNot("reduce"))
	case gojq.TermTypeForeach:
		errs = append(errs, mayNot("foreach"))
	case gojq.TermTypeFormat:
		errs = append(errs, mayNot(t.Format))
	default:
		errs = append(errs, mayNot("label"))
	}
	return errors.Join(errs...)
}

func checkCall(f *gojq.Func) error {
	counts, known := functions[f.Name]
	if slices.Contains(impure, f.Name) {
		return fmt.Errorf("%s may not be used: an answer must always be read the same", f.Name)
	}
	if !known {
		return fmt.Errorf("%w; %s", mayNot(f.Name), names.Hint(f.Name, slices.Sorted(maps.Keys(functions))))
	}
	if !slices.Contains(counts, len(f.Args)) {
		return fmt.Errorf("%s may not be used with %d arguments", f.Name, len(f.Args))
	}
	var errs []error
	for i, arg := range f.Args {
		if (fixed[f.Name] || (f.Name == "sub" && i == 0)) && !isConstant(arg) {
			errs = append(errs, fmt.Errorf("%s may only be used with a constant, such as a text in quotes", f.Name))
		}
		if slices.Contains(collapsing, f.Name) {
			errs = append(errs, checkQuery(arg))
		} else {
			errs = append(errs, checkOne(arg))
		}
	}
	if f.Name == "test" && len(f.Args) == 2 && strings.Contains(textIn(f.Args[1]), "g") {
		errs = append(errs, errors.New(`test may not be used with the flag "g"`))
	}
	if f.Name == "gsub" {
		if _, err := regexp.Compile(textIn(f.Args[0])); err != nil {
			errs = append(errs, fmt.Errorf("gsub: %w", err))
		}
		f.Name = replaceAll
	}
	return errors.Join(errs...)
}

// textIn is the text of a constant; "" if it is none.
func textIn(q *gojq.Query) string {
	if q.Term == nil || q.Term.Str == nil {
		return ""
	}
	return q.Term.Str.Str
}

func checkSuffixes(all []*gojq.Suffix) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, checkIndex(s.Index))
	}
	return errors.Join(errs...)
}

func checkIndex(i *gojq.Index) error {
	if i == nil {
		return nil
	}
	return errors.Join(checkString(i.Str), checkOne(i.Start), checkOne(i.End))
}

// checkObject allows tables of constants, such as {"BTC": "XBT"}[.].
func checkObject(o *gojq.Object) error {
	for _, m := range o.KeyVals {
		if m.KeyQuery != nil || !isConstant(m.Val) {
			return errors.New("{…} may only have constants in it")
		}
		if err := errors.Join(checkString(m.KeyString), checkQuery(m.Val)); err != nil {
			return err
		}
	}
	return nil
}

func checkString(s *gojq.String) error {
	switch {
	case s == nil:
		return nil
	case len(s.Queries) > 0:
		return errors.New(`\(…) in a text may not be used: put texts together by +`)
	}
	return checkLiteral(s.Str)
}

func checkLiteral(text string) error {
	if len(text) > maxLiteral {
		return fmt.Errorf("a constant of %d bytes, more than %d", len(text), maxLiteral)
	}
	return nil
}

// replaceAllIn is gsub for texts that a price, a time or a symbol could be in.
func replaceAllIn(value any, args []any) any {
	text, isText := value.(string)
	pattern, isPattern := args[0].(string)
	replacement, isReplacement := args[1].(string)
	switch {
	case !isText || !isPattern || !isReplacement:
		return errors.New("gsub wants texts")
	case len(text) > maxText:
		return fmt.Errorf("gsub: a text of %d bytes, more than %d", len(text), maxText)
	}
	r, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("gsub: %w", err)
	}
	return r.ReplaceAllLiteralString(text, replacement)
}
