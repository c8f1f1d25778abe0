package engine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/stretchr/testify/assert"
)

// runs is a runner that ends as each of its elements says.
type runs struct {
	ends []func() error
	end  context.CancelFunc
}

func (r *runs) Run(context.Context, pipeline.Emitter) error {
	if len(r.ends) == 0 {
		r.end()
		return nil
	}
	next := r.ends[0]
	r.ends = r.ends[1:]
	return next()
}

// A runner is started again however it ended, and only its own faults are errors.
func TestARunnerIsStartedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		runner := &runs{end: cancel, ends: []func() error{
			func() error { return context.DeadlineExceeded },
			func() error { return nil },
			func() error { panic("a slip") },
			func() error { return pipeline.Permanent(errors.New("a record")) },
		}}
		var log strings.Builder
		var last error
		keepRunning(ctx, runner, nil, slog.New(slog.NewTextHandler(&log, nil)), func(err error) { last = err })
		var levels []string
		for line := range strings.Lines(log.String()) {
			_, rest, _ := strings.Cut(line, "level=")
			level, _, _ := strings.Cut(rest, " ")
			levels = append(levels, level)
		}
		assert.Equal(t, []string{"WARN", "ERROR", "ERROR", "ERROR"}, levels)
		assert.NoError(t, last, "it runs")
	})
}
