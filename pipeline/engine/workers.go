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
// tell whether a stage runs anywhere. Where only one process can run stages, its
// announcements do not expire, so it writes nothing while it is idle: it takes them back
// when it stops, and if it died, anyone who finds that no process runs does.

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

// announceTimeout bounds how long a stop waits to take announcements back.
const announceTimeout = time.Second

// announce renews the leases of the stages of this process until ctx is done.
func (r *Runtime) announce(ctx context.Context) {
	if r.cfg.SoleWorker {
		if err := ForgetRunning(ctx, r.cfg.Store); err != nil {
			r.cfg.Log.Debug("taking back the announcements of a former process failed", "error", err)
		}
	}
	ticker := time.NewTicker(announcePoll)
	defer ticker.Stop()
	var announced []string
	var at time.Time
	defer func() {
		if r.cfg.SoleWorker && len(announced) > 0 {
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), announceTimeout)
			defer cancel()
			if err := r.cfg.Store.KeepLeases(ending, runningOwner, nil); err != nil {
				r.cfg.Log.Debug("taking back the announcements of this process failed", "error", err)
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		running := r.running()
		if slices.Equal(running, announced) && (r.cfg.SoleWorker || time.Since(at) < runningTime/3) || len(running) == 0 && !r.cfg.SoleWorker {
			continue
		}
		if err := r.announceNow(ctx, running); err != nil {
			r.cfg.Log.Debug("announcing the stages of this process failed", "error", err)
			continue
		}
		announced, at = running, time.Now()
	}
}

func (r *Runtime) announceNow(ctx context.Context, running []string) error {
	if r.cfg.SoleWorker {
		return r.cfg.Store.KeepLeases(ctx, runningOwner, running)
	}
	return r.cfg.Store.RenewLeases(ctx, runningOwner, running, runningTime)
}

// ForgetRunning takes back what a process announced that died. It is for callers that
// know that no process runs a stage, and keep others from beginning to.
func ForgetRunning(ctx context.Context, db *store.Store) error {
	running, err := RunningStages(ctx, db)
	if err != nil || len(running) == 0 {
		return err
	}
	return db.KeepLeases(ctx, runningOwner, nil)
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
