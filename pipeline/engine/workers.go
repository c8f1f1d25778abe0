package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Each process announces the stages that it consumes for, by leases that all
// processes of a stage share. So any process, also one with the role api alone, can
// tell whether a stage runs anywhere.

const (
	// runningPrefix begins the names of these leases.
	runningPrefix = "running/"
	// runningOwner is their common owner: the lease lasts as long as any process
	// renews it.
	runningOwner = "any"
	// runningTime is how long a stage counts as running after its last process died
	// or stopped.
	runningTime = 10 * time.Second
	// announcePoll is how soon a stage is announced that has begun to consume.
	announcePoll = 500 * time.Millisecond
)

// announce renews the leases of the stages of this process until ctx is done.
func (r *Runtime) announce(ctx context.Context) {
	ticker := time.NewTicker(announcePoll)
	defer ticker.Stop()
	var announced []string
	var at time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		running := r.running()
		if len(running) == 0 || slices.Equal(running, announced) && time.Since(at) < runningTime/3 {
			continue
		}
		if err := r.cfg.Store.RenewLeases(ctx, runningOwner, running, runningTime); err != nil {
			r.cfg.Log.Debug("announcing the stages of this process failed", "error", err)
			continue
		}
		announced, at = running, time.Now()
	}
}

// running are the leases of the stages that have joined their group.
func (r *Runtime) running() []string {
	var names []string
	for _, stage := range r.present() {
		if stage.consumes() {
			names = append(names, runningPrefix+stage.spec.Name)
		}
	}
	slices.Sort(names)
	return names
}

// RunningStages are the names of the stages that some process consumes for, or did
// within the last ten seconds.
func RunningStages(ctx context.Context, q store.Querier) ([]string, error) {
	held, err := store.HeldLeases(ctx, q)
	var names []string
	for _, lease := range held {
		if name, ok := strings.CutPrefix(lease, runningPrefix); ok {
			names = append(names, name)
		}
	}
	return names, err
}

// checkWorkers warns of what no process does. It is silent where this process does
// all of it.
func (r *Runtime) checkWorkers(ctx context.Context, own ownStages) []Check {
	var elsewhere []string
	for _, stage := range own.serving {
		if !slices.Contains(own.here, stage) {
			elsewhere = append(elsewhere, stage)
		}
	}
	relayed := r.cfg.Relay || r.cfg.Topics.InDatabase() != nil
	if relayed && len(elsewhere) == 0 {
		return nil
	}
	held, err := store.HeldLeases(ctx, r.cfg.Store)
	if err != nil {
		return []Check{{"workers", CheckWarning, err.Error()}}
	}
	var missing []string
	for _, stage := range elsewhere {
		if !slices.Contains(held, runningPrefix+stage) {
			missing = append(missing, "stage "+stage)
		}
	}
	if !relayed && !slices.Contains(held, outbox.LeaseName) {
		missing = append(missing, "the relay")
	}
	if len(missing) == 0 {
		return []Check{{Name: "workers", State: CheckOK}}
	}
	return []Check{{"workers", CheckWarning, fmt.Sprintf("no process runs %s: events wait, and so do requests that need them; start a process with these roles",
		strings.Join(missing, ", "))}}
}

// consumes reports whether the stage is a member of its group, with or without
// partitions.
func (s *Stage) consumes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session != nil
}
