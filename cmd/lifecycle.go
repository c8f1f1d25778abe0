package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
)

// activeModule is a module that works in this process.
type activeModule struct {
	name   string // with its kind
	module any
}

// made takes a module that New returned, and validates it. here says that it works
// in this process.
func (m *modules) made(name string, module any, err error, here bool) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if v, ok := module.(pipeline.Validator); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if here {
		m.active = append(m.active, activeModule{name, module})
	}
	return nil
}

// createTables makes the tables that handlers and sources have.
func (m *modules) createTables(ctx context.Context, db *store.Store) error {
	for _, l := range m.active {
		if owner, ok := l.module.(pipeline.TableOwner); ok {
			if err := engine.CreateTables(ctx, db, owner); err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
		}
	}
	return nil
}

// start starts the modules that have a Start, one after the other, and returns
// what closes those that have a Close, in the reverse order. Where one fails, those
// before it are closed.
func (m *modules) start(ctx context.Context) (stop func() error, err error) {
	begun := make([]activeModule, 0, len(m.active))
	stop = func() error {
		var errs []error
		for _, l := range slices.Backward(begun) {
			if c, ok := l.module.(io.Closer); ok {
				if err := c.Close(); err != nil {
					errs = append(errs, fmt.Errorf("closing %s: %w", l.name, err))
				}
			}
		}
		return errors.Join(errs...)
	}
	for _, l := range m.active {
		if s, ok := l.module.(pipeline.Starter); ok {
			if err := s.Start(ctx); err != nil {
				return nil, errors.Join(fmt.Errorf("starting %s: %w", l.name, err), stop())
			}
		}
		begun = append(begun, l)
	}
	return stop, nil
}

// checkTimeout is how long a module's Check may take: a plugin must not keep
// /readyz from answering.
const checkTimeout = time.Second

// checks asks the modules that have a Check, side by side.
func (m *modules) checks(ctx context.Context) []httpapi.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var names []string
	var answers []chan error
	for _, l := range m.active {
		c, ok := l.module.(pipeline.Checker)
		if !ok {
			continue
		}
		answer := make(chan error, 1) // a late answer goes nowhere
		go func() {
			defer func() {
				if p := recover(); p != nil {
					answer <- fmt.Errorf("panic: %v", p)
				}
			}()
			answer <- c.Check(ctx)
		}()
		names, answers = append(names, l.name), append(answers, answer)
	}
	checks := make([]httpapi.Check, len(names))
	for i, answer := range answers {
		var err error
		select {
		case err = <-answer:
		case <-ctx.Done():
			err = fmt.Errorf("no answer within %v", checkTimeout)
		}
		checks[i] = httpapi.Check{Name: names[i], State: httpapi.CheckOK}
		if err != nil {
			checks[i].State, checks[i].Reason = httpapi.CheckFailed, err.Error()
		}
	}
	return checks
}
