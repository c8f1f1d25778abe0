package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// helpers are the functions that the changed files call.
const helpers = `package %s

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"sync"
)

var (
	mutantNow, _  = strconv.Atoi(os.Getenv("MUTANT"))
	mutantReached = os.Getenv("MUTANT_REACHED")
	mutantSeen    sync.Map
)

func mutantIs(id int) bool {
	if mutantReached != "" {
		if _, again := mutantSeen.LoadOrStore(id, true); !again {
			f, err := os.OpenFile(mutantReached, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				panic(err)
			}
			fmt.Fprintln(f, id)
			f.Close()
		}
	}
	return id == mutantNow
}

func mutantZero[T any](id int, v T) T {
	if mutantIs(id) {
		v = *new(T)
	}
	return v
}

type mutantNumber interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func mutantLess[T cmp.Ordered](id int, a, b T) bool           { return a < b || mutantIs(id) && a == b }
func mutantGreater[T cmp.Ordered](id int, a, b T) bool        { return a > b || mutantIs(id) && a == b }
func mutantLessOrEqual[T cmp.Ordered](id int, a, b T) bool    { return a < b || !mutantIs(id) && a == b }
func mutantGreaterOrEqual[T cmp.Ordered](id int, a, b T) bool { return a > b || !mutantIs(id) && a == b }

func mutantEither[T any](id int, right, wrong func() T) T {
	if mutantIs(id) {
		return wrong()
	}
	return right()
}

func mutantAdd[T mutantNumber](id int, a, b T) T {
	return mutantEither(id, func() T { return a + b }, func() T { return a - b })
}
func mutantSub[T mutantNumber](id int, a, b T) T {
	return mutantEither(id, func() T { return a - b }, func() T { return a + b })
}
func mutantMul[T mutantNumber](id int, a, b T) T {
	return mutantEither(id, func() T { return a * b }, func() T { return a / b })
}
func mutantQuo[T mutantNumber](id int, a, b T) T {
	return mutantEither(id, func() T { return a / b }, func() T { return a * b })
}
func mutantRem[T mutantNumber](id int, a, b T) T {
	return mutantEither(id, func() T { return a %% b }, func() T { return a * b })
}
`

// apply returns the source with all mutants in it, none in force. Edits add no
// lines, so the compiler's lines are those of the file.
func apply(source []byte, mutants []mutant) []byte {
	var edits []edit
	for _, m := range mutants {
		edits = append(edits, m.edits...)
	}
	slices.SortStableFunc(edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.from, b.from),
			cmp.Compare(sign(a.order), sign(b.order)), // what closes comes before what opens
			cmp.Compare(a.order, b.order))             // the inner one closes first, the outer one opens first
	})
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		out.Write(source[at:e.from])
		out.WriteString(e.text)
		at = e.to
	}
	out.Write(source[at:])
	return out.Bytes()
}

func sign(n int) int { return cmp.Compare(n, 0) }

// alsoTestedBy names the package whose tests hold another one besides its own tests:
// what an operator or a relay does is tested with stages, and stages on a table log with
// that log.
var alsoTestedBy = map[string]string{"pipeline/operator": "pipeline/engine", "pipeline/halt": "pipeline/engine", "pipeline/topics": "pipeline/engine",
	"pipeline/outbox": "pipeline/engine", "pipeline/engine": "pipeline/log/table"}

// binary is the test binary of a package, with the mutants of that package or of one
// that it tests. dir is the folder of the tests, mutated that of the mutants.
type binary struct {
	path, dir, mutated string
	mutants            []mutant
}

var compilerLine = regexp.MustCompile(`(?m)^(?:\./)?([\w./-]+\.go):(\d+):`)

// build compiles the tests of one package with these mutants of another in it, or of the
// same, without those that do not compile, such as the difference of two texts.
func build(root, tests, dir, work string, mutants []mutant) (*binary, error) {
	b := &binary{path: filepath.Join(work, filepath.Base(tests)+".test"), dir: filepath.Join(root, tests), mutated: filepath.Join(root, dir), mutants: mutants}
	name, err := run(b.mutated, "go", "list", "-f", "{{.Name}}", ".")
	if err != nil {
		return nil, err
	}
	for {
		if err := b.overlay(root, work, string(bytes.TrimSpace(name))); err != nil {
			return nil, err
		}
		out, err := run(b.dir, "go", "test", "-c", "-vet=off", "-gcflags=-e", "-overlay", filepath.Join(work, "overlay.json"), "-o", b.path, ".")
		if err == nil {
			return b, nil
		}
		before := len(b.mutants)
		for _, place := range compilerLine.FindAllSubmatch(out, -1) {
			line, _ := strconv.Atoi(string(place[2]))
			b.mutants = slices.DeleteFunc(b.mutants, func(m mutant) bool {
				return filepath.Base(m.file) == filepath.Base(string(place[1])) && m.line <= line && line <= m.line+bytes.Count([]byte(m.before), []byte("\n")) &&
					m.kind != "statement" && m.kind != "condition" && m.kind != "operand"
			})
		}
		if len(b.mutants) == before {
			return nil, fmt.Errorf("compiling the mutants of %s: %w\n%s", dir, err, out)
		}
	}
}

// overlay writes the changed files, and the one of the helpers.
func (b *binary) overlay(root, work, name string) error {
	byFile := map[string][]mutant{}
	for _, m := range b.mutants {
		byFile[m.file] = append(byFile[m.file], m)
	}
	replace := map[string]string{}
	put := func(original string, text []byte) error {
		changed := filepath.Join(work, fmt.Sprintf("%d.go", len(replace)))
		replace[original] = changed
		return os.WriteFile(changed, text, 0o600)
	}
	for file, mutants := range byFile {
		original := filepath.Join(root, file)
		source, err := os.ReadFile(original)
		if err != nil {
			return err
		}
		if err := put(original, apply(source, mutants)); err != nil {
			return err
		}
	}
	if err := put(filepath.Join(b.mutated, "mutants_generated.go"), fmt.Appendf(nil, helpers, name)); err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	return errors.Join(err, os.WriteFile(filepath.Join(work, "overlay.json"), text, 0o600))
}

// run runs a command of Go, and returns what it says, its errors too.
func run(dir, name string, args ...string) ([]byte, error) {
	command := exec.Command(name, args...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return out, err
}
