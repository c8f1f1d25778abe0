package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const program = `package sample

import "errors"

var calls int

// Sum adds the positive ones of at most two numbers.
func Sum(numbers ...int) (sum int, err error) {
	if len(numbers) > 2 {
		return 0, errors.New("more than two")
	}
	for _, n := range numbers {
		if n > 0 {
			sum = sum + n
		}
	}
	calls++
	return sum, nil
}
`

const programTest = `package sample

import "testing"

func TestSum(t *testing.T) {
	if sum, err := Sum(1, 2); sum != 3 || err != nil {
		t.Fatal(sum, err)
	}
	if sum, err := Sum(-1); sum != 0 || err != nil {
		t.Fatal(sum, err)
	}
}
`

// module writes a module with a package, its test, and allowances.
func module(t *testing.T, allowed string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module sample\n\ngo 1.26\n", "sum.go": program, "sum_test.go": programTest, allowances: allowed} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestMutantsAreKilledOrSurvive(t *testing.T) {
	root := module(t, "sum.go Sum: n > 0 → n >= 0\n    to add zero changes nothing\n")
	results := filepath.Join(root, "results")
	tried := newTrial()
	tried.results = results
	err := tried.run(root, []string{"sum.go"})
	if err == nil {
		t.Fatal("no error, although some survived")
	}
	var open []string
	for _, m := range tried.open {
		open = append(open, strings.TrimPrefix(m.key, "sum.go Sum: "))
	}
	// No test gives it three numbers, or reads calls.
	for _, survivor := range []string{`return 0, errors.New("more than two") → nothing`, `errors.New("more than two") → zero error`, "calls++ → nothing"} {
		if !slices.Contains(open, survivor) {
			t.Errorf("%q is none of the survivors %q", survivor, open)
		}
	}
	counts := tried.counts["sum.go"]
	if counts["allowed"] != 1 {
		t.Errorf("%d were allowed", counts["allowed"])
	}
	for _, m := range []string{"n > 0 → !(n > 0)", "sum = sum + n → nothing", "sum + n → sum - n", "sum → zero int", "len(numbers) > 2 → !(len(numbers) > 2)", "len(numbers) > 2 → len(numbers) >= 2"} {
		if tried.known["sum.go Sum: "+m] != killed {
			t.Errorf("%q was not killed", m)
		}
	}

	again := newTrial()
	again.results = results
	if err := again.run(root, []string{"sum.go"}); err == nil || len(again.open) != len(tried.open) {
		t.Errorf("with the results of the first run: %v, and %d survivors instead of %d", err, len(again.open), len(tried.open))
	}
}

func TestAllowancesNeedReasons(t *testing.T) {
	for _, text := range []string{"sum.go Sum: n > 0 → n >= 0\n", "   a reason of nothing\n"} {
		if err := newTrial().run(module(t, text), []string{"sum.go"}); err == nil {
			t.Errorf("no error about %q", text)
		}
	}
}

// What no test reads, and what the compiler needs, stays as it is.
func TestSomeStatementsAreLeftAlone(t *testing.T) {
	root := module(t, "")
	text := "package sample\n\nfunc f(log interface{ Warn(string) }, err error) (bool, error) {\n\tlog.Warn(\"x\")\n\tmake([]int, 0, 2*3)\n" +
		"\tif err != nil {\n\t\treturn false, err\n\t}\n\tn := 1\n\t_ = n\n\treturn true, nil\n}\n"
	if err := os.WriteFile(filepath.Join(root, "f.go"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	id := 0
	mutants, err := findMutants(root, "f.go", &id)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mutants {
		got = append(got, m.kind+" "+m.before)
	}
	want := []string{"statement make([]int, 0, 2*3)", "condition err != nil", passed + " return false, err", passed + " false", passed + " err", "literal true"}
	if !slices.Equal(got, want) {
		t.Errorf("%q instead of %q", got, want)
	}
}
