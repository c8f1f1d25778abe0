package pipeline

import (
	"context"
	"errors"
	"fmt"
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
// database, and topics that do not keep their records.
func (r *Runtime) Checks(ctx context.Context) []Check {
	var checks []Check
	if r.cfg.Relay {
		checks = append(checks, check("relay", r.relay.Trouble()))
	}
	for _, stage := range r.stages {
		checks = append(checks, check("stage "+stage.spec.Name, stage.Trouble()))
	}
	for _, s := range r.sources {
		checks = append(checks, check("source "+s.spec.Name, s.trouble()))
	}
	positions, err := store.Positions(ctx, r.cfg.Store, "")
	checks = append(checks, check("database", err))
	for _, p := range positions {
		if p.Halted != "" {
			checks = append(checks, check(fmt.Sprintf("stage %s on %s/%d", p.Stage, p.Topic, p.Part),
				errors.New("halted: "+p.Halted)))
		}
	}
	return append(checks, r.checkTopics(ctx)...)
}

func check(name string, err error) Check {
	if err != nil {
		return Check{name, CheckFailed, err.Error()}
	}
	return Check{Name: name, State: CheckOK}
}

// topicsTimeout leaves a caller that waits for all checks the time to answer.
const topicsTimeout = time.Second

// checkTopics asks the broker each time: an operator may change a topic at any
// time. A broker that does not answer is but a warning, since what is read from
// the database is served without it.
func (r *Runtime) checkTopics(ctx context.Context) []Check {
	ctx, cancel := context.WithTimeout(ctx, topicsTimeout)
	defer cancel()
	topics := r.cfg.Topology.names
	limited, err := r.cfg.Broker.LimitedRetention(ctx, topics)
	if err != nil {
		return []Check{{"topics", CheckWarning, err.Error()}}
	}
	if len(limited) == 0 {
		return []Check{check("topics", nil)}
	}
	var checks []Check
	for _, topic := range topics {
		if limits := limited[topic]; limits != "" {
			checks = append(checks, Check{"topic " + string(topic), CheckWarning, limits})
		}
	}
	return checks
}
