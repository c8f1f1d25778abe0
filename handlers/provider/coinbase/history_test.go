package coinbase_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/coinbase"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// past is an exchange with trades 1 to its number, a second apart, but for those that are
// missing.
type past struct {
	trades  int
	missing func(id int) bool
	calls   atomic.Int64
}

var began = time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC)

func tradeAt(id int) schema.Time { return schema.NewTime(began.Add(time.Duration(id) * time.Second)) }

func tradeText(id int) string {
	return fmt.Sprintf(`{ "trade_id": %d, "side":"sell","size":"0.5","price":"%d.10","time":%q}`, id, 100+id, tradeAt(id).Format(time.RFC3339Nano))
}

func entryOf(id int) pipeline.HistoryEntry {
	return pipeline.HistoryEntry{ID: schema.DeriveID("stream", "coinbase", "BTC-USD", strconv.Itoa(id)), RawResponse: schema.RawResponse(tradeText(id)), Time: tradeAt(id)}
}

func (p *past) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/products/BTC-USD/trades" {
		http.Error(w, `{"message":"NotFound"}`, http.StatusNotFound)
		return
	}
	p.calls.Add(1)
	below := p.trades + 1
	if after := r.URL.Query().Get("after"); after != "" {
		below, _ = strconv.Atoi(after)
	}
	var page []string
	for id := min(below-1, p.trades); id >= 1 && len(page) < 1000; id-- {
		if p.missing == nil || !p.missing(id) {
			page = append(page, tradeText(id))
		}
	}
	fmt.Fprintf(w, "[%s]", strings.Join(page, ",\n"))
}

func historian(t testing.TB, handler http.Handler) pipeline.Historian {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	p, err := coinbase.New(pipeline.Env{Settings: map[string]any{"base_url": server.URL}})
	require.NoError(t, err)
	return p.(pipeline.Historian)
}

// all asks for all pages.
func all(t testing.TB, h pipeline.Historian, from, to schema.Time) (entries []pipeline.HistoryEntry, pages int) {
	t.Helper()
	r := pipeline.HistoryRequest{Symbol: "BTC-USD", From: from, To: to}
	for {
		page, err := h.History(t.Context(), r)
		require.NoError(t, err)
		entries = append(entries, page.Entries...)
		if pages++; page.Next == "" {
			return entries, pages
		}
		require.NotEqual(t, r.Cursor, page.Next)
		require.Less(t, pages, 200)
		r.Cursor = page.Next
	}
}

func TestHistoryConformance(t *testing.T) {
	t.Parallel()
	const trades = 2100
	h := providertest.History{Name: coinbase.Name, Symbol: "BTC-USD", Unknown: "NOPE",
		New:       func(t testing.TB) pipeline.Historian { return historian(t, &past{trades: trades}) },
		Answering: historian}
	for id := 1; id <= trades; id++ {
		h.Entries = append(h.Entries, entryOf(id))
	}
	providertest.RunHistory(t, h)
}

// However many trades there are, and whatever the span, each trade of it comes once, in order.
func TestHistory(t *testing.T) {
	t.Parallel()
	for _, trades := range []int{0, 1, 5, 999, 1000, 1001, 25_000} {
		for _, span := range [][2]int{{-10, 0}, {-10, 1}, {1, 1}, {1, 5}, {2, 999}, {990, 1010}, {1, 1000}, {1000, 3000}, {12_345, 17_345}, {24_990, 30_000}, {26_000, 30_000}} {
			if trades < 25_000 && span[1] > 3000 {
				continue
			}
			p := &past{trades: trades}
			h := historian(t, p)
			entries, pages := all(t, h, tradeAt(span[0]), tradeAt(span[1]))
			assert.EqualValues(t, pages, p.calls.Load(), "one call a page")
			want := max(1, span[0])
			for _, entry := range entries {
				if entry.Time.After(tradeAt(span[1])) || tradeAt(span[0]).After(entry.Time) {
					continue // left out by the caller
				}
				require.Equal(t, entryOf(want), entry, "%d trades, %v", trades, span)
				want++
			}
			assert.Equal(t, max(min(span[1], trades)+1, max(1, span[0])), want, "%d trades, %v: all came", trades, span)
		}
	}
}

// Ids that begin late, or leave out thousands, hide no trade.
func TestAHistoryOfIDsWithGaps(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string]func(id int) bool{
		"begins late":       func(id int) bool { return id < 20_000 },
		"thousands missing": func(id int) bool { return id > 3000 && id < 9000 },
		"every other":       func(id int) bool { return id%2 == 0 },
	} {
		for _, from := range []int{1, 2500, 5000, 21_000} {
			p := &past{trades: 25_000, missing: missing}
			entries, _ := all(t, historian(t, p), tradeAt(from), tradeAt(25_000))
			got := map[schema.Time]bool{}
			for _, entry := range entries {
				got[entry.Time] = true
			}
			for id := from; id <= 25_000; id++ {
				require.Equal(t, !missing(id), got[tradeAt(id)], "%s, from %d: %d", name, from, id)
			}
		}
	}
}

func TestFaultsOfAHistory(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		cursor string
		code   schema.Code
	}{
		"no list":         {`{"message":"hello"}`, "", schema.CodeBadResponse},
		"no id":           {`[{"time":"2025-06-15T12:00:00Z"}]`, "", schema.CodeBadResponse},
		"no time":         {`[{"trade_id":1}]`, "", schema.CodeBadResponse},
		"cursor":          {`[]`, "nowhere 1", schema.CodeInternal},
		"cursor below 1":  {`[]`, "at 0 9", schema.CodeInternal},
		"cursor reversed": {`[]`, "find 5 4 9", schema.CodeInternal},
		"cursor cut":      {`[]`, "find 5", schema.CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := historian(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(test.answer)) // the client may have hung up
			}))
			_, err := h.History(t.Context(), pipeline.HistoryRequest{Symbol: "BTC-USD", From: tradeAt(1), To: tradeAt(2), Cursor: test.cursor})
			var q *pipeline.QuoteError
			require.ErrorAs(t, err, &q)
			assert.Equal(t, test.code, q.Code, err)
		})
	}
}
