// Package failtest tests checks that must fail. It is for tests alone.
package failtest

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// T is a test whose failure is what is tested: it writes down what a check says
// of it. It is safe for concurrent use.
type T struct {
	*testing.T // for what no check calls

	mu       sync.Mutex
	failed   bool
	messages []string
}

// Of runs a check on a test of its own, and returns what was said of that, a line
// each; "" where it did not fail.
func Of(t *testing.T, check func(*T)) string {
	failing := &T{T: t}
	done := make(chan struct{})
	go func() { // FailNow ends the goroutine
		defer close(done)
		check(failing)
	}()
	<-done
	if !failing.Failed() {
		return ""
	}
	return strings.Join(failing.messages, "\n")
}

func (t *T) record(fails bool, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = t.failed || fails
	t.messages = append(t.messages, text)
}

// Helper does nothing.
func (t *T) Helper() {}

// Logf writes a text down.
func (t *T) Logf(format string, args ...any) { t.record(false, fmt.Sprintf(format, args...)) }

// Log writes a text down.
func (t *T) Log(args ...any) { t.record(false, fmt.Sprint(args...)) }

// Errorf writes a failure down.
func (t *T) Errorf(format string, args ...any) { t.record(true, fmt.Sprintf(format, args...)) }

// Error writes a failure down.
func (t *T) Error(args ...any) { t.record(true, fmt.Sprint(args...)) }

// Fatalf writes a failure down, and ends the check.
func (t *T) Fatalf(format string, args ...any) { t.Errorf(format, args...); t.FailNow() }

// Fatal writes a failure down, and ends the check.
func (t *T) Fatal(args ...any) { t.Error(args...); t.FailNow() }

// Fail writes down that it failed.
func (t *T) Fail() { t.record(true, "failed") }

// FailNow is Fail, and ends the check.
func (t *T) FailNow() { t.Fail(); runtime.Goexit() }

// Failed reports whether it failed.
func (t *T) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}
