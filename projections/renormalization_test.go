package projections_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

// readModels are some that fold prices, the list of prices first.
func readModels(t testing.TB) []pipeline.Projection {
	var all []pipeline.Projection
	for _, name := range []string{processedprices.Name, latestprices.Name, movingaverages.Name, candles.Name} {
		env := pipeline.Env{}
		if name == movingaverages.Name {
			env.Settings = map[string]any{"windows": []int{3}}
		}
		p, err := moduleOf(name).New(env)
		require.NoError(t, err)
		all = append(all, p)
	}
	return all
}

// appendEvents appends events to a ledger as the log would.
func (l *ledger) appendEvents(t testing.TB, events ...schema.Event) {
	for _, e := range events {
		key := []byte(e.Payload.Key())
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partitionOf(key, ledgerPartitions)}
		headers, value, err := e.Encode()
		require.NoError(t, err)
		l.log[tp] = append(l.log[tp], pipeline.Record{TopicPartition: tp, TopicID: "id of " + string(tp.Topic),
			Offset: int64(len(l.log[tp])), Key: key, Headers: headers, Value: value})
	}
}

// world is a database with a log.
type world struct {
	t      *testing.T
	db     *store.Store
	ledger *ledger
	topics *topics.Set
	all    []pipeline.Projection
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: pipelinetest.OpenStore(t, filepath.Join(t.TempDir(), "db")), all: readModels(t),
		ledger: &ledger{log: map[pipeline.TopicPartition][]pipeline.Record{}, oldest: map[pipeline.TopicPartition]int64{}}}
	var err error
	w.topics, err = topics.New(t.Context(), w.db, w.ledger, schema.Topics(), partitionOf)
	require.NoError(t, err)
	for _, p := range w.all {
		_, err := projections.Open(t.Context(), w.db, p)
		require.NoError(t, err)
	}
	return w
}

// follow has every generation apply the log.
func (w *world) follow() {
	stages, err := projections.RunnableStages(w.t.Context(), w.db, w.all)
	require.NoError(w.t, err)
	for _, list := range []bool{true, false} { // which the others read
		for _, stage := range stages {
			if (len(stage.Name) > 16 && stage.Name[:16] == processedprices.Name) != list {
				continue
			}
			targets := map[pipeline.TopicPartition]int64{}
			for _, topic := range stage.Topics() {
				ranges, err := w.ledger.Offsets(w.t.Context(), topic)
				require.NoError(w.t, err)
				for i, r := range ranges {
					targets[pipeline.TopicPartition{Topic: topic, Partition: int32(i)}] = r.End
				}
			}
			require.NoError(w.t, engine.NewFill(engine.FillConfig{Store: w.db, Broker: w.ledger, Topics: w.topics, Stage: stage, Log: quiet}).To(w.t.Context(), targets), stage.Name)
		}
	}
}

// requireEqual compares what serves in two worlds, row by row.
func requireEqual(t *testing.T, is, want *world, what string) {
	live, err := is.db.Snapshot(t.Context())
	require.NoError(t, err)
	defer live.Close()
	fresh, err := want.db.Snapshot(t.Context())
	require.NoError(t, err)
	defer fresh.Close()
	for _, p := range is.all {
		g := pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}
		for _, table := range p.TableNames() {
			proof, err := projections.Prove(t.Context(), live, fresh, table, "", g, g, 5)
			require.NoError(t, err)
			require.Empty(t, proof.First, "%s: by the log means as if the answers had been read right at first", what)
			require.Equal(t, proof.FreshHash, proof.Hash, "%s: %s", what, table)
		}
	}
}

// TestARenormalizationIsAsIfReadRightAtFirst: whatever was misread, withdrawn or missing,
// with corrections and late prices between, every row is as if the log had said so at first;
// and as it was after a rollback.
func TestARenormalizationIsAsIfReadRightAtFirst(t *testing.T) {
	t.Parallel()
	draw := rapid.Custom(func(t *rapid.T) []schema.Event {
		return projectiontest.Events(projectiontest.Corrected(t, projectiontest.PricesAndBars(t))...)
	})
	seed := rand.IntN(1 << 30)
	t.Logf("seed %d", seed)
	for run := range 12 {
		right := draw.Example(seed + run)
		luck := rand.New(rand.NewPCG(uint64(seed), uint64(run)))
		is, want, was := newWorld(t), newWorld(t), newWorld(t)
		reading, err := projections.Reread(t.Context(), is.db, is.all, "", "a test")
		require.NoError(t, err)
		nothing := func(id string, fact schema.Event) schema.Event {
			return schema.Event{ID: id, Source: "test", Payload: added("renormalization_none", fact.Payload)}
		}
		var revised []projections.RevisedPrice
		for i, e := range right {
			price, isFact := schema.PriceOf(e.Payload)
			misread, truth := e, e
			revise := projections.RevisedPrice{EventID: e.ID, Payload: e.Payload}
			switch n := luck.IntN(8); {
			case !isFact || n > 3:
				revise.EventID = ""
			case n == 0: // another price
				misread.Payload = other(e.Payload, price)
			case n == 1: // another time
				price.Timestamp, price.Sequence = price.Timestamp.Add(-1e9), 0
				misread.Payload = price
			case n == 2: // none
				truth = nothing("none-"+e.ID, e)
				revise.Payload = nil
			case n == 3: // that was not read
				misread.Payload = added(reading.ID, e.Payload)
				revise.Payload = misread.Payload
			}
			key := []byte(misread.Payload.Key())
			tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partitionOf(key, ledgerPartitions)}
			is.ledger.appendEvents(t, misread)
			want.ledger.appendEvents(t, truth)
			was.ledger.appendEvents(t, misread)
			if revise.EventID != "" {
				topic, _ := is.topics.Topic(tp.Topic)
				record := is.ledger.log[tp][len(is.ledger.log[tp])-1]
				record.Locate(topic)
				revise.RecordID, err = record.RowID(0)
				require.NoError(t, err)
				revised = append(revised, revise)
			}
			if i == len(right)/2 { // the rest comes while it serves
				for _, w := range []*world{is, want, was} {
					w.follow()
				}
			}
		}
		is.follow()
		want.follow()
		was.follow()
		requireEqual(t, is, was, "before")
		if len(revised) == 0 {
			require.NoError(t, reading.Fail(t.Context(), errors.New("nothing was misread")))
			continue
		}
		require.NoError(t, reading.Revise(t.Context(), revised))
		require.NoError(t, reading.Build(t.Context(), is.all, int64(len(right)), 0, 0))
		n, err := projections.GetRenormalization(t.Context(), is.db, reading.ID)
		require.NoError(t, err)
		require.Equal(t, projections.RenormalizationBuilding, n.State)
		require.ErrorIs(t, projections.PromoteRenormalization(t.Context(), is.db, is.all, n.ID), projections.ErrRebuildState)
		rebuilder := &projections.Rebuilder{CompareConfig: projections.CompareConfig{Store: is.db, Broker: is.ledger, Topics: is.topics, Log: quiet, Most: 20},
			Projections: is.all, Alone: true}
		for _, part := range n.Rebuilds {
			_, err := rebuilder.Work(t.Context(), part.ID)
			require.NoError(t, err)
			require.ErrorIs(t, projections.PromoteRebuild(t.Context(), is.db, is.all, part.ID, false), projections.ErrPart)
			require.ErrorIs(t, projections.CancelRebuild(t.Context(), is.db, is.all, part.ID), projections.ErrPart)
		}
		for range 2 {
			require.NoError(t, projections.PromoteRenormalization(t.Context(), is.db, is.all, n.ID))
			requireEqual(t, is, want, "promoted")
			require.NoError(t, projections.RollBackRenormalization(t.Context(), is.db, is.all, n.ID))
			requireEqual(t, is, was, "rolled back")
		}
	}
}

// added is the event of a price that a renormalization adds.
func added(renormalization string, fact schema.Payload) schema.PriceAdded {
	switch p := fact.(type) {
	case schema.BarObserved:
		return schema.PriceAdded{RenormalizationID: renormalization, Bar: &p}
	case schema.PriceObserved:
		return schema.PriceAdded{RenormalizationID: renormalization, Price: &p}
	}
	return schema.PriceAdded{}
}

// other is a fact of another price.
func other(fact schema.Payload, price schema.PriceObserved) schema.Payload {
	price.Price = schema.MustDecimal("3.25")
	if b, isBar := fact.(schema.BarObserved); isBar {
		b.Price, b.Open, b.High, b.Low, b.Close = price.Price, price.Price, price.Price, price.Price, price.Price
		return b
	}
	return price
}

// TestAPriceThatIsNotNamedIsNotServed: where the list of prices differs in a price that the
// renormalization does not name, it does not serve.
func TestAPriceThatIsNotNamedIsNotServed(t *testing.T) {
	t.Parallel()
	for _, changed := range []bool{false, true} {
		w := newWorld(t)
		at := schema.NewTime(time.Unix(1_700_000_000, 0))
		for i := range 20 {
			w.ledger.appendEvents(t, schema.Event{ID: fmt.Sprint("fact-", i), Source: "test", Payload: schema.PriceObserved{Symbol: "A", Source: "p",
				Price: schema.MustDecimal("1"), Timestamp: at.Add(1e9), ReceivedAt: at}})
		}
		w.follow()
		reading, err := projections.Reread(t.Context(), w.db, w.all, "p", "a test")
		require.NoError(t, err)
		_, err = projections.Reread(t.Context(), w.db, w.all, "p", "at once")
		require.Error(t, err)
		var ids []int64
		require.NoError(t, w.db.Select(t.Context(), &ids, `SELECT id FROM processed_prices ORDER BY id`))
		require.NoError(t, reading.Revise(t.Context(), []projections.RevisedPrice{{EventID: "fact-3", RecordID: ids[3]}}))
		require.NoError(t, reading.Build(t.Context(), w.all, 20, 0, 0))
		if changed {
			require.NoError(t, w.db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE processed_prices SET price = '7' WHERE id = $1`, ids[5])
				return err
			}))
		}
		n, err := projections.GetRenormalization(t.Context(), w.db, reading.ID)
		require.NoError(t, err)
		rebuilder := &projections.Rebuilder{CompareConfig: projections.CompareConfig{Store: w.db, Broker: w.ledger, Topics: w.topics, Log: quiet, Most: 20},
			Projections: w.all, Alone: true}
		for _, part := range n.Rebuilds {
			_, err := rebuilder.Work(t.Context(), part.ID)
			require.NoError(t, err)
		}
		err = projections.PromoteRenormalization(t.Context(), w.db, w.all, n.ID)
		if !changed {
			require.NoError(t, err)
			require.NoError(t, projections.RollBackRenormalization(t.Context(), w.db, w.all, n.ID))
			require.NoError(t, projections.CancelRenormalization(t.Context(), w.db, w.all, n.ID))
			continue
		}
		require.ErrorIs(t, err, projections.ErrUnexplained)
		require.NoError(t, projections.CancelRenormalization(t.Context(), w.db, w.all, n.ID))
		assert.Equal(t, 0, count(t, w.db, `SELECT COUNT(*) FROM revised_prices`))
		assert.Equal(t, 4, count(t, w.db, `SELECT COUNT(*) FROM generations`))
	}
}

// TestARenormalizationIsOneWhole: what it builds is not dropped, rebuilt, or rolled back to with
// other settings, and what is in its way is said before anything is read.
func TestARenormalizationIsOneWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := schema.NewTime(time.Unix(1_700_000_000, 0))
	w.ledger.appendEvents(t, schema.Event{ID: "fact", Source: "test", Payload: schema.PriceObserved{Symbol: "A", Source: "p",
		Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at}})
	w.follow()
	list := w.all[0]
	alone, err := projections.NewRebuild(t.Context(), w.db, list, manual)
	require.NoError(t, err)
	_, err = projections.Reread(t.Context(), w.db, w.all, "", "a rebuild is open")
	require.ErrorIs(t, err, projections.ErrRebuilding)
	require.NoError(t, projections.CancelRebuild(t.Context(), w.db, w.all, alone.ID))

	reading, err := projections.Reread(t.Context(), w.db, w.all, "", "a test")
	require.NoError(t, err)
	var id int64
	require.NoError(t, w.db.Get(t.Context(), &id, `SELECT id FROM processed_prices`))
	require.NoError(t, reading.Revise(t.Context(), []projections.RevisedPrice{{EventID: "fact", RecordID: id}}))
	require.NoError(t, reading.Build(t.Context(), w.all, 1, 0, 0))
	n, err := projections.GetRenormalization(t.Context(), w.db, reading.ID)
	require.NoError(t, err)
	require.Len(t, n.Rebuilds, len(w.all))
	rebuilder := &projections.Rebuilder{CompareConfig: projections.CompareConfig{Store: w.db, Broker: w.ledger, Topics: w.topics, Log: quiet, Most: 20},
		Projections: w.all, Alone: true}
	for _, part := range n.Rebuilds {
		_, err := rebuilder.Work(t.Context(), part.ID)
		require.NoError(t, err)
	}
	require.ErrorIs(t, projections.DropGeneration(t.Context(), w.db, list, n.Rebuilds[0].Generation), projections.ErrPart)
	_, err = projections.NewRebuild(t.Context(), w.db, list, manual)
	require.ErrorIs(t, err, projections.ErrRebuilding)
	require.ErrorContains(t, err, "renormalize cancel "+n.ID)
	_, err = projections.Reread(t.Context(), w.db, w.all, "", "at once")
	require.ErrorIs(t, err, projections.ErrRenormalizing)

	require.NoError(t, projections.PromoteRenormalization(t.Context(), w.db, w.all, n.ID))
	require.ErrorIs(t, projections.CancelRenormalization(t.Context(), w.db, w.all, n.ID), projections.ErrRebuildState)
	wider, err := moduleOf(movingaverages.Name).New(pipeline.Env{Settings: map[string]any{"windows": []int{7}}})
	require.NoError(t, err)
	others := slices.Clone(w.all)
	others[slices.IndexFunc(others, func(p pipeline.Projection) bool { return p.Name() == movingaverages.Name })] = wider
	err = projections.RollBackRenormalization(t.Context(), w.db, others, n.ID)
	require.ErrorIs(t, err, projections.ErrRebuildState)
	require.ErrorContains(t, err, "nothing would feed it")
	require.NoError(t, projections.RollBackRenormalization(t.Context(), w.db, w.all, n.ID))
}
