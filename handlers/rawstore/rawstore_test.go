package rawstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/handlers/rawstore"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHandler(t pipelinetest.TB) pipeline.Handler {
	t.Helper()
	for _, module := range pipeline.Handlers() {
		if module.Name == rawstore.Name {
			h, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			return h
		}
	}
	require.Fail(t, "not registered")
	return nil
}

func fetched(id string, answer string) schema.Event {
	return schema.Event{ID: id, Traceparent: "00-1", Payload: schema.QuoteFetched{
		Quote:       schema.Quote{Provider: "p", Symbol: "A", RequestID: "request of " + id},
		RawResponse: schema.RawResponse(answer), ReceivedAt: schema.NewTime(time.Unix(1, 500_000))}}
}

type row struct {
	ID        int64           `db:"id"`
	EventID   string          `db:"event_id"`
	Symbol    schema.Symbol   `db:"symbol"`
	Provider  schema.Provider `db:"provider"`
	Text      *string         `db:"raw_response"`
	Bytes     []byte          `db:"raw_bytes"`
	Timestamp schema.Time     `db:"timestamp"`
	RequestID string          `db:"request_id"`
}

func rows(t require.TestingT, db store.Querier) []row {
	var all []row
	require.NoError(t, db.Select(context.Background(), &all, `SELECT id, event_id, symbol, provider, raw_response, raw_bytes,
		timestamp, request_id FROM raw_market_data ORDER BY id`))
	return all
}

func stored(t pipelinetest.TB, rig *pipelinetest.Rig) []schema.QuoteStored {
	t.Helper()
	var all []schema.QuoteStored
	for _, event := range rig.Events(t, schema.StoredQuotes) {
		all = append(all, event.Payload.(schema.QuoteStored))
	}
	return all
}

func TestAnswersAreKeptByteForByte(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		text   bool // readable in psql
	}{
		"JSON":            {`{"c":185.75,"t":1}`, true},
		"beyond ASCII":    {"Zürich 株価 🙂", true},
		"one space":       {" ", true},
		"quotes and SQL":  {`'; DROP TABLE raw_market_data; -- $1 ? \`, true},
		"a NUL":           {"a\x00b", false},
		"invalid UTF-8":   {"<html>\x00\xff", false},
		"a lone NUL":      {"\x00", false},
		"a cut character": {"\xe6\xa0", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			stage := rig.StartHandler(t, rawstore.Name, newHandler(t))
			defer stage.Close(t)
			event := fetched("e1", test.answer)
			require.NoError(t, stage.Deliver(rig.Append(t, event)...))

			all := rows(t, rig.DB)
			require.Len(t, all, 1)
			got := all[0]
			require.Equal(t, test.text, got.Text != nil)
			require.NotEqual(t, test.text, got.Bytes != nil, "one of the two columns is set")
			if test.text {
				assert.Equal(t, test.answer, *got.Text)
			} else {
				assert.Equal(t, test.answer, string(got.Bytes))
			}
			quote := event.Payload.(schema.QuoteFetched)
			assert.Equal(t, row{ID: got.ID, EventID: "e1", Symbol: "A", Provider: "p", Text: got.Text, Bytes: got.Bytes,
				Timestamp: quote.ReceivedAt, RequestID: quote.RequestID}, got)
			events := rig.Events(t, schema.StoredQuotes)
			require.Len(t, events, 1)
			assert.Equal(t, schema.QuoteStored{QuoteFetched: quote, RawResponseID: "e1"}, events[0].Payload)
			assert.Equal(t, "00-1", events[0].Traceparent)
		})
	}
}

// Events of one id are one answer, within a batch and from one to the next,
// whatever is rolled back; the first in the log is kept.
func TestAnAnswerThatComesAgainIsKeptOnce(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		ids := rapid.SliceOfN(rapid.IntRange(0, 8), 1, 40).Draw(t, "ids")
		var events []schema.Event
		first := map[string]string{}
		for i, n := range ids {
			id, answer := fmt.Sprintf("e%d.%d", round, n), fmt.Sprint("answer ", i)
			events = append(events, fetched(id, answer))
			if _, known := first[id]; !known {
				first[id] = answer
			}
		}
		stage := rig.Start(t, engine.StageSpec{Name: fmt.Sprint("raw-store-", round), Handler: newHandler(t),
			Consumes: []schema.EventType{schema.QuoteFetched{}.EventType()}, Produces: []schema.EventType{schema.QuoteStored{}.EventType()}})
		defer stage.Close(t)
		pipelinetest.DeliverInPieces(t, stage, rig.Append(t, events...))

		kept := map[string]string{}
		for _, r := range rows(t, rig.DB) {
			if _, ours := first[r.EventID]; ours {
				kept[r.EventID] = *r.Text
			}
		}
		require.Equal(t, first, kept)
		published := stored(t, rig)
		require.Len(t, published, len(first), "each is passed on once")
		for _, q := range published {
			require.Equal(t, kept[q.RawResponseID], string(q.RawResponse))
		}
	})
}

// Two databases that read one log give the same ids, however it was cut.
func TestIDsFollowFromTheLog(t *testing.T) {
	t.Parallel()
	var events []schema.Event
	for i := range 20 {
		events = append(events, fetched(fmt.Sprint("e", i%15), "x"))
	}
	var want []row
	var wantEvents []schema.Event
	for _, size := range []int{20, 7, 1} {
		rig := pipelinetest.New(t)
		stage := rig.StartHandler(t, rawstore.Name, newHandler(t))
		log := rig.Append(t, events...)
		for len(log) > 0 {
			n := min(size, len(log))
			require.NoError(t, stage.Deliver(log[:n]...))
			log = log[n:]
		}
		stage.Close(t)
		got, gotEvents := rows(t, rig.DB), rig.Events(t, schema.StoredQuotes)
		if want == nil {
			want, wantEvents = got, gotEvents
			require.Len(t, want, 15)
		}
		assert.Equal(t, want, got, "batches of %d", size)
		assert.Equal(t, wantEvents, gotEvents, "batches of %d", size)
	}
}
