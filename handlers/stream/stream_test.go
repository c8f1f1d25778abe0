package stream_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type streamFunc func(ctx context.Context, f func(pipeline.StreamMessage) error) error

// scripted is a provider whose connections follow scripts, the last of them for
// all that come later.
type scripted struct {
	pipeline.Provider
	scripts []streamFunc

	mu    sync.Mutex
	calls []time.Time
}

func (s *scripted) Stream(ctx context.Context, _ []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	s.mu.Lock()
	script := s.scripts[min(len(s.calls), len(s.scripts)-1)]
	s.calls = append(s.calls, time.Now())
	s.mu.Unlock()
	return script(ctx, f)
}

// connections are the times at which there was one.
func (s *scripted) connections() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.calls...)
}

func scripts(all ...streamFunc) *scripted { return &scripted{scripts: all} }

func trade(n int64) pipeline.StreamMessage {
	return pipeline.StreamMessage{ID: fmt.Sprint("trade-", n), Symbol: "A", Sequence: n,
		RawResponse: schema.RawResponse(fmt.Sprint("answer ", n)), ReceivedAt: schema.NewTime(time.Now())}
}

func alive() pipeline.StreamMessage {
	return pipeline.StreamMessage{ReceivedAt: schema.NewTime(time.Now())}
}

// sends sends trades and then does what comes next.
func sends(next streamFunc, trades ...int64) streamFunc {
	return func(ctx context.Context, f func(pipeline.StreamMessage) error) error {
		for _, n := range trades {
			if err := f(trade(n)); err != nil {
				return err
			}
		}
		return next(ctx, f)
	}
}

// idle sends signs of life.
func idle(ctx context.Context, f func(pipeline.StreamMessage) error) error {
	for {
		if err := f(alive()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func silent(ctx context.Context, _ func(pipeline.StreamMessage) error) error {
	<-ctx.Done()
	return &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "no answer in time", Err: ctx.Err()}
}

func fails(err error) streamFunc {
	return func(context.Context, func(pipeline.StreamMessage) error) error { return err }
}

var errCut = pipeline.Quotef(schema.CodeUnavailable, "cut off")

func newHandler(t testing.TB, p pipeline.Provider, settings map[string]any) pipeline.Runner {
	t.Helper()
	h, err := stream.New(pipeline.Env{Now: time.Now, Log: slog.New(slog.DiscardHandler), Settings: settings,
		Provider: func(name schema.Provider) (pipeline.Provider, bool) { return p, name == "p" }})
	require.NoError(t, err)
	return h.(pipeline.Runner)
}

// process runs a worker until stop is called.
func process(t testing.TB, emit pipeline.Emitter, runner pipeline.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx, emit) }()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func command(t testing.TB, rig *pipelinetest.Rig, runner pipeline.Runner, commands ...schema.Payload) {
	t.Helper()
	stage := rig.StartHandler(t, stream.Name, runner.(pipeline.Handler))
	require.NoError(t, stage.Deliver(rig.AppendAll(t, commands...)...))
	stage.Close(t)
}

func started(id string, provider schema.Provider) schema.StreamStarted {
	return schema.StreamStarted{StreamID: id, Provider: provider, Symbols: []schema.Symbol{"A"}, StartedAt: schema.NewTime(time.Now())}
}

func stopped(id string) schema.StreamStopped {
	return schema.StreamStopped{StreamID: id, StoppedAt: schema.NewTime(time.Now())}
}

func get(t testing.TB, rig *pipelinetest.Rig, id string) stream.Stream {
	t.Helper()
	found, err := stream.Reader{DB: rig.DB}.Get(context.Background(), id)
	require.NoError(t, err)
	return found
}

// sent are the ids of what came into the log.
func sent(rig *pipelinetest.Rig) []string {
	var ids []string
	for _, r := range rig.Sent() {
		ids = append(ids, r.Event.ID)
	}
	return ids
}

// settle lets everything happen that is due within d.
func settle(d time.Duration) {
	time.Sleep(d) // of the test's own clock
	synctest.Wait()
}

func TestWhatIsStreamedComesIntoTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner := newHandler(t, scripts(sends(idle, 1, 2, 5)), nil)
		command(t, rig, runner, started("s", "p"))
		assert.Equal(t, stream.Active, get(t, rig, "s").Status)
		assert.False(t, get(t, rig, "s").Owned)
		stop := process(t, rig.Emitter(), runner)
		settle(2 * time.Second)
		shown := get(t, rig, "s")
		assert.True(t, shown.Owned)
		stop()
		records := rig.Sent()
		require.Len(t, records, 3)
		quote := records[2].Event.Payload.(schema.QuoteFetched)
		assert.Equal(t, schema.Quote{Provider: "p", Symbol: "A"}, quote.Quote)
		assert.Equal(t, "answer 5", string(quote.RawResponse))
		assert.Equal(t, "pricemill/stream", records[2].Event.Source)
		assert.EqualValues(t, 3, shown.Messages)
		assert.EqualValues(t, 1, shown.Gaps)
		assert.EqualValues(t, 2, shown.Missed)
		assert.NotNil(t, shown.LastMessage)
		assert.Nil(t, shown.LastErrorAt)
		assert.False(t, get(t, rig, "s").Owned, "given up at the end")
	})
}

func TestAStreamThatIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := scripts(sends(idle, 1))
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(time.Second)
		command(t, rig, runner, stopped("s"))
		settle(time.Second)
		shown := get(t, rig, "s")
		assert.Equal(t, stream.Stopped, shown.Status)
		assert.NotNil(t, shown.StoppedAt)
		assert.EqualValues(t, 1, shown.Messages, "the last progress is kept")
		last := shown.LastMessage
		settle(20 * time.Second)
		assert.Equal(t, last, get(t, rig, "s").LastMessage, "nothing comes any more")
		assert.Len(t, provider.connections(), 1)
		command(t, rig, runner, started("s", "p"))
		settle(20 * time.Second)
		assert.Equal(t, stream.Stopped, get(t, rig, "s").Status, "nothing brings it back")
	})
}

// The effects are the same however the commands are cut into batches.
func TestCommandsInOneBatchOrSeveral(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC))
	commands := []schema.Payload{
		schema.StreamStopped{StreamID: "a", StoppedAt: at},                                // says nothing
		schema.StreamChanged{StreamID: "a", Symbols: []schema.Symbol{"G"}, ChangedAt: at}, // nor does this
		schema.StreamStarted{StreamID: "a", Provider: "p", Symbols: []schema.Symbol{"A"}, StartedAt: at},
		schema.StreamStarted{StreamID: "b", Provider: "p", Symbols: []schema.Symbol{"B", "C"}, StartedAt: at},
		schema.StreamChanged{StreamID: "a", Symbols: []schema.Symbol{"D"}, ChangedAt: at},
		schema.StreamChanged{StreamID: "a", Symbols: []schema.Symbol{"E", "A"}, ChangedAt: at.Add(time.Second)},
		schema.StreamStopped{StreamID: "b", StoppedAt: at.Add(time.Second)},
		schema.StreamChanged{StreamID: "b", Symbols: []schema.Symbol{"F"}, ChangedAt: at.Add(time.Minute)}, // is late
		schema.StreamStopped{StreamID: "b", StoppedAt: at.Add(time.Minute)},                                // is late
		schema.StreamStarted{StreamID: "b", Provider: "q", Symbols: []schema.Symbol{"X"}, StartedAt: at},
	}
	var first []stream.Stream
	for size := 1; size <= len(commands); size++ {
		rig := pipelinetest.New(t)
		stage := rig.StartHandler(t, stream.Name, newHandler(t, scripts(idle), nil).(pipeline.Handler))
		records := rig.AppendAll(t, commands...)
		for len(records) > 0 {
			n := min(size, len(records))
			stage.Undo(1)
			require.NoError(t, stage.Deliver(records[:n]...))
			records = records[n:]
		}
		stage.Close(t)
		got, err := stream.Reader{DB: rig.DB}.List(t.Context(), 10)
		require.NoError(t, err)
		require.Len(t, got, 2)
		assert.Equal(t, "b", got[0].ID)
		assert.Equal(t, stream.Stopped, got[0].Status)
		assert.Equal(t, []schema.Symbol{"B", "C"}, got[0].Symbols)
		assert.Equal(t, at.Add(time.Second), *got[0].StoppedAt)
		assert.Equal(t, stream.Active, got[1].Status)
		assert.Equal(t, []schema.Symbol{"E", "A"}, got[1].Symbols)
		if first == nil {
			first = got
		}
		assert.Equal(t, first, got, "batches of %d", size)
		one, err := stream.Reader{DB: rig.DB}.List(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, first[:1], one)
	}
}

func TestBadSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]any{
		"concurrency": {"concurrency": 0}, "silence": {"silence": "0s"}, "backoff": {"backoff_min": "0s"},
		"backoff order": {"backoff_min": "2s", "backoff_max": "1s"}, "misspelt": {"silense": "1s"}, "no number": {"concurrency": "many"},
	} {
		_, err := stream.New(pipeline.Env{Settings: settings})
		assert.Error(t, err, name)
	}
}

// setClaim overwrites all claims, by the database's clock.
func setClaim(t testing.TB, db *store.Store, owner string, until int64) {
	t.Helper()
	require.NoError(t, db.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec(context.Background(), `UPDATE streams SET claimed_by = $1, claimed_until = $2`, owner, until)
		return err
	}))
}

// What comes again is no gap, nor is anything of a service that does not count.
func TestRepeatsAreNoGaps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		uncounted := func(ctx context.Context, f func(pipeline.StreamMessage) error) error {
			m := trade(9)
			m.Sequence = 0
			if err := f(m); err != nil {
				return err
			}
			return idle(ctx, f)
		}
		runner := newHandler(t, scripts(sends(uncounted, 5, 6, 3, 7, 6)), nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(2 * time.Second)
		shown := get(t, rig, "s")
		assert.EqualValues(t, 6, shown.Messages)
		assert.Zero(t, shown.Gaps)
		assert.Zero(t, shown.Missed)
	})
}
