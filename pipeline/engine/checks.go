package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// CheckState is the result of a check.
type CheckState string

// The states of a check. Only a failed one keeps the process from serving.
const (
	CheckOK      CheckState = "ok"
	CheckWarning CheckState = "warning"
	CheckFailed  CheckState = "failed"
)

// Check is one thing that should be well for the process to serve.
type Check struct {
	Name  string
	State CheckState
	// Detail says why the state is not OK.
	Detail string
}

// Checks reports what this process does: its relay, its stages and sources, the
// database and the broker. Only a fault of these is a failure. What concerns other
// processes is a warning: halts of stages that run elsewhere, and stages that no
// process runs. So is every fault of a stage that no reader depends on,
// and so are dead letters.
func (r *Runtime) Checks(ctx context.Context) []Check {
	// In parallel with the database, so that an answer need not wait for one after the other
	// where both are down.
	broker := make(chan []Check, 1)
	go func() { broker <- r.checkBroker(ctx) }()
	var checks []Check
	if r.cfg.Relay {
		checks = append(checks, checkRelay(r.relay.Trouble(), r.relay.Lag()))
	}
	own := r.ownStages(ctx)
	for _, stage := range r.present() {
		checks = append(checks, own.check("stage "+stage.spec.Name, stage.spec.Name, stage.Trouble()))
	}
	for _, s := range r.sources {
		checks = append(checks, check("source "+s.spec.Name, s.trouble()))
	}
	positions, err := store.Positions(ctx, r.cfg.Store, "")
	if err == nil {
		looking, cancel := context.WithTimeout(ctx, damageTimeout)
		err = r.cfg.Store.Check(looking)
		cancel()
	}
	checks = append(checks, check("database", err))
	for _, p := range positions {
		if p.Halted != "" {
			checks = append(checks, own.check(fmt.Sprintf("stage %s on %s/%d", p.Stage, p.Topic, p.Part), p.Stage,
				errors.New("halted: "+p.Halted)))
		}
	}
	if own.known {
		checks = append(checks, r.checkWorkers(ctx, own)...)
	}
	checks = append(checks, r.checkLetters(ctx)...)
	return append(checks, <-broker...)
}

func check(name string, err error) Check {
	if err != nil {
		return Check{name, CheckFailed, err.Error()}
	}
	return Check{Name: name, State: CheckOK}
}

// The relay warns when an event has waited in the outbox for relayLate, and fails when
// one has for relayFailed.
const (
	relayLate   = time.Minute
	relayFailed = 10 * time.Minute
)

func checkRelay(trouble error, lag time.Duration) Check {
	c := check("relay", trouble)
	if c.State == CheckFailed || lag < relayLate {
		return c
	}
	c.State, c.Detail = CheckWarning, fmt.Sprintf("events have waited in the outbox for %v", lag.Round(time.Second))
	if lag >= relayFailed {
		c.State = CheckFailed
	}
	return c
}

// ownStages tells the stages apart whose faults are failures of this process.
type ownStages struct {
	// here are the stages of this process.
	here []string
	// serving are the stages of all processes that readers depend on. Where known is
	// false, the database did not say, and each stage counts as one.
	serving []string
	known   bool
}

func (r *Runtime) ownStages(ctx context.Context) ownStages {
	// The stages first. One whose generation is dropped in between is not among the
	// serving any more, so its end is not a failure.
	var own ownStages
	for _, stage := range r.present() {
		own.here = append(own.here, stage.spec.Name)
	}
	if r.cfg.Serving == nil {
		return own
	}
	serving, err := r.cfg.Serving(ctx)
	if err != nil {
		return own // the check of the database says so
	}
	own.serving, own.known = serving, true
	return own
}

// check is a failure if the stage is one of this process, does not stand by, and readers
// depend on it; a warning otherwise.
func (o ownStages) check(name, stage string, err error) Check {
	c := check(name, err)
	if c.State == CheckFailed && (errors.Is(err, log.ErrStandby) || !slices.Contains(o.here, stage) || o.known && !slices.Contains(o.serving, stage)) {
		c.State = CheckWarning
	}
	return c
}

// damageTimeout is how long an answer waits for a look through the database. What a
// longer one finds is in the next answer.
const damageTimeout = 300 * time.Millisecond

// brokerTimeout leaves a caller that waits for all checks the time to answer.
const brokerTimeout = time.Second

// checkBroker looks at the broker, once for all who ask at the same time: to one
// that hangs, looks would pile up.
func (r *Runtime) checkBroker(ctx context.Context) []Check {
	checks, _, _ := r.looks.Do("broker", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTimeout)
		defer cancel()
		checks := r.lookAtBroker(ctx)
		if slices.ContainsFunc(checks, func(c Check) bool { return c.Name == "broker" && c.State == CheckOK }) {
			checks = append(checks, r.checkLateness(ctx, r.ownStages(ctx))...)
		}
		return checks, nil
	})
	return checks.([]Check)
}

// lookAtBroker asks each time: an operator may change a topic at any time. To a
// process that does no more than answer requests, a broker that is down is only a
// warning: it answers from the database, and commands wait in the outbox.
func (r *Runtime) lookAtBroker(ctx context.Context) []Check {
	topics := r.cfg.Topics.Names()
	if _, err := r.cfg.Broker.Topics(ctx, topics); err != nil {
		away := check("broker", err)
		if !r.cfg.Relay && len(r.present()) == 0 {
			away.State = CheckWarning
		}
		return []Check{away}
	}
	checks := []Check{check("broker", nil)}
	limited, err := r.cfg.Broker.LimitedRetention(ctx, topics)
	if err != nil {
		return append(checks, Check{"topics", CheckWarning, err.Error()})
	}
	if len(limited) == 0 {
		return append(checks, check("topics", nil))
	}
	for _, topic := range topics {
		if limits := limited[topic]; limits != "" {
			checks = append(checks, Check{"topic " + string(topic), CheckWarning, limits})
		}
	}
	return checks
}
