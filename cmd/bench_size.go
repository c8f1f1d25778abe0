package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newBenchMemory(a *app) *cobra.Command {
	var rate int
	c := &cobra.Command{
		Use:   "memory",
		Short: "Measure memory use with many symbols",
		Long: `Send a tick of each symbol through the pipeline, --rate per second: also.steady.
Then send --events ticks as fast as the log takes them, so that the stages have
a backlog: the headline. peak_rss_mb is the peak memory of this process, of the
first part under also.steady_process, of the second under also.process. The
process has all roles: API, handlers, projections and relay.`,
		Example: "  pricemill bench memory\n  MOVING_AVERAGE_WINDOW=5,200 pricemill bench memory --symbols 10000 --rate 500",
	}
	c.Flags().IntVar(&rate, "rate", 1000, "`ticks` per second of the first part")
	return benchCommand(a, c, 500_000, 100_000, func(ctx context.Context, m *measurement) (result report, err error) {
		if err := within("--rate", rate, 1, 1_000_000); err != nil {
			return report{}, err
		}
		err = m.withScratch(ctx, func(ctx context.Context, c config) error {
			return m.withService(ctx, c, func(ctx context.Context, s *service) error {
				result, err = m.memory(ctx, s, rate)
				return err
			})
		})
		return result, err
	})
}

func (m *measurement) memory(ctx context.Context, s *service, rate int) (report, error) {
	i, err := newInjection(ctx, s, newTicks(m.symbols))
	if err != nil {
		return report{}, err
	}
	// The steady part first: what a backlog takes from the system, Go is slow to
	// give back.
	meter := startMeter()
	each, took, err := i.steady(ctx, m.symbols, rate, m.bar(fmt.Sprintf("at %d/s", rate), m.symbols))
	used := meter.end(m.symbols)
	if err != nil {
		return report{}, err
	}
	also := variants{{"steady", figuresOf(m.symbols, took, each)}, {"steady_process", used}}
	meter = startMeter()
	each, took, err = i.flood(ctx, m.events, m.bar("as fast as can be", m.events))
	if err == nil {
		err = i.check(ctx)
	}
	used = meter.end(m.events)
	return report{figures: figuresOf(m.events, took, each), Also: append(also, variant{"process", used})}, err
}

func newBenchStart(a *app) *cobra.Command {
	var starts int
	c := &cobra.Command{
		Use:   "start",
		Short: "Measure the start of a service that has history",
		Long: `Send --events ticks through the pipeline and stop; then start --starts times,
each time until /readyz is 200. The latencies are those of the starts, seconds
is their sum, and events_per_second the number of events divided by the mean
start time.`,
		Example: "  pricemill bench start --events 1000000",
	}
	c.Flags().IntVar(&starts, "starts", 3, "number of `starts`")
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
