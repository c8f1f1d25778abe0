package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newBenchMemory(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "memory",
		Short: "Measure the memory of a process that keeps averages of many symbols",
		Long: `Send --events ticks through the chain, the first of them one of each symbol, and
report the most memory this process had meanwhile, as peak_rss_mb under
also.process. It does all that a process can do: API, handlers, projections, relay,
and, on the embedded default, broker and database too.`,
		Example: "  pricemill bench memory\n  MOVING_AVERAGE_WINDOW=5,200 pricemill bench memory --symbols 10000",
	}
	return benchCommand(a, c, 500_000, 100_000, func(ctx context.Context, m *measurement) (result report, err error) {
		err = m.withScratch(ctx, func(ctx context.Context, c config) error {
			meter := startMeter()
			defer func() { result.Also = variants{{"process", meter.end(m.events)}} }()
			return m.withService(ctx, c, func(ctx context.Context, s *service) error {
				each, took, err := m.fill(ctx, s, m.events)
				result.figures = figuresOf(m.events, took, each)
				return err
			})
		})
		return result, err
	})
}

func newBenchStart(a *app) *cobra.Command {
	var starts int
	c := &cobra.Command{
		Use:   "start",
		Short: "Measure a start with history behind it",
		Long: `Send --events ticks through the chain and stop; then start --starts times, each
time until /readyz says yes. The latencies are those of the starts, seconds is the
time of all of them, and events_per_second the events behind each start by its mean
time.`,
		Example: "  pricemill bench start --events 1000000",
	}
	c.Flags().IntVar(&starts, "starts", 3, "how many starts are measured")
	return benchCommand(a, c, 100_000, 1000, func(ctx context.Context, m *measurement) (result report, err error) {
		if err := within("--starts", starts, 1, 1000); err != nil {
			return report{}, err
		}
		err = m.withScratch(ctx, func(ctx context.Context, c config) error {
			err := m.withService(ctx, c, func(ctx context.Context, s *service) error {
				_, _, err := m.fill(ctx, s, m.events)
				return err
			})
			if err != nil {
				return err
			}
			bar := m.bar("starting", starts)
			defer clearBar(bar)
			var each []time.Duration
			var total time.Duration
			for range starts {
				began := time.Now()
				if err := m.withService(ctx, c, func(context.Context, *service) error {
					each = append(each, time.Since(began))
					return nil
				}); err != nil {
					return fmt.Errorf("starting: %w", err)
				}
				total += each[len(each)-1]
				_ = bar.Add(1) // it is only shown
			}
			result.figures = figuresOf(m.events*starts, total, each)
			result.Events = m.events
			return nil
		})
		return result, err
	})
}
