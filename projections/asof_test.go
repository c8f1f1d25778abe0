package projections_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/bollinger"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/projections/vwap"
	"github.com/pricemill/pricemill/schema"
)

// rowIDsOf are the row ids of records of the rig's log.
func rowIDsOf(t *rapid.T, db *store.Store, log []pipeline.Record) []int64 {
	var epoch int64
	require.NoError(t, db.Get(t.Context(), &epoch, `SELECT epoch FROM topics WHERE name = $1`, schema.PriceEvents))
	ids := make([]int64, len(log))
	for i, r := range log {
		id, err := rowid.Of(epoch, r.Partition, r.Offset, 0)
		require.NoError(t, err)
		ids[i] = id
	}
	return ids
}

// sharing are the quotes that the records of a partition are of.
func sharing(log []pipeline.Record, partition int32) (all []schema.Quote) {
	for _, r := range log {
		q := schema.Quote{}
		if p, isFact := schema.PriceOf(r.Event.Payload); isFact {
			q = schema.Quote{Provider: p.Source, Symbol: p.Symbol}
		} else if c, is := schema.CorrectionOf(r.Event.Payload); is {
			q = schema.Quote{Provider: c.Source, Symbol: c.Symbol}
		}
		if r.Partition == partition && !slices.Contains(all, q) {
			all = append(all, q)
		}
	}
	return all
}

// TestPricesAsOfAPlace: at every place of any log the prices are the final facts of the log up
// to there, page by page, also once the table is built again. The oracle is the list of those
// events alone.
func TestPricesAsOfAPlace(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	number := 0
	rapid.Check(t, func(t *rapid.T) {
		log := rig.Append(t, projectiontest.Events(projectiontest.Corrected(t, projectiontest.PricesAndBars(t))...)...)
		ids := rowIDsOf(t, rig.DB, log)
		p, err := moduleOf(processedprices.Name).New(pipeline.Env{})
		require.NoError(t, err)
		fold := func(atOnce bool) {
			number++
			g := pipeline.Generation{Projection: p.Name(), Number: number, Active: true}
			pipelinetest.CreateTables(t, rig.DB, p, g)
			defer pipelinetest.DropTables(t, rig.DB, p, g)
			stage := rig.Start(t, pipelinetest.FoldStage(p, g))
			defer stage.Close(t)
			if atOnce && len(log) > 0 {
				require.NoError(t, stage.Deliver(log...))
			} else {
				pipelinetest.DeliverInPieces(t, stage, log)
			}
			for i, record := range log {
				quotes := sharing(log[i:i+1], record.Partition)
				if i%5 == 4 { // the others of the partition as well
					quotes = sharing(log, record.Partition)
				}
				for _, q := range quotes {
					require.Equal(t, listedAt(log[:i+1], ids, record.Partition, q), listAsOf(t, rig.DB, q, ids[i]), "%s as of record %d", q.Key(), i)
				}
			}
		}
		fold(false)
		fold(true)
	})
}

// listedAt are the prices of a symbol after the records of a partition.
func listedAt(log []pipeline.Record, ids []int64, partition int32, q schema.Quote) []string {
	var events []schema.Event
	var at []int64 // of the facts among them
	for i, r := range log {
		if r.Partition == partition {
			events = append(events, r.Event)
			at = append(at, ids[i])
		}
	}
	type line struct {
		projections.Place
		text string
	}
	var lines []line
	for i, e := range events {
		if p, isFact := schema.PriceOf(e.Payload); !isFact || p.Symbol != q.Symbol || p.Source != q.Provider {
			continue
		}
		// The fact alone, with all that was said of it.
		said := []schema.Event{e}
		for _, other := range events {
			if _, is := schema.CorrectionOf(other.Payload); is {
				said = append(said, other)
			}
		}
		for _, final := range projectiontest.Final(said) {
			p, _ := schema.PriceOf(final)
			lines = append(lines, line{projections.Place{Timestamp: p.Timestamp, Sequence: p.Sequence, ID: at[i]}, fmt.Sprint(p.Price, p.Timestamp, p.Sequence, p.ReceivedAt)})
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return b.Compare(a.Place) })
	texts := []string{}
	for _, l := range lines {
		texts = append(texts, l.text)
	}
	return texts
}

// listAsOf are they as the read model has them, page by page.
func listAsOf(t *rapid.T, db *store.Store, of schema.Quote, asOf int64) []string {
	q := processedprices.Query{Provider: of.Provider, Symbol: of.Symbol, Behind: projections.Newest, Limit: 7, AsOf: asOf}
	texts := []string{}
	for {
		page, err := processedprices.Reader{DB: db}.Prices(t.Context(), q)
		require.NoError(t, err)
		for _, p := range page {
			q.Behind = p.Place()
			texts = append(texts, fmt.Sprint(p.Price, p.Timestamp, p.Sequence, p.ReceivedAt))
		}
		if len(page) < q.Limit {
			return texts
		}
	}
}

// TestReadsAsOfAPlaceAreWhatWasReadThen: what an average, an indicator or a candle was after some
// records, it is as of the last of them at the end of the log, and once the tables are built
// again.
func TestReadsAsOfAPlaceAreWhatWasReadThen(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(pipeline.Env) (pipeline.Projection, error){
		"ema": ema.New, "vwap": vwap.New, "bollinger": bollinger.New, "candles": candles.New, "averages": moduleOf(processedprices.Name).New,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			list, err := moduleOf(processedprices.Name).New(pipeline.Env{})
			require.NoError(t, err)
			number := 0
			rapid.Check(t, func(t *rapid.T) {
				draw := projectiontest.Prices
				if name == "candles" {
					draw = projectiontest.PricesAndBars
				}
				log := rig.Append(t, projectiontest.Events(projectiontest.Corrected(t, draw(t))...)...)
				ids := rowIDsOf(t, rig.DB, log)
				cuts := []int{len(log)}
				for range 3 {
					cuts = append(cuts, rapid.IntRange(1, len(log)).Draw(t, "cut"))
				}
				slices.Sort(cuts)
				want := map[int]map[string]any{}
				fold := func(again bool) {
					number++
					var folds []*pipelinetest.Stage
					listing := projectiontest.NewPriceList(t, rig)
					defer listing.Drop()
					all := []pipeline.Projection{list}
					if name != "averages" {
						p, err := build(pipeline.Env{})
						require.NoError(t, err)
						all = append(all, p)
					}
					for _, p := range all {
						g := pipeline.Generation{Projection: p.Name(), Number: number, Active: true}
						pipelinetest.CreateTables(t, rig.DB, p, g)
						defer pipelinetest.DropTables(t, rig.DB, p, g)
						stage := rig.Start(t, pipelinetest.FoldStage(p, g))
						defer stage.Close(t)
						folds = append(folds, stage)
					}
					read := func(q schema.Quote, asOf int64) any { return readAsOf(t, rig.DB, all[len(all)-1], q, asOf) }
					done := 0
					for _, cut := range cuts {
						if again {
							cut = len(log)
						}
						part := log[done:cut]
						if done = cut; len(part) == 0 {
							continue
						}
						require.NoError(t, listing.Deliver(part))
						for _, stage := range folds {
							require.NoError(t, stage.Deliver(part...))
						}
						if again {
							break
						}
						last := log[cut-1]
						want[cut] = map[string]any{}
						for _, q := range sharing(log, last.Partition) {
							want[cut][q.Key()] = read(q, 0)
						}
					}
					for cut, then := range want {
						for _, q := range sharing(log, log[cut-1].Partition) {
							require.Equal(t, then[q.Key()], read(q, ids[cut-1]), "%s as of record %d (-: what was read then)", q.Key(), cut-1)
						}
					}
				}
				fold(false)
				fold(true)
			})
		})
	}
}

// readAsOf is what is read of a symbol, page by page.
func readAsOf(t *rapid.T, db *store.Store, p pipeline.Projection, of schema.Quote, asOf int64) any {
	indicator, is := p.(projections.AsOfIndicator)
	if !is {
		points, err := movingaverages.NewReader(db).History(t.Context(), 3,
			processedprices.Query{Provider: of.Provider, Symbol: of.Symbol, Behind: projections.Newest, Limit: 1000, AsOf: asOf})
		require.NoError(t, err)
		return fmt.Sprint(points)
	}
	var all []projections.Point
	for _, chosen := range projectiontest.Choices(indicator.Indicator()) {
		parameters := map[string]string{}
		for _, known := range indicator.Indicator().Parameters {
			parameters[known.Name] = cmp.Or(chosen[known.Name], known.Default)
		}
		q := projections.IndicatorQuery{Provider: of.Provider, Symbol: of.Symbol, Parameters: parameters, Behind: projections.Newest, Limit: 11}
		for more := true; more; {
			var page []projections.Point
			var err error
			if asOf == 0 {
				page, err = indicator.Points(t.Context(), db, q)
			} else {
				page, err = indicator.PointsAsOf(t.Context(), db, q, asOf)
			}
			require.NoError(t, err)
			for _, point := range page {
				q.Behind = point.Place
			}
			all, more = append(all, page...), len(page) == q.Limit
		}
	}
	return all
}
