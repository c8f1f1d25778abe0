package cmd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// rebuildBench measures projections being built from the log.
type rebuildBench struct{ *measurement }

func newBenchRebuild(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "rebuild",
		Short: "Measure rebuilds of read models from the log",
		Long: `Write --events prices to the log, and build the moving averages with their whole
history from them: the headline. Then, under "also", the latest prices, which
have one row per symbol, and plain reading of the topic.

The limit is the database's bulk path with the same rows into the same tables,
from as many goroutines as there are processors.`,
		Example: "  pricemill bench rebuild\n  pricemill bench rebuild --events 1000000 --partitions 12 -o json",
	}
	return benchCommand(a, c, 200_000, 1000, func(ctx context.Context, m *measurement) (result report, err error) {
		b := rebuildBench{m}
		err = b.withScratch(ctx, func(ctx context.Context, c config) (err error) {
			backends, err := open(ctx, c, serving, b.log)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, backends.close()) }()
			result, err = b.measure(ctx, c, backends)
			return err
		})
		return result, err
	})
}

func (b rebuildBench) measure(ctx context.Context, c config, on *backends) (report, error) {
	topics, err := on.topics(ctx)
	if err != nil {
		return report{}, err
	}
	m, err := build(c, b.log)
	if err != nil {
		return report{}, err
	}
	if err := b.publish(ctx, c, on, m, topics); err != nil {
		return report{}, err
	}
	averages, err := m.projection(movingaverages.Name)
	if err != nil {
		return report{}, err
	}
	latest, err := m.projection(latestprices.Name)
	if err != nil {
		return report{}, err
	}
	meter := startMeter()
	history, built, err := b.fill(ctx, on, m, topics, averages)
	used := meter.end(b.events)
	if err != nil {
		return report{}, err
	}
	if err := b.check(ctx, on, built); err != nil {
		return report{}, err
	}
	limit, err := b.writeRows(ctx, on, averages, built)
	if err != nil {
		return report{}, err
	}
	only, _, err := b.fill(ctx, on, m, topics, latest)
	if err != nil {
		return report{}, err
	}
	bare, err := b.consume(ctx, on)
	return report{figures: history.against(limit),
		Also: variants{{"latest_only", only}, {"bare_consume", bare}, {"process", used}}}, err
}

// projection finds a projection by its name.
func (m *modules) projection(name string) (pipeline.Projection, error) {
	var known []string
	for _, p := range m.projections {
		if p.Name() == name {
			return p, nil
		}
		known = append(known, p.Name())
	}
	return nil, fmt.Errorf("%w: there is no projection %q in this binary; %s", errUsage, name, names.Hint(name, known))
}

// publish brings prices into the log as normalize does.
func (b rebuildBench) publish(ctx context.Context, c config, on *backends, m *modules, topics *topics.Set) error {
	relay, err := newRuntimeOf(ctx, c, on, topics, engine.Config{Registry: m.registry}, b.log)
	if err != nil {
		return err
	}
	bar := b.bar("publishing", b.events)
	defer clearBar(bar)
	return whileRunning(ctx, relay, func(ctx context.Context) error {
		ticks := newTicks(b.symbols)
		for ticks.made < b.events {
			n := min(chunk, b.events-ticks.made)
			_, err := relay.Emitter().Emit(ctx, func(*pipeline.Tx) ([]schema.Event, error) {
				events := make([]schema.Event, n)
				for i := range events {
					events[i] = ticks.price()
				}
				return events, nil
			})
			if err != nil {
				return err
			}
			_ = bar.Add(n) // it is only shown
		}
		return awaitSent(ctx, on.store)
	})
}

// price is next as normalize would read it.
func (t *ticks) price() schema.Event {
	event := t.next()
	quote := event.Payload.(schema.QuoteFetched)
	event.Payload = schema.PriceObserved{Symbol: quote.Symbol, Source: quote.Provider, ReceivedAt: quote.ReceivedAt,
		Price:     schema.MustDecimal(strconv.Itoa(1+t.random.IntN(1000)) + "." + strconv.Itoa(10+t.random.IntN(90))),
		Timestamp: t.timeOf(t.made), RawResponseID: strconv.Itoa(t.made)}
	return event
}

// awaitSent waits until the outbox is empty.
func awaitSent(ctx context.Context, db *store.Store) error {
	for {
		pending, err := db.Pending(ctx)
		if err != nil || len(pending) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// fill builds a projection from the log by the code that rebuilds one, and returns
// the generation that it built.
func (b rebuildBench) fill(ctx context.Context, on *backends, m *modules, topics *topics.Set, p pipeline.Projection) (
	figures, pipeline.Generation, error) {
	built := pipeline.Generation{Projection: p.Name()}
	if _, err := projections.Open(ctx, on.store, p); err != nil {
		return figures{}, built, err
	}
	rebuild, err := projections.NewRebuild(ctx, on.store, p, projections.Order{Promote: projections.PromoteManual})
	if err != nil {
		return figures{}, built, err
	}
	built.Number = rebuild.Generation
	bar := b.bar("building "+p.Name(), b.events)
	defer clearBar(bar)
	rebuilder := m.rebuilder(on, topics, b.log)
	rebuilder.Progress = func(n int) { _ = bar.Add(n) } // it is only shown
	began := time.Now()
	if err := rebuilder.Fill(ctx, rebuild.ID); err != nil {
		return figures{}, built, err
	}
	return figuresOf(b.events, time.Since(began), nil), built, nil
}

// check counts the averages: what loses or doubles some has no figures.
func (b rebuildBench) check(ctx context.Context, on *backends, built pipeline.Generation) error {
	var got int
	table := built.Table("moving_averages")
	err := on.store.Get(ctx, &got, `SELECT COUNT(*) FROM `+table+` WHERE window_size = (SELECT MIN(window_size) FROM `+table+`)`)
	if err == nil && got != b.events {
		err = fmt.Errorf("there are %d averages of %d prices", got, b.events)
	}
	return err
}

// writeRows writes the rows of a generation into tables of the same kind, and
// returns how many events a second that makes. Only the writing counts.
func (b rebuildBench) writeRows(ctx context.Context, on *backends, p pipeline.Projection, from pipeline.Generation) (perSecond float64, err error) {
	to := pipeline.Generation{Projection: p.Name(), Number: from.Number + 1}
	if err := on.store.Write(ctx, func(tx *store.Tx) error {
		for _, ddl := range p.Tables(to) {
			if err := tx.DDL(ctx, ddl); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, fmt.Errorf("creating tables: %w", err)
	}
	bar := b.bar("the limit", -1)
	defer clearBar(bar)
	var took time.Duration
	for _, table := range p.TableNames() {
		var held []store.Rows
		write := func() error {
			began := time.Now()
			err := writeSideBySide(ctx, on.store, held)
			took += time.Since(began)
			held = nil
			return err
		}
		err := on.store.Scan(ctx, from.Table(table), b.events*1000, chunk, func(rows store.Rows) error {
			rows.Table = to.Table(table)
			held = append(held, rows)
			_ = bar.Add(rows.Len()) // it is only shown
			if len(held) < limitEvents/chunk {
				return nil
			}
			return write()
		})
		if err = errors.Join(err, write()); err != nil {
			return 0, err
		}
	}
	return float64(b.events) / took.Seconds(), nil
}

func writeSideBySide(ctx context.Context, db *store.Store, pieces []store.Rows) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, rows := range pieces {
		group.Go(func() error {
			return db.Write(ctx, func(tx *store.Tx) error { return tx.Insert(ctx, rows) })
		})
	}
	return group.Wait()
}

// consume reads the prices, all partitions side by side, and does nothing with
// them.
func (b rebuildBench) consume(ctx context.Context, on *backends) (figures, error) {
	ranges, err := on.broker.Offsets(ctx, schema.PriceEvents)
	if err != nil {
		return figures{}, err
	}
	bar := b.bar("reading", b.events)
	defer clearBar(bar)
	var read atomic.Int64
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for partition, r := range ranges {
		if r.Oldest == r.End {
			continue
		}
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: int32(partition)}
		group.Go(func() error {
			return on.broker.Read(ctx, tp, r.Oldest, r.End, func(records []pipeline.Record) error {
				read.Add(int64(len(records)))
				_ = bar.Add(len(records)) // it is only shown
				return nil
			})
		})
	}
	err = group.Wait()
	return figuresOf(int(read.Load()), time.Since(began), nil), err
}
