package projections_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tally counts prices by symbol. Its settings are in its configuration.
type tally struct {
	version       int
	configuration string
	broken        bool // its last statement is no SQL
}

func (tally) Name() string            { return "tally" }
func (p tally) Version() int          { return p.version }
func (p tally) Configuration() string { return p.configuration }

// TableNames has one more from version 2 on.
func (p tally) TableNames() []string {
	return []string{"tally", "tally_extra"}[:min(p.version, 2)]
}

func (tally) Consumes() []schema.EventType {
	return []schema.EventType{schema.PriceObserved{}.EventType()}
}

func (p tally) Tables(g pipeline.Generation) []string {
	statements := []string{`CREATE TABLE ` + g.Table("tally") + ` (symbol {text} PRIMARY KEY, n {int} NOT NULL)`,
		`CREATE TABLE ` + g.Table("tally_extra") + ` (id {int} PRIMARY KEY)`}[:min(p.version, 2)]
	if p.broken {
		statements = append(statements, `CREATE NONSENSE`)
	}
	return statements
}

func (tally) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	for i := range in {
		rows := store.Rows{Table: g.Table("tally"), Columns: []string{"symbol", "n"},
			Clause: "ON CONFLICT (symbol) DO UPDATE SET n = " + g.Table("tally") + ".n + 1"}
		rows.Add(in[i].Event.Payload.(schema.PriceObserved).Symbol, 1)
		if err := tx.Insert(ctx, rows); err != nil {
			return err
		}
	}
	return nil
}

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, db *store.Store, p pipeline.Projection) engine.StageSpec {
	t.Helper()
	spec, err := projections.Open(t.Context(), db, p)
	require.NoError(t, err)
	return spec
}

// feed delivers n prices to the stage, from the start of its log or from where
// it stands.
func feed(t *testing.T, rig *pipelinetest.Rig, spec engine.StageSpec, log []pipeline.Record) {
	t.Helper()
	stage := rig.Start(t, spec)
	require.NoError(t, stage.Deliver(log...))
	stage.Close(t)
}

func prices(t *testing.T, rig *pipelinetest.Rig, n int) []pipeline.Record {
	t.Helper()
	payloads := make([]schema.Payload, n)
	at := schema.NewTime(time.Unix(1, 0))
	for i := range payloads {
		payloads[i] = schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at}
	}
	return rig.AppendAll(t, payloads...)
}

func count(t *testing.T, db store.Querier, query string) int {
	t.Helper()
	var n int
	require.NoError(t, db.Get(t.Context(), &n, query))
	return n
}

const total = `SELECT COALESCE(SUM(n), 0) FROM tally`

// The tables of another fold stay as they are, and are not written to.
func TestOpenLeavesAGenerationOfAnotherFoldAlone(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	log := prices(t, rig, 5)
	for _, step := range []struct {
		what  string
		fold  tally
		found int // prices counted before the stage runs again
		feeds bool
	}{
		{"the first open creates", tally{version: 1, configuration: "a"}, 0, true},
		{"the same fold continues", tally{version: 1, configuration: "a"}, 5, true},
		{"other settings do not", tally{version: 1, configuration: "b"}, 5, false},
		{"nor a new version", tally{version: 2, configuration: "b"}, 5, false},
		{"the first one still does", tally{version: 1, configuration: "a"}, 5, true},
	} {
		spec := open(t, rig.DB, step.fold)
		assert.Equal(t, "tally.g1", spec.Name, step.what)
		assert.Equal(t, append(step.fold.Consumes(), schema.PriceAdded{}.EventType()), spec.Consumes, step.what)
		assert.Equal(t, step.found, count(t, rig.DB, total), step.what)
		running, err := projections.RunnableStages(t.Context(), rig.DB, []pipeline.Projection{step.fold})
		require.NoError(t, err)
		assert.Len(t, running, map[bool]int{true: 1, false: 0}[step.feeds], step.what)
		if step.feeds {
			feed(t, rig, spec, log)
		}
		assert.Equal(t, 5, count(t, rig.DB, total), "%s: from wherever it began, each price counts once", step.what)
		assert.Equal(t, 1, count(t, rig.DB, `SELECT COUNT(*) FROM generations`), step.what)
	}
}

func TestTwoProcessesOpenAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	stores := []*store.Store{pipelinetest.OpenStore(t, path), pipelinetest.OpenStore(t, path)}
	for version := 1; version <= 10; version++ {
		names := make([]string, len(stores))
		errs := make([]error, len(stores))
		var both sync.WaitGroup
		for i, db := range stores {
			both.Go(func() {
				spec, err := projections.Open(context.Background(), db, tally{version: version})
				names[i], errs[i] = spec.Name, err
			})
		}
		both.Wait()
		require.NoError(t, errors.Join(errs...))
		assert.Equal(t, []string{"tally.g1", "tally.g1"}, names, "one makes it, the other finds it")
	}
}

func TestFailedTablesLeaveEverythingAsItWas(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	_, err := projections.Open(t.Context(), rig.DB, tally{version: 1, broken: true})
	require.ErrorContains(t, err, "opening projection tally: creating the tables of generation 1")
	assert.Zero(t, count(t, rig.DB, `SELECT COUNT(*) FROM generations`))
	assert.Zero(t, count(t, rig.DB, `SELECT COUNT(*) FROM sqlite_master WHERE name LIKE 'tally%'`))

	p := tally{version: 1}
	spec := open(t, rig.DB, p)
	log := prices(t, rig, 3)
	feed(t, rig, spec, log)
	_, err = projections.NewRebuild(t.Context(), rig.DB, tally{version: 2, broken: true}, projections.Order{Promote: projections.PromoteAuto})
	require.ErrorContains(t, err, "rebuilding tally: creating the tables of generation 2")
	assert.Zero(t, count(t, rig.DB, `SELECT COUNT(*) FROM rebuilds`))
	assert.Equal(t, 3, count(t, rig.DB, total), "the old generation stands")
	feed(t, rig, spec, append(log, prices(t, rig, 1)...))
	assert.Equal(t, 4, count(t, rig.DB, total), "and continues from its positions")
}

// A process of another fold must not write, nor one whose generation was dropped.
func TestAReplacedGenerationDoesNotWrite(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	open(t, rig.DB, tally{version: 1})
	other := open(t, rig.DB, tally{version: 2})
	log := prices(t, rig, 2)
	err := engine.NewLane().Run(t.Context(), rig.DB, func(tx *pipeline.Tx) error {
		_, err := other.Handler.Handle(t.Context(), tx, log)
		return err
	})
	require.ErrorIs(t, err, projections.ErrReplaced)
	require.False(t, pipeline.IsPermanent(err), "the records are not at fault")
	assert.Zero(t, count(t, rig.DB, total))
}

func TestQueryError(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection refused")
	err := projections.QueryError("a thing", cause)
	require.ErrorIs(t, err, projections.ErrUnavailable)
	require.ErrorIs(t, err, cause)
	assert.Equal(t, "reading a thing: the database did not answer: connection refused", err.Error())
}

// The tables of old processes stay theirs until a process that serves replaces
// them.
func TestOpenFirst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	stores := []*store.Store{pipelinetest.OpenStore(t, path), pipelinetest.OpenStore(t, path)}
	made := make([]bool, len(stores))
	errs := make([]error, len(stores))
	var both sync.WaitGroup
	for i, db := range stores {
		both.Go(func() { made[i], errs[i] = projections.OpenFirst(context.Background(), db, tally{version: 1}) })
	}
	both.Wait()
	require.NoError(t, errors.Join(errs...))
	assert.NotEqual(t, made[0], made[1], "one makes them, the other finds them")
	again, err := projections.OpenFirst(t.Context(), stores[0], tally{version: 2})
	require.NoError(t, err)
	assert.False(t, again)
	running, err := projections.RunnableStages(t.Context(), stores[0], []pipeline.Projection{tally{version: 1}})
	require.NoError(t, err)
	assert.Len(t, running, 1, "the generation is still the first fold's")
	_, err = projections.OpenFirst(t.Context(), pipelinetest.OpenStore(t, filepath.Join(t.TempDir(), "db")), tally{broken: true})
	require.ErrorContains(t, err, "making the tables of projection tally")
}

// What serves is fed by this binary's fold, or by processes of another fold; where
// none runs, it is stale, and not to be waited for.
func TestFedGenerations(t *testing.T) {
	t.Parallel()
	b := newFed(t, 3)
	names := func(p pipeline.Projection) []string {
		specs, err := projections.Fed(t.Context(), b.db, []pipeline.Projection{p})
		require.NoError(t, err)
		var names []string
		for _, spec := range specs {
			names = append(names, spec.Name)
		}
		return names
	}
	assert.Equal(t, []string{"tally.g1"}, names(first))
	assert.Empty(t, names(second), "no process of that fold runs")
	require.NoError(t, b.db.RenewLeases(t.Context(), "any", []string{"running/tally.g1"}, time.Minute))
	assert.Equal(t, []string{"tally.g1"}, names(second))
	// A rebuild takes its place.
	r := b.rebuild(second, manual)
	require.NoError(t, projections.PromoteRebuild(t.Context(), b.db, []pipeline.Projection{second}, r.ID, true))
	assert.Empty(t, names(first), "the one that is stale is not waited for")
	assert.Equal(t, []string{"tally.g2"}, names(second))
}
