package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// rebuilds is what is built again: each command does what it says, unless err.
type rebuilds struct {
	mu      sync.Mutex
	known   map[string]projections.Rebuild
	orders  []projections.Order
	stale   []bool
	refused error
}

func newRebuilds(ids ...string) *rebuilds {
	all := &rebuilds{known: map[string]projections.Rebuild{}}
	for _, id := range ids {
		all.known[id] = exampleRebuild(id)
	}
	return all
}

func exampleRebuild(id string) projections.Rebuild {
	left := int64(3)
	return projections.Rebuild{ID: id, Projection: "moving-averages", State: projections.RebuildRunning, Promote: projections.PromoteIfEqual,
		Generation: 2, Fold: "v1", Partitions: []projections.RebuildPartition{{Topic: schema.PriceEvents, Partition: 1, Position: 2, Target: 8}},
		Done: 2, Total: 8, Rate: 2, SecondsLeft: &left, Proof: &projections.RebuildProof{Against: 1, Tables: []projections.Proof{{Table: "t"}},
			Differences: []string{"t id=1 is missing"}, Found: 1}, CreatedAt: eventTime, ChangedAt: eventTime}
}

func (*rebuilds) Projections() []string { return []string{"latest-prices", "moving-averages"} }

func (r *rebuilds) change(id string, f func(*projections.Rebuild)) (projections.Rebuild, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, there := r.known[id]
	switch {
	case !there:
		return one, projections.ErrNotFound
	case r.refused != nil:
		return one, r.refused
	}
	f(&one)
	r.known[id] = one
	return one, nil
}

func (r *rebuilds) Start(_ context.Context, projection string, o projections.Order) (projections.Rebuild, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orders = append(r.orders, o)
	one := exampleRebuild("rebuild_new")
	one.Projection, one.Promote, one.SkipPoison, one.RateLimit, one.Proof = projection, o.Promote, o.SkipPoison, o.RateLimit, nil
	return one, r.refused
}

func (r *rebuilds) Get(_ context.Context, id string) (projections.Rebuild, error) {
	return r.change(id, func(*projections.Rebuild) {})
}

func (r *rebuilds) List(_ context.Context, limit int) ([]projections.Rebuild, error) {
	var all []projections.Rebuild
	for _, one := range r.known {
		all = append(all, one)
	}
	return all[:min(limit, len(all))], r.refused
}

func (r *rebuilds) Cancel(_ context.Context, id string) (projections.Rebuild, error) {
	return r.change(id, func(one *projections.Rebuild) { one.State = projections.RebuildCancelled })
}

func (r *rebuilds) Promote(_ context.Context, id string, stale bool) (projections.Rebuild, error) {
	r.stale = append(r.stale, stale)
	return r.change(id, func(one *projections.Rebuild) { one.State = projections.RebuildPromoted })
}

func (r *rebuilds) RollBack(_ context.Context, id string, stale bool) (projections.Rebuild, error) {
	r.stale = append(r.stale, stale)
	return r.change(id, func(one *projections.Rebuild) { one.State = projections.RebuildRolledBack })
}

func TestRebuildsAreOrdered(t *testing.T) {
	t.Parallel()
	all := newRebuilds()
	api := newAPI(t, func(s *setup) { s.Rebuilds = all })
	w := serve(t, api, request(http.MethodPost, "/api/v1/rebuilds", `{"projection":"moving-averages"}`))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	assert.Contains(t, w.Body.String(), `"id":"rebuild_new"`)
	w = serve(t, api, request(http.MethodPost, "/api/v1/rebuilds", `{"projection":"latest-prices","promote":"auto","skip_poison":true,"rate_limit":500}`))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	assert.Equal(t, []projections.Order{{Promote: projections.PromoteManual},
		{Promote: projections.PromoteAuto, SkipPoison: true, RateLimit: 500}}, all.orders)
}

func TestRebuildsThatAreNotOrdered(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"unknown": {`{"projection":"nope"}`, 404, `{"detail":"Unknown projection \"nope\"; known are latest-prices, moving-averages"}`},
		"no name": {`{}`, 422, `{"detail":[{"type":"missing","loc":["body","projection"],"msg":"Field required","input":{}}]}`},
		"all wrong": {`{"projection":7,"promote":"now","skip_poison":"yes","rate_limit":-1}`, 422, `{"detail":[` +
			`{"type":"string_type","loc":["body","projection"],"msg":"Input should be a valid string","input":7},` +
			`{"type":"literal_error","loc":["body","promote"],"msg":"Input should be 'manual', 'if-equal' or 'auto'","input":"now","ctx":{"expected":"'manual', 'if-equal' or 'auto'"}},` +
			`{"type":"bool_type","loc":["body","skip_poison"],"msg":"Input should be a valid boolean","input":"yes"},` +
			`{"type":"greater_than_equal","loc":["body","rate_limit"],"msg":"Input should be greater than or equal to 0","input":-1,"ctx":{"ge":0}}]}`},
		"a long name": {`{"projection":"` + strings.Repeat("a", 101) + `"}`, 422, `{"detail":[{"type":"string_too_long","loc":["body","projection"],` +
			`"msg":"String should have at most 100 characters","input":"` + strings.Repeat("a", 101) + `","ctx":{"max_length":100}}]}`},
		"true as a number": {`{"projection":"latest-prices","rate_limit":true}`, 422, `{"detail":[{"type":"int_type","loc":["body","rate_limit"],"msg":"Input should be a valid integer","input":true}]}`},
		"no body":          {``, 422, `{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expect(t, serve(t, newAPI(t, nil), request(http.MethodPost, "/api/v1/rebuilds", test.body)), test.status, test.want)
		})
	}
}

func TestCommandsToRebuilds(t *testing.T) {
	t.Parallel()
	all := newRebuilds("rebuild_a")
	api := newAPI(t, func(s *setup) { s.Rebuilds = all })
	w := get(t, api, "/api/v1/rebuilds/rebuild_a")
	assert.Contains(t, w.Body.String(), `"partitions":[{"topic":"price-events","partition":1,"position":2,"target":8,"rate":0,"seconds_left":null}]`)
	assert.Contains(t, get(t, api, "/api/v1/rebuilds?limit=1").Body.String(), `{"items":[{"id":"rebuild_a"`)
	assert.Equal(t, 422, get(t, api, "/api/v1/rebuilds?limit=0").Code)
	for _, step := range []struct{ method, path, state string }{
		{http.MethodPost, "/promote", "promoted"}, {http.MethodPost, "/rollback?stale=allow", "rolled_back"}, {http.MethodDelete, "", "cancelled"}} {
		w := serve(t, api, request(step.method, "/api/v1/rebuilds/rebuild_a"+step.path, ""))
		assert.Equal(t, http.StatusOK, w.Code, w.Body)
		assert.Contains(t, w.Body.String(), `"state":"`+step.state+`"`)
		path, _, _ := strings.Cut(step.path, "?")
		expect(t, serve(t, api, request(step.method, "/api/v1/rebuilds/rebuild_b"+path, "")), 404, `{"detail":"There is no rebuild \"rebuild_b\""}`)
	}
	assert.Equal(t, []bool{false, false, true, false}, all.stale)
	assert.Equal(t, 422, serve(t, api, request(http.MethodPost, "/api/v1/rebuilds/rebuild_a/promote?stale=perhaps", "")).Code)
	assert.Equal(t, 404, get(t, api, "/api/v1/rebuilds/%00").Code)

	for refusal, want := range map[error]int{
		fmt.Errorf("it lacks 3 records: %w", projections.ErrBehind): 409, projections.ErrRebuildState: 409, projections.ErrServes: 409,
		httpapi.ErrUnavailable: 503,
	} {
		all := newRebuilds("rebuild_a")
		all.refused = refusal
		api := newAPI(t, func(s *setup) { s.Rebuilds = all })
		w := serve(t, api, request(http.MethodPost, "/api/v1/rebuilds/rebuild_a/promote", ""))
		assert.Equal(t, want, w.Code, w.Body)
		if want == 409 {
			assert.Contains(t, w.Body.String(), refusal.Error())
		}
	}
	all.refused = projections.ErrRebuilding
	expect(t, serve(t, api, request(http.MethodPost, "/api/v1/rebuilds", `{"projection":"moving-averages"}`)), 409,
		`{"detail":"Starting a rebuild of moving-averages: a rebuild of this projection is there already: promote or cancel it first"}`)
}

// While no one feeds what answers, Age says how old it is.
func TestTheAgeOfStaleTables(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Averages = averageFunc(func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
			return movingaverages.Average{Symbol: "A", Value: schema.MustDecimal("1"), Timestamp: eventTime}, nil
		})
		s.Stale = func(projection string) (time.Duration, bool) {
			return map[string]time.Duration{movingaverages.Name: 90500 * time.Millisecond, "bands": time.Millisecond}[projection],
				projection == movingaverages.Name || projection == "bands"
		}
		s.Symbols = symbolList([]latestprices.Symbol{})
	})
	average := get(t, api, "/api/v1/prices/moving-average?symbol=A")
	assert.Equal(t, "90", average.Header().Get("Age"))
	assert.Equal(t, "90", get(t, api, "/api/v1/prices/moving-average?symbol=A", "If-None-Match", average.Header().Get("ETag")).Header().Get("Age"))
	assert.Empty(t, get(t, api, "/api/v1/prices/moving-average").Header().Get("Age"), "a refusal has none")
	assert.Empty(t, get(t, api, "/api/v1/symbols").Header().Get("Age"))
	assert.Equal(t, "1", get(t, api, "/api/v1/indicators/bands?symbol=A").Header().Get("Age"))
}
