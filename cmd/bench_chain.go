package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// chainBench measures the chain from raw-quotes to the average.
type chainBench struct {
	*measurement
	rates   []int
	lasting time.Duration
}

func newBenchChain(a *app) *cobra.Command {
	var b chainBench
	c := &cobra.Command{
		Use:   "chain",
		Short: "Measure a price's path from raw-quotes to the committed average",
		Long: `Send --events answers of a stream to raw-quotes as fast as the log takes them,
and measure until the last average is committed: the headline. Its latencies are
those of an overload: nearly all of it is waiting in the log.

Then, for each --rate, send at that rate, and measure the time from when a tick
was due until its average is committed. The loop is open: a tick that is sent
late counts from when it was due.

The limit is the cost of storing the results alone: the same rows of
raw_market_data, processed_prices and moving_averages by the database's bulk
path into the same, empty tables, and the same records of raw-quotes,
stored-quotes and price-events by the same sender, concurrently. Nothing is
read, decoded, ordered or deduplicated.`,
		Example: "  pricemill bench chain\n  pricemill bench chain --events 500000 --rate 100,1000,5000 -o json",
	}
	c.Flags().IntSliceVar(&b.rates, "rate", []int{1000}, "`ticks` per second at which latencies are measured, comma-separated")
	c.Flags().DurationVar(&b.lasting, "for", 10*time.Second, "how long each rate is sustained")
	return benchCommand(a, c, 100_000, 1000, func(ctx context.Context, m *measurement) (report, error) {
		b.measurement = m
		return b.measure(ctx)
	})
}

// warmUp is how many ticks go through before anything counts.
const warmUp = 2000

func (b chainBench) measure(ctx context.Context) (report, error) {
	for _, rate := range b.rates {
		if err := errors.Join(within("--rate", rate, 1, 1_000_000), within("--for, in ms", int(b.lasting.Milliseconds()), 1, 3_600_000)); err != nil {
			return report{}, err
		}
	}
	var result report
	var left remains
	err := b.withScratch(ctx, func(ctx context.Context, c config) error {
		return b.withService(ctx, c, func(ctx context.Context, s *service) (err error) {
			if result, err = b.run(ctx, s); err != nil {
				return err
			}
			left, err = collect(ctx, s.backends, min(limitEvents, b.events))
			return err
		})
	})
	if err != nil {
		return report{}, err
	}
	limit, err := b.writeAgain(ctx, left)
	result.figures = result.against(limit)
	return result, err
}

func (b chainBench) run(ctx context.Context, s *service) (report, error) {
	i, err := newInjection(ctx, s, newTicks(b.symbols))
	if err != nil {
		return report{}, err
	}
	if _, _, err := i.flood(ctx, warmUp, b.bar("warming up", warmUp)); err != nil {
		return report{}, err
	}
	m := startMeter()
	each, took, err := i.flood(ctx, b.events, b.bar("as fast as can be", b.events))
	if err != nil {
		return report{}, err
	}
	// What it took counts for all stages, also those that no average follows from.
	if err := engine.CatchUp(ctx, s.backends.store, s.backends.broker, nil, nil); err != nil {
		return report{}, err
	}
	used := m.end(b.events)
	result := report{figures: figuresOf(b.events, took, each)}
	for _, rate := range b.rates {
		n := max(1, int(float64(rate)*b.lasting.Seconds()))
		each, took, err := i.steady(ctx, n, rate, b.bar(fmt.Sprintf("at %d/s", rate), n))
		if err != nil {
			return report{}, err
		}
		result.Also = append(result.Also, variant{fmt.Sprintf("at_%d_per_second", rate), figuresOf(n, took, each)})
	}
	result.Also = append(result.Also, variant{"process", used})
	return result, i.check(ctx)
}

// limitEvents bounds what the limit is measured by, since it is held in memory.
const limitEvents = 50_000

// remains are what a chain left behind, in pieces as large as its batches.
type remains struct {
	events  int
	rows    map[string][]store.Rows // by table
	records []log.PartitionBatch
}

// collect reads what is left of n ticks.
func collect(ctx context.Context, b *backends, n int) (remains, error) {
	left := remains{events: n, rows: map[string][]store.Rows{}}
	var windows int // each tick has as many averages
	if err := b.store.Get(ctx, &windows, `SELECT COUNT(DISTINCT window_size) FROM moving_averages`); err != nil {
		return remains{}, fmt.Errorf("counting windows: %w", err)
	}
	for table, limit := range map[string]int{"raw_market_data": n, "processed_prices": n, "moving_averages": n * windows} {
		err := b.store.Scan(ctx, table, limit, chunk, func(rows store.Rows) error {
			left.rows[table] = append(left.rows[table], rows)
			return nil
		})
		if err != nil {
			return remains{}, err
		}
	}
	for _, topic := range []schema.Topic{schema.RawQuotes, schema.StoredQuotes, schema.PriceEvents} {
		ranges, err := b.broker.Offsets(ctx, topic)
		if err != nil {
			return remains{}, err
		}
		var total int64
		for _, r := range ranges {
			total += r.End - r.Oldest
		}
		for partition, r := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(partition)}
			part := (r.End - r.Oldest) * min(int64(n), total) / max(1, total) // the same part of each
			if err := left.addRecords(ctx, b, tp, r.Oldest, r.Oldest+part); err != nil {
				return remains{}, err
			}
		}
	}
	return left, nil
}

func (left *remains) addRecords(ctx context.Context, b *backends, tp pipeline.TopicPartition, from, to int64) error {
	if from >= to {
		return nil
	}
	batch := log.PartitionBatch{TopicPartition: tp}
	err := b.broker.Read(ctx, tp, from, to, func(records []pipeline.Record) error {
		for _, r := range records {
			batch.Records = append(batch.Records, log.OutgoingRecord{Key: r.Key, Headers: r.Headers, Value: r.Value})
			if len(batch.Records) == chunk/2 { // well below the largest batch a broker takes
				left.records = append(left.records, batch)
				batch.Records = nil
			}
		}
		return nil
	})
	if len(batch.Records) > 0 {
		left.records = append(left.records, batch)
	}
	return err
}

// writeAgain writes what was left into empty tables and topics, by the fastest
// paths there are, and returns how many events a second that makes.
func (b chainBench) writeAgain(ctx context.Context, left remains) (perSecond float64, err error) {
	err = b.withScratch(ctx, func(ctx context.Context, c config) (err error) {
		backends, err := open(ctx, c, serving, b.log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, backends.close()) }()
		if _, err := backends.topics(ctx); err != nil {
			return err
		}
		modules, err := build(c, b.log)
		if err != nil {
			return err
		}
		if err := modules.openProjections(ctx, c, backends, b.log); err != nil {
			return err
		}
		bar := b.bar("the limit", -1)
		defer clearBar(bar)
		began := time.Now()
		err = left.write(ctx, backends)
		perSecond = float64(left.events) / time.Since(began).Seconds()
		return err
	})
	return perSecond, err
}

func (left remains) write(ctx context.Context, b *backends) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, pieces := range left.rows {
		group.Go(func() error {
			for _, rows := range pieces {
				if err := b.store.Write(ctx, func(tx *store.Tx) error { return tx.Insert(ctx, rows) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	// One after another in each partition, and the partitions side by side.
	group.Go(func() error { return errors.Join(b.broker.Send(ctx, left.records)...) })
	return group.Wait()
}
