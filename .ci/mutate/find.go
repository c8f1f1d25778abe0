package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// mutant is one change of a file.
type mutant struct {
	id   int
	file string // relative to the root
	line int
	kind string
	// key names the mutant in results and allowances, whatever moves around it.
	key           string
	before, after string // the source in question
	edits         []edit
}

// edit is text that takes the place of the source from from to to. The edits of
// nested places enclose each other: open ones come first where they meet.
type edit struct {
	from, to int
	text     string
	order    int // negative: closes
	id       int
}

// finder collects the mutants of one file.
type finder struct {
	fset    *token.FileSet
	source  []byte
	file    string
	next    *int
	seen    map[string]int
	mutants []mutant
	// function and results are those around the place; passing says that the place
	// only passes an error on.
	function string
	results  []string
	passing  bool
}

// findMutants parses a file and lists its mutants, with ids from *next on.
func findMutants(root, file string, next *int) ([]mutant, error) {
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	f := &finder{fset: token.NewFileSet(), source: source, file: file, next: next, seen: map[string]int{}}
	parsed, err := parser.ParseFile(f.fset, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, declaration := range parsed.Decls {
		if fn, ok := declaration.(*ast.FuncDecl); ok && fn.Body != nil {
			f.function = fn.Name.Name
			if fn.Recv != nil {
				f.function = strings.Trim(f.text(fn.Recv.List[0].Type), "*") + "." + f.function
			}
			f.body(fn.Type, fn.Body)
		}
	}
	return f.mutants, nil
}

func (f *finder) offset(p token.Pos) int { return f.fset.Position(p).Offset }
func (f *finder) text(n ast.Node) string {
	return string(f.source[f.offset(n.Pos()):f.offset(n.End())])
}
func (f *finder) at(n ast.Node) (from, to int) { return f.offset(n.Pos()), f.offset(n.End()) }

// passed is the kind of the mutants that swallow an error which is only passed on.
// There are many, and to notice one takes a fault of exactly that call.
const passed = "error passed on"

// add notes a mutant of a node whose source becomes after.
func (f *finder) add(n ast.Node, kind, after string, edits func(id int) []edit) {
	if f.passing {
		kind = passed
	}
	*f.next++
	id := *f.next
	before := f.text(n)
	if after == "" {
		after = "nothing"
	}
	key := fmt.Sprintf("%s %s: %s → %s", f.file, f.function, oneLine(before), oneLine(after))
	f.seen[key]++
	if again := f.seen[key]; again > 1 {
		key += fmt.Sprintf(" (%d)", again)
	}
	m := mutant{id: id, file: f.file, line: f.fset.Position(n.Pos()).Line, kind: kind, key: key, before: before, after: after, edits: edits(id)}
	for i := range m.edits {
		m.edits[i].id = id
	}
	f.mutants = append(f.mutants, m)
}

var spaces = regexp.MustCompile(`\s+`)

func oneLine(text string) string {
	text = spaces.ReplaceAllString(text, " ")
	if runes := []rune(text); len(runes) > 90 {
		text = string(runes[:90]) + "…"
	}
	return text
}

// around puts text before and after a node.
func (f *finder) around(n ast.Node, open, end string) func(id int) []edit {
	from, to := f.at(n)
	return func(id int) []edit {
		return []edit{{from, from, fmt.Sprintf(open, id), id, 0}, {to, to, end, -id, 0}}
	}
}

// body looks at a function, and returns to the one around it.
func (f *finder) body(signature *ast.FuncType, body *ast.BlockStmt) {
	results := f.results
	defer func() { f.results = results }()
	f.results = nil
	if signature.Results != nil {
		for _, field := range signature.Results.List {
			for range max(1, len(field.Names)) {
				f.results = append(f.results, f.text(field.Type))
			}
		}
	}
	f.statements(body.List, false)
}

// statements looks at a list of statements. returns says whether a return may be
// deleted from it, since what follows is reached then.
func (f *finder) statements(list []ast.Stmt, returns bool) {
	for _, s := range list {
		if f.unobserved(s) {
			continue
		}
		if f.deletable(s, returns) {
			f.add(s, "statement", "", f.around(s, "if !mutantIs(%d) { ", " }"))
		}
		f.statement(s)
	}
}

func (f *finder) deletable(s ast.Stmt, returns bool) bool {
	switch s := s.(type) {
	case *ast.AssignStmt:
		return s.Tok != token.DEFINE && f.text(s.Lhs[0]) != "_"
	case *ast.ReturnStmt:
		return returns || len(s.Results) == 0
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		return !ok || f.text(call.Fun) != "panic"
	case *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.BranchStmt:
		return true
	}
	return false
}

// The package log is not the log of a stage.
var quiet = regexp.MustCompile(`\b(slog|metrics|failpoint|complaints)\b|\blog($|[^.\w]|\.(Debug|Info|Warn|Error|Log|With)\b)`)

// unobserved reports a statement of the log, the metrics or the failpoints.
func (f *finder) unobserved(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		return ok && quiet.MatchString(f.text(call.Fun))
	case *ast.DeferStmt:
		return quiet.MatchString(f.text(s.Call.Fun))
	case *ast.ReturnStmt:
		return len(s.Results) == 1 && quiet.MatchString(f.text(s.Results[0]))
	case *ast.IfStmt:
		return s.Init != nil && quiet.MatchString(f.text(s.Init))
	}
	return false
}

// statement looks into one statement.
func (f *finder) statement(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.BlockStmt:
		f.statements(s.List, false)
	case *ast.LabeledStmt:
		f.statement(s.Stmt)
	case *ast.IfStmt:
		f.simple(s.Init)
		f.condition(s.Cond)
		f.passing = strings.HasSuffix(f.text(s.Cond), "err != nil") && len(s.Body.List) == 1
		f.statements(s.Body.List, s.Else == nil)
		f.passing = false
		f.simple(s.Else)
	case *ast.ForStmt:
		f.simple(s.Init)
		if s.Cond != nil { // negated, it would rarely end
			f.add(s.Cond, "condition", "false", f.around(s.Cond, "!mutantIs(%d) && (", ")"))
			f.expression(s.Cond)
		}
		f.simple(s.Post)
		f.statements(s.Body.List, false)
	case *ast.RangeStmt:
		f.expression(s.X)
		f.statements(s.Body.List, false)
	case *ast.SwitchStmt:
		f.simple(s.Init)
		if s.Tag != nil {
			f.expression(s.Tag)
		}
		for _, clause := range s.Body.List {
			clause := clause.(*ast.CaseClause)
			for _, e := range clause.List {
				if s.Tag == nil {
					f.condition(e)
				}
			}
			f.statements(clause.Body, false)
		}
	case *ast.TypeSwitchStmt:
		for _, clause := range s.Body.List {
			f.statements(clause.(*ast.CaseClause).Body, false)
		}
	case *ast.SelectStmt:
		for _, clause := range s.Body.List {
			f.statements(clause.(*ast.CommClause).Body, false)
		}
	case *ast.ReturnStmt:
		f.returned(s)
	default:
		ast.Inspect(s, f.inspect)
	}
}

func (f *finder) simple(s ast.Stmt) {
	if s != nil {
		f.statement(s)
	}
}

func (f *finder) condition(e ast.Expr) {
	f.add(e, "condition", "!("+f.text(e)+")", f.around(e, "mutantIs(%d) != (", ")"))
	f.expression(e)
}

func (f *finder) expression(e ast.Expr) { ast.Inspect(e, f.inspect) }

// plain are values that a mutant would return anyway.
var plain = regexp.MustCompile(`^(nil|0|""|false|[\w.]+\{\})$`)

func (f *finder) returned(s *ast.ReturnStmt) {
	if len(s.Results) != len(f.results) {
		if len(s.Results) > 0 {
			f.expression(s.Results[0])
		}
		return
	}
	for i, e := range s.Results {
		switch result := f.results[i]; {
		case f.text(e) == "true" || f.text(e) == "false":
		case result == "bool":
			f.add(e, "return", "!("+f.text(e)+")", f.around(e, "mutantIs(%d) != (", ")"))
		case !plain.MatchString(f.text(e)):
			f.add(e, "return", "zero "+result, f.around(e, "mutantZero["+result+"](%d, ", ")"))
		}
		f.expression(e)
	}
}

// twins are the operators that take each other's place.
var twins = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
}

// calls are the functions that do the one or the other.
var calls = map[token.Token]string{
	token.LSS: "mutantLess", token.LEQ: "mutantLessOrEqual", token.GTR: "mutantGreater", token.GEQ: "mutantGreaterOrEqual",
	token.ADD: "mutantAdd", token.SUB: "mutantSub", token.MUL: "mutantMul", token.QUO: "mutantQuo", token.REM: "mutantRem",
}

var unreadable = regexp.MustCompile(`^(fmt|errors)\.|\bString$`)

// inspect looks at a part of an expression.
func (f *finder) inspect(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncLit:
		f.body(n.Type, n.Body)
		return false
	case *ast.CallExpr: // no test reads a message word by word, or measures a capacity
		name := f.text(n.Fun)
		if name == "make" {
			return false
		}
		if unreadable.MatchString(name) && name != "errors.Is" && name != "errors.As" && name != "errors.Join" {
			return false
		}
	case *ast.Ident:
		if n.Name == "true" || n.Name == "false" {
			from, to := f.at(n)
			f.add(n, "literal", map[string]string{"true": "false", "false": "true"}[n.Name], func(id int) []edit {
				return []edit{{from, to, fmt.Sprintf(map[string]string{"true": "!mutantIs(%d)", "false": "mutantIs(%d)"}[n.Name], id), id, 0}}
			})
		}
	case *ast.BinaryExpr:
		f.binary(n)
	}
	return true
}

func (f *finder) binary(n *ast.BinaryExpr) {
	if n.Op == token.LAND || n.Op == token.LOR {
		open := map[token.Token]string{token.LAND: "(mutantIs(%d) || (", token.LOR: "(!mutantIs(%d) && ("}[n.Op]
		f.add(n, "operand", f.text(n.Y), f.around(n.X, open, "))"))
		f.add(n, "operand", f.text(n.X), f.around(n.Y, open, "))"))
		return
	}
	twin, ok := twins[n.Op]
	if !ok || strings.Contains(f.text(n), `"`) { // texts are joined, not added
		return
	}
	kind := "arithmetic"
	if n.Op.Precedence() == token.LSS.Precedence() {
		kind = "boundary"
	}
	operator := f.offset(n.OpPos)
	f.add(n, kind, f.text(n.X)+" "+twin.String()+" "+f.text(n.Y), func(id int) []edit {
		from, to := f.at(n)
		return []edit{{from, from, fmt.Sprintf("%s(%d, ", calls[n.Op], id), id, 0},
			{operator, operator + len(n.Op.String()), ",", id, 0}, {to, to, ")", -id, 0}}
	})
}
