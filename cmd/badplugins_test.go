package cmd_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// wrong are plugins that are wrong on purpose, for TestAPluginHarmsNoOther.
var wrong = map[string]pipeline.Handler{
	"wrong-panic": wrongHandler(func() ([]schema.Event, error) { panic("oh") }),
	"wrong-event": wrongHandler(func() ([]schema.Event, error) {
		return []schema.Event{{ID: "1", Source: "s", Payload: schema.StreamStopped{}}}, nil
	}),
	"wrong-nil":     wrongHandler(func() ([]schema.Event, error) { return make([]schema.Event, 1), nil }),
	"wrong-error":   wrongHandler(func() ([]schema.Event, error) { return nil, errors.New("the world is down") }),
	"wrong-block":   blocked{},
	"wrong-check":   unwell{},
	"wrong-wait":    idle{minds: true},
	"wrong-stuck":   idle{},
	"wrong-for-now": forNow,
}

// allRight switches on all plugins but these.
func allRight() string {
	text := "all"
	for name := range wrong {
		text += ",-" + name
	}
	return text
}

func init() {
	for name, h := range wrong {
		pipeline.RegisterHandler(pipeline.HandlerModule{Name: name, Doc: "Is wrong.", Optional: true,
			Consumes: []schema.EventType{schema.PriceObserved{}.EventType()}, New: func(pipeline.Env) (pipeline.Handler, error) { return h, nil }})
	}
}

type wrongHandler func() ([]schema.Event, error)

func (f wrongHandler) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return f()
}

// blocked waits for a world that never answers.
type blocked struct{}

func (blocked) Prepare(ctx context.Context, _ []pipeline.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func (blocked) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return nil, nil
}

// unwell does its work, but its check never answers until it is told to stop.
type unwell struct{ blocked }

func (unwell) Prepare(context.Context, []pipeline.Record) error { return nil }

func (unwell) Check(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// stuckUntil is closed when the test is over.
var (
	stuckUntil = make(chan struct{})
	release    = sync.OnceFunc(func() { close(stuckUntil) })
)

// idle does nothing in its transaction, forever or until its context is done.
type idle struct{ minds bool }

func (i idle) Handle(ctx context.Context, _ *pipeline.Tx, _ []pipeline.Record) ([]schema.Event, error) {
	if !i.minds {
		<-stuckUntil
		return nil, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// Whatever a plugin does, the prices of a file go through the chain to the averages,
// and only its own stage says that something is wrong.
func TestAPluginHarmsNoOther(t *testing.T) {
	t.Parallel()
	quotes, _ := readSession(t)
	p := start(t, environment{"PLUGINS": "wrong-panic,wrong-event,wrong-nil,wrong-error,wrong-block,wrong-check,wrong-wait,wrong-stuck"})
	// It would wait for all stages, and the wrong ones never come through.
	ingested(t, p.env, "--no-wait", "--provider", "coinbase", recordedSession)
	p.eventuallyHolds("/api/v1/symbols", `"symbol":"SKL-BTC","provider":"coinbase"`)

	// What a record caused, as the stage must think, became dead letters; one each.
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	letters := func(stage string) (reasons []string) {
		require.NoError(t, db.Select(t.Context(), &reasons, `SELECT reason FROM dead_letters WHERE stage = $1`, stage))
		return reasons
	}
	for stage, reason := range map[string]string{"wrong-panic": "panic: oh", "wrong-event": "does not declare", "wrong-nil": "without a payload"} {
		require.Eventually(t, func() bool { return len(letters(stage)) == len(quotes) }, 60*time.Second, 50*time.Millisecond, stage)
		for _, r := range letters(stage) {
			assert.Contains(t, r, reason, stage)
		}
	}
	// What the world caused waits, and so does what does not come back.
	assert.Empty(t, letters("wrong-error"))
	assert.Empty(t, letters("wrong-block"))
	assert.Empty(t, letters("wrong-wait"))
	assert.Empty(t, letters("wrong-stuck"))
	// All others are through.
	require.Eventually(t, func() bool {
		_, stdout, _ := run(t, p.env, "stages", "list")
		behind := 0
		for line := range strings.Lines(stdout) {
			if fields := strings.Fields(line); len(fields) >= 6 && fields[5] != "0" && fields[0] != "STAGE" {
				behind++
				if !strings.HasPrefix(fields[0], "wrong-") {
					return false
				}
			}
		}
		return behind > 0
	}, 60*time.Second, 50*time.Millisecond, "only the wrong ones are behind")
	checkIngested(t, p.env, "coinbase", quotes)
	assert.Equal(t, 200, p.get("/api/v1/prices/moving-average?symbol=SKL-BTC&provider=coinbase").status)
	assert.Equal(t, 200, p.get("/api/v1/prices/latest?symbol=NEW").status, "a price that is fetched now")

	var ready answer
	require.Eventually(t, func() bool {
		ready = p.get("/readyz")
		for _, stage := range []string{"wrong-wait", "wrong-stuck"} {
			if !regexp.MustCompile(`"name":"stage ` + stage + `","state":"failed","reason":"[^"]*did nothing in its transaction`).MatchString(ready.body) {
				return false
			}
		}
		return true
	}, 2*time.Minute, 50*time.Millisecond, "both say so on /readyz")
	assert.Equal(t, 503, ready.status)
	assert.Contains(t, ready.body, "the world is down")
	assert.Contains(t, ready.body, `"name":"handler wrong-check","state":"failed"`)
	assert.NotContains(t, ready.body, `"name":"stage wrong-panic","state":"failed"`)
	assert.Contains(t, ready.body, `"name":"stage normalize","state":"ok"`)
	assert.Zero(t, p.stop(), "a plugin that blocks keeps no one from stopping")
	release()
}
