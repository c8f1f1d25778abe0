package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/schema"
)

// routers are the routers of a runtime: one for the stages that it was made with, and
// one for each that came since, so that each of these can go alone.
type routers struct {
	runtime  *Runtime
	applying context.Context
	ctx      context.Context // done as soon as a router fails
	group    *errgroup.Group

	mu sync.Mutex
	// ready are closed once routers have subscribed.
	ready   []<-chan struct{}
	running map[string]dynamicStage // by stage
}

// dynamicStage is a stage that came while the runtime ran.
type dynamicStage struct {
	stage   *Stage
	stop    context.CancelFunc
	stopped chan struct{}
}

// changePoll is how soon a process sees that a stage came or goes.
const changePoll = 500 * time.Millisecond

func newRouters(ctx context.Context, r *Runtime, applying context.Context) *routers {
	group, ctx := errgroup.WithContext(ctx)
	return &routers{runtime: r, applying: applying, ctx: ctx, group: group, running: map[string]dynamicStage{}}
}

// start runs stages under a router of their own until all of them end.
func (c *routers) start(stages ...*Stage) {
	if len(stages) == 0 {
		return
	}
	c.run(c.ctx, stages, func() {})
}

func (c *routers) run(ctx context.Context, stages []*Stage, end func()) {
	ready := make(chan struct{})
	c.mu.Lock()
	c.ready = append(c.ready, ready)
	c.mu.Unlock()
	c.group.Go(func() error {
		defer end()
		return c.runtime.runStages(ctx, c.applying, stages, sync.OnceFunc(func() { close(ready) }))
	})
}

// subscribed waits until all routers that were started by now have subscribed.
func (c *routers) subscribed(ctx context.Context) bool {
	c.mu.Lock()
	ready := slices.Clone(c.ready)
	c.mu.Unlock()
	for _, one := range ready {
		select {
		case <-one:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// wait returns once all routers have ended.
func (c *routers) wait() error { return c.group.Wait() }

// keepChanging has stages come and go until ctx is done.
func (c *routers) keepChanging(ctx context.Context) {
	ticker := time.NewTicker(changePoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := c.change(ctx); err != nil && ctx.Err() == nil {
			c.runtime.cfg.Log.Debug("looking which stages run failed", "error", err)
		}
	}
}

// change looks once which stages run now. One that goes finishes its batch.
func (c *routers) change(ctx context.Context) error {
	wanted, err := c.runtime.cfg.Changing(ctx)
	if err != nil {
		return err
	}
	for _, spec := range wanted {
		if _, here := c.running[spec.Name]; here {
			continue
		}
		if err := checkStages([]StageSpec{spec}); err != nil {
			return err
		}
		c.add(spec)
	}
	for name, m := range c.running {
		if !slices.ContainsFunc(wanted, func(s StageSpec) bool { return s.Name == name }) {
			c.remove(ctx, name, m)
		}
	}
	return nil
}

func (c *routers) add(spec StageSpec) {
	r := c.runtime
	r.cfg.Log.Info("stage started", "stage", spec.Name)
	ctx, leave := context.WithCancel(c.ctx)
	m := dynamicStage{r.newStage(spec), leave, make(chan struct{})}
	c.running[spec.Name] = m
	r.mu.Lock()
	r.stages = append(r.stages, m.stage)
	r.mu.Unlock()
	c.run(ctx, []*Stage{m.stage}, func() { leave(); close(m.stopped) })
}

func (c *routers) remove(ctx context.Context, name string, m dynamicStage) {
	r := c.runtime
	r.cfg.Log.Info("stage ended", "stage", name)
	delete(c.running, name)
	m.stop()
	select {
	case <-m.stopped:
	case <-ctx.Done():
	}
	r.mu.Lock()
	r.stages = slices.DeleteFunc(r.stages, func(s *Stage) bool { return s == m.stage })
	r.mu.Unlock()
	r.metrics.forget(name)
}

// checkStages reports stages of one name, and inputs that no event type
// supplies.
func checkStages(stages []StageSpec) error {
	var errs []error
	names := map[string]bool{}
	for _, s := range stages {
		if names[s.Name] {
			errs = append(errs, fmt.Errorf("two stages are named %q", s.Name))
		}
		names[s.Name] = true
		if len(s.Consumes) == 0 {
			errs = append(errs, fmt.Errorf("stage %q consumes no events", s.Name))
		}
		for _, t := range append(slices.Clone(s.Consumes), s.Produces...) {
			if _, known := schema.TopicOf(t); !known {
				errs = append(errs, fmt.Errorf("stage %q speaks of event %q, which no package registers", s.Name, t))
			}
		}
	}
	return errors.Join(errs...)
}
