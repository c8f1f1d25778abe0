package cmd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/exchangetest"
	"github.com/pricemill/pricemill/projections"
)

// misreadService answers a price and another field. By definition .c is the price and .other
// is right: they differ for symbols that begin with W, .c is missing for those with A, and
// .other for those with N.
func misreadService(t testing.TB) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		symbol := r.URL.Query().Get("s")
		c, other := `"c":10.5,`, `"other":10.5,`
		switch symbol[:1] {
		case "W":
			other = `"other":20.25,`
		case "A":
			c = ""
		case "N":
			other = ""
		}
		_, _ = fmt.Fprintf(w, `{%s%s"t":1582641000}`, c, other)
	}))
	t.Cleanup(server.Close)
	return server
}

// renormalizationOf is what a command printed with -o json.
func renormalizationOf(t testing.TB, stdout string) projections.Renormalization {
	t.Helper()
	var n projections.Renormalization
	require.NoError(t, json.Unmarshal([]byte(stdout), &n), stdout)
	return n
}

// TestRenormalize: answers that were misread are read again; what serves changes at once,
// back, and again.
func TestRenormalize(t *testing.T) {
	t.Parallel()
	directory := declare(t, acmeDefinition)
	p := start(t, environment{"PROVIDERS_DIR": directory, "ACME_API_KEY": canaryKey, "ACME_BASE_URL": misreadService(t).URL, "DEBUG": "true"})
	const latest = "/api/v1/prices/latest?provider=acme&symbol="
	for _, symbol := range []string{"R1", "R2", "W1", "W2", "N1"} {
		assert.Equal(t, fmt.Sprintf(`{"symbol":%q,"price":10.5,"timestamp":"2020-02-25T14:30:00.000000Z","provider":"acme"}`, symbol), strings.TrimSpace(p.get(latest+symbol).body))
	}
	assert.NotEqual(t, http.StatusOK, p.get(latest+"A1").status)
	require.Zero(t, p.stop())

	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(strings.Replace(acmeDefinition, ".c,", ".other,", 1)), 0o600))
	p = start(t, p.env)
	status, stdout, stderr := run(t, p.env, "renormalize", "--provider", "acme", "--dry-run", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	dry := renormalizationOf(t, stdout)
	assert.Equal(t, [4]int64{6, 2, 1, 1}, [4]int64{dry.Answers, dry.Revised, dry.Withdrawn, dry.Added}, stdout)

	status, stdout, stderr = run(t, p.env, "renormalize", "--provider", "acme", "--reason", "the wrong field", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	n := renormalizationOf(t, stdout)
	assert.Equal(t, [4]int64{6, 2, 1, 1}, [4]int64{n.Answers, n.Revised, n.Withdrawn, n.Added}, stdout)
	assert.Equal(t, projections.RenormalizationReady, n.State)

	prices := func() string {
		var all []string
		for _, symbol := range []string{"R1", "W1", "W2", "N1", "A1"} {
			var history struct{ Items []struct{ Price json.Number } }
			body := p.get("/api/v1/prices/history?provider=acme&symbol=" + symbol).body
			require.NoError(t, json.Unmarshal([]byte(body), &history), body)
			text := symbol
			for _, one := range history.Items {
				text += " " + one.Price.String()
			}
			all = append(all, text)
		}
		return strings.Join(all, ", ")
	}
	const before, after = "R1 10.5, W1 10.5, W2 10.5, N1 10.5, A1", "R1 10.5, W1 20.25, W2 20.25, N1, A1 10.5"
	assert.Equal(t, before, prices())
	for _, step := range []struct{ action, want string }{{"promote", after}, {"rollback", before}, {"promote", after}} {
		status, stdout, stderr = run(t, p.env, "renormalize", step.action, n.ID)
		require.Zero(t, status, stdout+stderr)
		assert.Equal(t, step.want, prices())
		status, stdout, stderr = run(t, p.env, "verify")
		require.Zero(t, status, stdout+stderr)
	}
	assert.Contains(t, p.get("/api/v1/prices/moving-average?provider=acme&symbol=W1").body, `"value":20.25`)

	// What comes by now was read right, and a rebuild reads the log as what serves does.
	assert.Contains(t, p.get(latest+"W3").body, `"price":20.25`)
	status, stdout, stderr = run(t, p.env, "rebuild", "processed-prices", "--promote", "if-equal")
	require.Zero(t, status, stdout+stderr)
	status, stdout, stderr = run(t, p.env, "renormalize", "--reason", "again", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	assert.Equal(t, projections.RenormalizationUnchanged, renormalizationOf(t, stdout).State, stdout)
	require.Zero(t, p.stop())
}

// misreadFrames are trades of some products, one a millisecond. Every tenth has another
// price in the field that is right.
func misreadFrames(n int) []exchangetest.Frame {
	at := time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC)
	frames := make([]exchangetest.Frame, n)
	ids := map[string]int64{}
	for i := range frames {
		f := exchangetest.Frame{Product: fmt.Sprintf("R%d-USD", i%7), Price: fmt.Sprintf("%d.5", 1+i%900), Time: at.Add(time.Duration(i) * time.Millisecond).Format("2006-01-02T15:04:05.000000Z")}
		ids[f.Product]++
		f.TradeID = ids[f.Product]
		other := f.Price
		if i%10 == 0 {
			other = fmt.Sprintf("%d.25", 5000+i%900)
		}
		f.Text = fmt.Appendf(nil, `{"type":"match","product_id":%q,"price":%q,"other":%q,"size":"0.5","trade_id":%d,"time":%q}`, f.Product, f.Price, other, f.TradeID, f.Time)
		frames[i] = f
	}
	return frames
}

// seriesReader reads the prices of a symbol again and again, and notes whether they are as
// they were misread, as they are right, or some of both.
type seriesReader struct {
	p             *program
	before, after map[string]string // by time
	seen          []string          // "before" and "after", as they changed
	mixed         string
}

func (s *seriesReader) read(t testing.TB, symbol string) {
	if s.mixed != "" {
		return
	}
	var page struct {
		Items []struct {
			Price     json.Number
			Timestamp string
		}
	}
	body := s.p.get("/api/v1/prices/history?provider=exchange&limit=1000&symbol=" + symbol).body
	if err := json.Unmarshal([]byte(body), &page); err != nil || len(page.Items) == 0 {
		assert.Fail(t, "no prices", body)
		return
	}
	old, renewed := 0, 0
	for _, one := range page.Items {
		switch one.Price.String() {
		case s.after[one.Timestamp]:
			if s.before[one.Timestamp] != s.after[one.Timestamp] {
				renewed++
			}
		case s.before[one.Timestamp]:
			old++
		default:
			assert.Fail(t, "a price of no one", "%v", one)
		}
	}
	if old > 0 && renewed > 0 {
		s.mixed = fmt.Sprintf("%d misread and %d right ones in one answer", old, renewed)
	}
	now := "before"
	if renewed > 0 {
		now = "after"
	}
	if len(s.seen) == 0 || s.seen[len(s.seen)-1] != now {
		s.seen = append(s.seen, now)
	}
}

// TestFaultsRenormalize: a tenth of all answers was misread. They are put right while prices
// come and clients read: each answer of the service is as before or as after, and never some
// of both.
func TestFaultsRenormalize(t *testing.T) {
	t.Parallel()
	frames := misreadFrames(sizeOf(4_000, 20_000, 1_000_000))
	exchange := exchangetest.Start(t, frames, func(int) exchangetest.Plan { return exchangetest.Plan{Rewind: exchangetest.Restart} })
	directory := declare(t, exchangeDefinition(t))
	env := streamEnvironment(t, exchange)
	env["PROVIDERS_DIR"], env["EXCHANGE_WS_URL"], env["MIN_POLL_INTERVAL"] = directory, exchange.URL, "1s"
	p := start(t, env)
	path := startStreamOf(t, p, "exchange", frames)
	db := openTables(t, p.env)
	require.Eventually(t, func() bool {
		prices := 0
		return db.Get(t.Context(), &prices, `SELECT count(*) FROM processed_prices`) == nil && prices >= len(frames)
	}, sizeOf(time.Minute, 5*time.Minute, time.Hour), 100*time.Millisecond, "not all prices came")
	require.NoError(t, db.Close())
	require.Equal(t, http.StatusAccepted, p.do(http.MethodDelete, path, "").status)
	require.Zero(t, p.stop())

	right := strings.Replace(exchangeDefinition(t), "price: .price\n    time", "price: .other\n    time", 1)
	require.NotEqual(t, exchangeDefinition(t), right)
	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(right), 0o600))
	p = start(t, p.env)
	accepted := p.post("/api/v1/prices/poll", `{"symbols":["L1","L2","L3"],"interval":1,"provider":"simulated"}`)
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)

	before, after := map[string]string{}, map[string]string{}
	for _, f := range frames {
		if f.Product != "R3-USD" {
			continue
		}
		var trade struct{ Other string }
		require.NoError(t, json.Unmarshal(f.Text, &trade))
		before[f.Time], after[f.Time] = f.Price, trade.Other
	}
	reading, stopReading := context.WithCancel(t.Context())
	var working sync.WaitGroup
	readers := make([]*seriesReader, 2)
	for i := range readers {
		readers[i] = &seriesReader{p: p, before: before, after: after}
		working.Go(func() {
			for reading.Err() == nil {
				readers[i].read(t, "R3-USD")
			}
		})
	}
	own := &seriesReader{p: p, before: before, after: after}
	own.read(t, "R3-USD")
	status, stdout, stderr := run(t, p.env, "renormalize", "--provider", "exchange", "--reason", "the wrong field", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	n := renormalizationOf(t, stdout)
	assert.Equal(t, [4]int64{int64(len(frames)), int64(len(frames) / 10), 0, 0}, [4]int64{n.Answers, n.Revised, n.Withdrawn, n.Added})
	for _, action := range []string{"promote", "rollback", "promote"} {
		status, stdout, stderr = run(t, p.env, "renormalize", action, n.ID)
		require.Zero(t, status, stdout+stderr)
		own.read(t, "R3-USD")
	}
	stopReading()
	working.Wait()
	order := []string{"before", "after", "before", "after"}
	assert.Equal(t, order, own.seen)
	for _, r := range append(readers, own) {
		assert.Empty(t, r.mixed)
		assert.Equal(t, order[:min(len(order), len(r.seen))], r.seen)
	}
	status, stdout, stderr = run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
	status, stdout, stderr = run(t, p.env, "renormalize", "--provider", "exchange", "--dry-run", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	dry := renormalizationOf(t, stdout)
	assert.Zero(t, dry.Revised+dry.Withdrawn+dry.Added, "read as they are read today")
	require.Zero(t, p.stop())
}

// renormalized changes the rule of acme, starts the service again, and promotes what a
// renormalization builds.
func renormalized(t testing.TB, p *program, directory, rule string) (*program, projections.Renormalization) {
	t.Helper()
	require.Zero(t, p.stop())
	definition := strings.Replace(acmeDefinition, "read: {price: .c, time: .t, unit: seconds}", "read: "+rule, 1)
	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(definition), 0o600))
	p = start(t, p.env)
	status, stdout, stderr := run(t, p.env, "renormalize", "--reason", "another rule", "--promote", "auto", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	status, _, stderr = run(t, p.env, "verify")
	require.Zero(t, status, stderr)
	return p, renormalizationOf(t, stdout)
}

// TestRenormalizedPollsStayOnePrice: what a provider answers again and again is one price,
// also where the answers were misread, and the latest price is that of the right reading. A
// correction applies to a price that was withdrawn by mistake and came back. Answers of a provider
// that is gone stay as they were read.
func TestRenormalizedPollsStayOnePrice(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"c":10.5,"other":20.25,"t":1582641000,"late":1582645000}`)
	}))
	t.Cleanup(server.Close)
	const misread, right = "{price: .c, time: .late, unit: seconds}", "{price: .other, time: .t, unit: seconds}"
	gone := strings.NewReplacer("name: acme", "name: gone", "ACME", "GONE", "token={key}", "token=none").Replace(acmeDefinition)
	directory := declare(t, strings.Replace(acmeDefinition, "{price: .c, time: .t, unit: seconds}", misread, 1), gone)
	p := start(t, environment{"PROVIDERS_DIR": directory, "ACME_API_KEY": canaryKey, "ACME_BASE_URL": server.URL, "GONE_BASE_URL": server.URL, "DEBUG": "true"})
	poll := func(symbol string) string {
		return p.get("/api/v1/prices/latest?provider=acme&max_age=0&symbol=" + symbol).body
	}
	history := func(symbol string) string {
		var page struct {
			Items []struct {
				Price     json.Number
				Timestamp string
			}
		}
		body := p.get("/api/v1/prices/history?provider=acme&symbol=" + symbol).body
		require.NoError(t, json.Unmarshal([]byte(body), &page), body)
		text := ""
		for _, one := range page.Items {
			text += one.Price.String() + "@" + one.Timestamp[11:19] + " "
		}
		return text
	}
	for range 3 {
		poll("A")
		poll("B")
	}
	require.Contains(t, p.get("/api/v1/prices/latest?provider=gone&symbol=G").body, "10.5")
	require.Equal(t, "10.5@15:36:40 ", history("A"))
	require.NoError(t, os.Remove(filepath.Join(directory, "1.yaml")))

	p, n := renormalized(t, p, directory, right)
	assert.Equal(t, int64(1), n.Unread, "of the provider that is gone")
	db := openTables(t, p.env)
	var prices int
	require.NoError(t, db.Get(t.Context(), &prices, `SELECT COUNT(*) FROM processed_prices WHERE provider = 'gone'`))
	require.NoError(t, db.Close())
	assert.Equal(t, 1, prices)
	for range 2 {
		poll("A")
	}
	assert.Equal(t, "20.25@14:30:00 ", history("A"))
	assert.Contains(t, p.get("/api/v1/prices?symbols=A&provider=acme").body, `"price":20.25,"timestamp":"2020-02-25T14:30:00.000000Z"`)

	status, _, stderr := p.asClient("correct", "B", "2020-02-25T14:30:00Z", "--price", "99", "--provider", "acme", "--reason", "a typo")
	require.Zero(t, status, stderr)
	require.Eventually(t, func() bool { return history("B") == "99@14:30:00 " }, 10*time.Second, 20*time.Millisecond)
	p, n = renormalized(t, p, directory, "{price: .none, time: .t, unit: seconds}")
	assert.Equal(t, int64(0), n.Added)
	assert.Empty(t, history("A")+history("B"))
	p, n = renormalized(t, p, directory, right)
	assert.Equal(t, int64(0), n.Added, "each comes back in its place")
	assert.Equal(t, "20.25@14:30:00 ", history("A"))
	assert.Equal(t, "99@14:30:00 ", history("B"))
	poll("A")
	assert.Equal(t, "20.25@14:30:00 ", history("A"))
	require.Zero(t, p.stop())
}
