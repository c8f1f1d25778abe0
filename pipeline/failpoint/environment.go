//go:build failpoints

package failpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	if err := armAll(os.Getenv(Variable)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Variable, err)
		os.Exit(2)
	}
}

// ErrInjected is the error of a point that was armed to fail.
var ErrInjected = errors.New("a failpoint failed")

// armAll arms what the text of Variable says, for as long as the process lives.
func armAll(text string) error {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		point, rest, found := strings.Cut(part, "=")
		if !found {
			return fmt.Errorf("%q: want POINT=ACTION@HIT", part)
		}
		action, hits, counted := strings.Cut(rest, "@")
		var on Hits
		if counted {
			var err error
			if on, err = parseHits(hits); err != nil {
				return fmt.Errorf("%q: %w", part, err)
			}
		}
		do, err := parseAction(Point(point), action)
		if err != nil {
			return fmt.Errorf("%q: %w", part, err)
		}
		if _, err := Arm(Point(point), on, do); err != nil {
			return err
		}
	}
	return nil
}

// parseHits reads FIRST or FIRST/EVERY.
func parseHits(text string) (Hits, error) {
	first, every, repeated := strings.Cut(text, "/")
	var h Hits
	var err, everyErr error
	h.First, err = strconv.Atoi(first)
	if repeated {
		h.Every, everyErr = strconv.Atoi(every)
	}
	if err != nil || everyErr != nil || h.First < 1 || repeated && h.Every < 1 {
		return Hits{}, fmt.Errorf("%q is neither a number from 1 nor two with a slash", text)
	}
	return h, nil
}

// parseAction reads kill, panic, error or stall:DURATION.
func parseAction(p Point, text string) (func(context.Context, int) error, error) {
	var do func(context.Context) error
	name, argument, _ := strings.Cut(text, ":")
	switch name {
	case "kill":
		do = kill
	case "panic":
		do = func(context.Context) error { panic(fmt.Sprintf("failpoint %s", p)) }
	case "error":
		do = func(context.Context) error { return fmt.Errorf("%w: %s", ErrInjected, p) }
	case "stall":
		d, err := time.ParseDuration(argument)
		if err != nil {
			return nil, err
		}
		do = func(context.Context) error { <-time.After(d); return nil }
	default:
		return nil, fmt.Errorf("%q is neither kill nor panic nor error nor stall:DURATION", text)
	}
	return func(ctx context.Context, hit int) error {
		// One write, which lines of others do not interrupt.
		fmt.Fprintf(os.Stderr, `{"level":"WARN","msg":%q,"point":%q,"action":%q,"hit":%d}`+"\n", Message, p, text, hit)
		return do(ctx)
	}, nil
}

// kill ends this process by SIGKILL, as the kernel or an operator would: nothing
// runs any more, and nothing is flushed.
func kill(context.Context) error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	if err := self.Kill(); err != nil {
		return err
	}
	select {} // the other threads may have a moment; this goroutine goes no further
}
