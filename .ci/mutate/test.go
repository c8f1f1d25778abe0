package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// outcome is what the tests say of a mutant.
type outcome string

const (
	killed   outcome = "killed"
	survived outcome = "survived"
	timedOut outcome = "timed out"
)

// suite is the tests of a binary.
type suite struct {
	*binary
	work string
	// reaching are the tests that reach each mutant, and took how long each takes.
	reaching map[int][]string
	took     map[string]time.Duration
	flags    []string
}

// newSuite runs each test alone, without a mutant, and notes what it reaches. They
// must pass.
func newSuite(b *binary, work string) (*suite, error) {
	s := &suite{binary: b, work: work, reaching: map[int][]string{}, took: map[string]time.Duration{}}
	if help, _ := exec.Command(b.path, "-help").CombinedOutput(); strings.Contains(string(help), "rapid.nofailfile") {
		s.flags = []string{"-rapid.nofailfile", "-rapid.shrinktime=0s"} // failures are meant
	}
	out, err := run(b.dir, b.path, "-test.list", ".")
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, "Benchmark") {
			continue
		}
		reached := filepath.Join(work, "reached")
		if err := os.RemoveAll(reached); err != nil {
			return nil, err
		}
		began := time.Now()
		if result, said := s.test(0, []string{name}, "MUTANT_REACHED="+reached); result != survived {
			return nil, fmt.Errorf("%s fails without a mutant: %s", name, said)
		}
		s.took[name] = time.Since(began)
		text, err := os.ReadFile(reached)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, line := range strings.Fields(string(text)) {
			id, _ := strconv.Atoi(line)
			s.reaching[id] = append(s.reaching[id], name)
		}
	}
	return s, nil
}

// try runs the tests that reach a mutant, the quicker ones first.
func (s *suite) try(m mutant) (outcome, string) {
	tests := slices.SortedFunc(slices.Values(s.reaching[m.id]), func(a, b string) int { return cmp.Compare(s.took[a], s.took[b]) })
	first, sum := 0, time.Duration(0)
	for first < len(tests) && sum < quick {
		sum += s.took[tests[first]]
		first++
	}
	for _, some := range [][]string{tests[:first], tests[first:]} {
		if len(some) == 0 {
			continue
		}
		if result, said := s.test(m.id, some); result != survived {
			return result, said
		}
	}
	return survived, ""
}

// quick is how long the tests that are run first take together.
const quick = 2 * time.Second

var failure = regexp.MustCompile(`--- FAIL: (\S+)`)

// limit is how long tests may take that take so long without a mutant, one by one.
func limit(usual time.Duration) time.Duration {
	if usual == 0 {
		return time.Hour // it is not known yet
	}
	return 15*time.Second + usual
}

// test runs tests until the first one fails, which it names.
func (s *suite) test(id int, tests []string, env ...string) (outcome, string) {
	usual := time.Duration(0)
	for _, name := range tests {
		usual += s.took[name]
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit(usual))
	defer cancel()
	args := []string{"-test.v", "-test.failfast", "-test.timeout=0", "-test.run=^(" + strings.Join(tests, "|") + ")$"}
	args = append(args, s.flags...)
	command := exec.CommandContext(ctx, s.path, args...)
	command.Dir = s.dir
	command.Env = append(os.Environ(), append(env, fmt.Sprint("MUTANT=", id))...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	read, write, err := os.Pipe()
	if err != nil {
		return killed, err.Error()
	}
	defer read.Close()
	command.Stdout, command.Stderr = write, write
	if err := command.Start(); err != nil {
		write.Close()
		return killed, err.Error()
	}
	write.Close()
	failed := ""
	var last []string
	lines := bufio.NewScanner(read)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		if last = append(last, lines.Text()); len(last) > 20 {
			last = last[1:]
		}
		if found := failure.FindStringSubmatch(lines.Text()); found != nil && failed == "" {
			failed = found[1]
			if id != 0 {
				_ = command.Cancel()
			}
		}
	}
	err = command.Wait()
	switch {
	case failed != "":
		if id == 0 {
			failed = strings.Join(last, "\n")
		}
		return killed, failed
	case ctx.Err() != nil:
		return timedOut, ""
	case err != nil:
		at := slices.IndexFunc(last, func(line string) bool {
			return strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:")
		})
		if at < 0 {
			at = max(0, len(last)-1)
		}
		return killed, strings.Join(last[at:min(len(last), at+1)], "")
	}
	return survived, ""
}
