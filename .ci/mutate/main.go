package main

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// usual are the files whose mistakes cost data.
var usual = []string{
	"pipeline/engine/stage.go", "pipeline/engine/attempt.go", "pipeline/engine/plan.go", "pipeline/chain/chain.go", "pipeline/outbox/relay.go", "pipeline/outbox/health.go", "pipeline/outbox/reconcile.go",
	"pipeline/topics/beyond.go",
	"pipeline/operator/resolution.go", "projections/movingaverages/window.go", "handlers/fetch/budget.go",
}

func main() {
	root := flag.String("root", ".", "folder of the program's go.mod")
	sample := flag.Float64("sample", 1, "share of the mutants of each file to try, from 0 to 1")
	seed := flag.Uint64("seed", 1, "seed of the sample")
	results := flag.String("results", "", "file of results: what it has is not tried again, what is new is added")
	match := flag.String("match", "", "try only mutants whose name this regular expression matches")
	errors := flag.Bool("errors", false, "try the mutants too that swallow an error which is only passed on")
	list := flag.Bool("list", false, "list the mutants, and try none")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: mutate [flags] [file.go ...], files relative to -root")
		flag.PrintDefaults()
	}
	flag.Parse()
	files := flag.Args()
	if len(files) == 0 {
		files = usual
	}
	t := newTrial()
	t.match, t.errors, t.sample, t.seed, t.results, t.list = regexp.MustCompile(*match), *errors, *sample, *seed, *results, *list
	if err := t.run(*root, files); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// trial is one run of the tool.
type trial struct {
	match   *regexp.Regexp
	errors  bool
	sample  float64
	seed    uint64
	results string
	list    bool

	allowed map[string]string // the reasons of mutants that may survive, by key
	known   map[string]outcome
	counts  map[string]map[outcome]int // by file
	open    []mutant                   // survivors without a reason
}

func newTrial() *trial {
	return &trial{match: regexp.MustCompile(""), sample: 1, counts: map[string]map[outcome]int{}}
}

const allowances = ".ci/mutate/allowed.txt"

func (t *trial) run(root string, files []string) (err error) {
	if root, err = filepath.Abs(root); err != nil {
		return err
	}
	if t.allowed, err = readAllowed(filepath.Join(root, allowances)); err != nil {
		return err
	}
	if t.known, err = readResults(t.results); err != nil {
		return err
	}
	byPackage := map[string][]mutant{}
	id := 0
	for _, file := range files {
		mutants, err := findMutants(root, filepath.ToSlash(filepath.Clean(file)), &id)
		if err != nil {
			return err
		}
		byPackage[filepath.Dir(file)] = append(byPackage[filepath.Dir(file)], t.chosen(mutants)...)
	}
	for _, dir := range slices.Sorted(maps.Keys(byPackage)) {
		if err := t.runPackage(root, dir, byPackage[dir]); err != nil {
			return err
		}
	}
	return t.report()
}

// chosen are the mutants of a file that are to be tried.
func (t *trial) chosen(mutants []mutant) []mutant {
	random := rand.New(rand.NewPCG(t.seed, 0))
	return slices.DeleteFunc(mutants, func(m mutant) bool {
		return random.Float64() >= t.sample || m.kind == passed && !t.errors || !t.match.MatchString(m.key)
	})
}

func (t *trial) runPackage(root, dir string, mutants []mutant) error {
	if t.list {
		for _, m := range mutants {
			fmt.Printf("%s:%d %s\n", m.file, m.line, m.key)
		}
		return nil
	}
	open := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool {
		_, done := t.known[m.key]
		return done
	})
	tests := []string{dir}
	if also := alsoTestedBy[dir]; also != "" {
		tests = append(tests, also)
	}
	for i, in := range tests {
		var err error
		if open, err = t.tryTests(root, in, dir, open, i == len(tests)-1); err != nil {
			return err
		}
	}
	for _, m := range mutants {
		if result, done := t.known[m.key]; done { // else it does not compile
			t.note(m, result)
		}
	}
	return nil
}

// tryTests tries mutants of a package with the tests of one, and returns the survivors
// for others to try; none with the last ones.
func (t *trial) tryTests(root, tests, dir string, mutants []mutant, last bool) (survivors []mutant, err error) {
	if len(mutants) == 0 {
		return nil, nil
	}
	work, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	b, err := build(root, tests, dir, work, mutants)
	if err != nil {
		return nil, err
	}
	suite, err := newSuite(b, work)
	if err != nil {
		return nil, err
	}
	for _, m := range b.mutants {
		result, by := suite.try(m)
		if result == survived && !last {
			survivors = append(survivors, m)
			continue
		}
		t.known[m.key] = result
		if err := appendResult(t.results, m.key, result); err != nil {
			return nil, err
		}
		fmt.Printf("%-9s %s:%d %s\t%s\n", result, m.file, m.line, m.kind, by)
	}
	return survivors, nil
}

func (t *trial) note(m mutant, result outcome) {
	if t.counts[m.file] == nil {
		t.counts[m.file] = map[outcome]int{}
	}
	reason, allowed := t.allowed[m.key]
	if result == survived && allowed {
		result = "allowed"
	}
	t.counts[m.file][result]++
	switch {
	case result == survived:
		t.open = append(t.open, m)
	case allowed && result != "allowed":
		fmt.Printf("%s:%d is allowed to survive (%s), but a test notices it: take it off %s\n", m.file, m.line, reason, allowances)
	}
}

// report prints the survivors and the figures; an error where a survivor has no
// reason.
func (t *trial) report() error {
	if t.list {
		return nil
	}
	for _, m := range t.open {
		fmt.Printf("\nsurvived %s:%d\n%s\n", m.file, m.line, m.key)
		for line := range strings.Lines(m.before) {
			fmt.Println("-", strings.TrimRight(line, "\n"))
		}
		for line := range strings.Lines(m.after) {
			fmt.Println("+", strings.TrimRight(line, "\n"))
		}
	}
	fmt.Printf("\n%-40s %8s %8s %9s %9s %9s\n", "", "mutants", "killed", "timed out", "allowed", "survived")
	var sum [5]int
	row := func(name string, n [5]int) {
		fmt.Printf("%-40s %8d %8d %9d %9d %9d\n", name, n[0], n[1], n[2], n[3], n[4])
	}
	for _, file := range slices.Sorted(maps.Keys(t.counts)) {
		c := t.counts[file]
		n := [5]int{0, c[killed], c[timedOut], c["allowed"], c[survived]}
		n[0] = n[1] + n[2] + n[3] + n[4]
		row(file, n)
		for i := range n {
			sum[i] += n[i]
		}
	}
	row("all", sum)
	if len(t.open) > 0 {
		return fmt.Errorf("%d mutants survived: write the tests that notice them, or give the reason in %s", len(t.open), allowances)
	}
	return nil
}

// readAllowed reads the keys of mutants, each with its reason on the lines below,
// which are indented.
func readAllowed(path string) (map[string]string, error) {
	allowed := map[string]string{}
	key := ""
	err := eachLine(path, func(line string) error {
		text := strings.TrimSpace(line)
		switch indented := text != line; {
		case text == "" || strings.HasPrefix(text, "#"):
		case indented && key == "":
			return fmt.Errorf("%s: a reason without a mutant: %s", path, text)
		case indented:
			allowed[key] = strings.TrimSpace(allowed[key] + " " + text)
		default:
			key = text
			allowed[key] = ""
		}
		return nil
	})
	for key, reason := range allowed {
		if reason == "" {
			return nil, fmt.Errorf("%s: no reason for %s", path, key)
		}
	}
	return allowed, err
}

// readResults reads what appendResult wrote.
func readResults(path string) (map[string]outcome, error) {
	known := map[string]outcome{}
	err := eachLine(path, func(line string) error {
		if result, key, ok := strings.Cut(line, "\t"); ok {
			known[key] = outcome(result)
		}
		return nil
	})
	return known, err
}

func appendResult(path, key string, result outcome) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%s\t%s\n", result, key); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// eachLine reads a file, or nothing where there is none.
func eachLine(path string, f func(line string) error) error {
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if err := f(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
