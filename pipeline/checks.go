package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

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

// Checks reports the relay, each stage of this process, every halt in the
// database, the broker, and topics that do not keep their records.
func (r *Runtime) Checks(ctx context.Context) []Check {
	// Beside the database, so that an answer need not wait for one after the other
	// where both are away.
	broker := make(chan []Check, 1)
	go func() { broker <- r.checkBroker(ctx) }()
	var checks []Check
	if r.cfg.Relay {
		checks = append(checks, check("relay", r.relay.Trouble()))
	}
	spare := r.spare(ctx)
	for _, stage := range r.present() {
		checks = append(checks, spare.check("stage "+stage.spec.Name, stage.spec.Name, stage.Trouble()))
	}
	for _, s := range r.sources {
		checks = append(checks, check("source "+s.spec.Name, s.trouble()))
	}
	positions, err := store.Positions(ctx, r.cfg.Store, "")
	checks = append(checks, check("database", err))
	for _, p := range positions {
		if p.Halted != "" {
			checks = append(checks, spare.check(fmt.Sprintf("stage %s on %s/%d", p.Stage, p.Topic, p.Part), p.Stage,
				errors.New("halted: "+p.Halted)))
		}
	}
	return append(checks, <-broker...)
}

func check(name string, err error) Check {
	if err != nil {
		return Check{name, CheckFailed, err.Error()}
	}
	return Check{Name: name, State: CheckOK}
}

// spares are the names of the stages that no reader depends on.
type spares []string

// spare asks; where nobody can tell, there are none.
func (r *Runtime) spare(ctx context.Context) spares {
	if r.cfg.Spare == nil {
		return nil
	}
	names, err := r.cfg.Spare(ctx)
	if err != nil {
		return nil // the check of the database says so
	}
	return names
}

func (s spares) check(name, stage string, err error) Check {
	c := check(name, err)
	if c.State == CheckFailed && slices.Contains(s, stage) {
		c.State = CheckWarning
	}
	return c
}

// brokerTimeout leaves a caller that waits for all checks the time to answer.
const brokerTimeout = time.Second

// checkBroker looks at the broker, once for all who ask at the same time: to one
// that hangs, looks would pile up.
func (r *Runtime) checkBroker(ctx context.Context) []Check {
	checks, _, _ := r.looks.Do("broker", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTimeout)
		defer cancel()
		return r.lookAtBroker(ctx), nil
	})
	return checks.([]Check)
}

// lookAtBroker asks each time: an operator may change a topic at any time. To a
// process that does no more than answer requests, a broker that is away is but a
// warning: it answers from the database, and commands wait in the outbox.
func (r *Runtime) lookAtBroker(ctx context.Context) []Check {
	topics := r.cfg.Topology.names
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
