package cmd_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// line is an item of a history, of prices or of averages.
type line struct {
	Symbol, Provider string
	Price, Value     schema.Decimal
	WindowSize       int `json:"window_size"`
	Timestamp        schema.Time
	ReceivedAt       schema.Time `json:"received_at"`
}

// pages reads a list to its end, by its Link headers.
func (p *program) pages(path string) (items []line, pages int) {
	p.t.Helper()
	for path != "" {
		got := p.get(path)
		require.Equal(p.t, http.StatusOK, got.status, "%s: %s", path, got.body)
		var body struct{ Items []line }
		require.NoError(p.t, json.Unmarshal([]byte(got.body), &body))
		items = append(items, body.Items...)
		pages++
		path, _, _ = strings.Cut(strings.TrimPrefix(got.header.Get("Link"), "<"), ">")
	}
	return items, pages
}

// The prices that were asked for one by one come back page by page, and every
// average follows from them.
func TestHistoryAndAverages(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"MOVING_AVERAGE_WINDOW": "5"})
	const n, window = 7, 3
	var fetched []answer
	for range n {
		got := p.get("/api/v1/prices/latest?symbol=AAPL&max_age=0")
		require.Equal(t, http.StatusOK, got.status, got.body)
		fetched = append(fetched, got)
	}
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=MSFT").status)
	require.Eventually(t, func() bool { items, _ := p.pages("/api/v1/prices/history?symbol=aapl"); return len(items) == n },
		10*time.Second, 5*time.Millisecond)

	prices, pages := p.pages("/api/v1/prices/history?symbol=aapl&limit=3&provider=simulated")
	require.Len(t, prices, n)
	assert.Equal(t, 3, pages)
	for i, price := range prices {
		got := fetched[n-1-i]
		assert.Equal(t, got.field(t, "price").(json.Number).String(), price.Price.String())
		assert.Equal(t, got.field(t, "timestamp"), price.Timestamp.Text())
		assert.False(t, price.ReceivedAt.Before(price.Timestamp.Time))
	}
	between, _ := p.pages("/api/v1/prices/history?symbol=AAPL&from=" + prices[4].Timestamp.Format(time.RFC3339Nano) +
		"&to=" + prices[1].Timestamp.Format(time.RFC3339Nano))
	assert.Equal(t, prices[2:5], between, "from is inclusive, to is not")

	averages, _ := p.pages("/api/v1/prices/moving-average/history?symbol=AAPL&limit=2&window=3")
	require.Len(t, averages, n)
	for i, average := range averages {
		var sum schema.Decimal
		last := prices[i:min(i+window, n)]
		for _, price := range last {
			sum = sum.Add(price.Price)
		}
		assert.Equal(t, sum.Quo(len(last)).String(), average.Value.String())
		assert.Equal(t, prices[i].Timestamp, average.Timestamp)
		assert.Equal(t, window, average.WindowSize)
		asOf := p.get("/api/v1/prices/moving-average?symbol=AAPL&window=3&as_of=" + average.Timestamp.Format(time.RFC3339Nano))
		assert.Equal(t, average.Value.String(), asOf.field(t, "value").(json.Number).String())
	}
	kept := p.eventually("/api/v1/prices/moving-average?symbol=AAPL&window=5&as_of="+prices[0].Timestamp.Format(time.RFC3339Nano), http.StatusOK)
	require.Eventually(t, func() bool { return p.get("/api/v1/prices/moving-average?symbol=AAPL&window=5").body == kept.body },
		10*time.Second, 5*time.Millisecond, "kept up to date, it is the one computed from history: %s", kept.body)
	assert.Equal(t, http.StatusNotFound, p.get("/api/v1/prices/moving-average?symbol=AAPL&as_of=2001-01-01T00:00:00Z").status)
}

// TestManySeriesAtOnce: page by page, each series has what it has alone.
func TestManySeriesAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	want := map[string][]line{}
	for i := range 11 { // more than one statement
		symbol := fmt.Sprintf("S%d", i)
		for range 1 + i%3 {
			require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?max_age=0&symbol="+symbol).status)
		}
		require.Eventually(t, func() bool {
			want[symbol], _ = p.pages("/api/v1/prices/history?symbol=" + symbol)
			return len(want[symbol]) == 1+i%3
		}, 20*time.Second, 5*time.Millisecond)
	}
	got := map[string][]line{}
	asked := []map[string]any{}
	for symbol := range want {
		asked = append(asked, map[string]any{"symbol": symbol, "limit": 2})
	}
	for rounds := 0; len(asked) > 0; rounds++ {
		require.Less(t, rounds, 2)
		body, err := json.Marshal(map[string]any{"series": asked})
		require.NoError(t, err)
		page := p.post("/api/v1/prices/history:batch", string(body))
		require.Equal(t, http.StatusOK, page.status, page.body)
		var answer struct {
			Series []struct {
				Symbol string
				Items  []line
				Next   string `json:"next_cursor"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(page.body), &answer))
		require.Len(t, answer.Series, len(asked))
		asked = nil
		for _, one := range answer.Series {
			got[one.Symbol] = append(got[one.Symbol], one.Items...)
			if one.Next != "" {
				asked = append(asked, map[string]any{"symbol": one.Symbol, "cursor": one.Next})
			}
		}
	}
	assert.Equal(t, want, got)
}

func TestCSVHoldsWhatJSONDoes(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	for range 2 {
		require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL&max_age=0").status)
	}
	path := "/api/v1/prices/history?symbol=AAPL"
	require.Eventually(t, func() bool { items, _ := p.pages(path); return len(items) == 2 }, 10*time.Second, 5*time.Millisecond)
	items, _ := p.pages(path)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, nil)
	require.NoError(t, err)
	request.Header.Set("Accept", "text/csv")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { assert.NoError(t, response.Body.Close()) }()
	lines, err := csv.NewReader(response.Body).ReadAll()
	require.NoError(t, err)
	want := [][]string{{"symbol", "provider", "price", "timestamp", "received_at"}}
	for _, i := range items {
		want = append(want, []string{i.Symbol, i.Provider, i.Price.String(), i.Timestamp.Text(), i.ReceivedAt.Text()})
	}
	assert.Equal(t, want, lines)
}

func TestSymbolsAndProviders(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	for _, symbol := range []string{"MSFT", "AAPL", "AAPL", "BTC-USD"} {
		require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?max_age=0&symbol="+symbol).status)
	}
	type known struct {
		Symbol, Provider string
		Count            int
		First            schema.Time    `json:"first_timestamp"`
		Last             schema.Time    `json:"last_timestamp"`
		LastPrice        schema.Decimal `json:"last_price"`
	}
	var body struct{ Items []known }
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/symbols?provider=simulated").body), &body))
		return len(body.Items) == 3 && body.Items[0].Count == 2
	}, 10*time.Second, 5*time.Millisecond)
	aapl := body.Items[0]
	assert.Equal(t, "AAPL BTC-USD MSFT", aapl.Symbol+" "+body.Items[1].Symbol+" "+body.Items[2].Symbol)
	latest := p.get("/api/v1/prices/latest?symbol=AAPL&max_age=3600")
	assert.Equal(t, latest.field(t, "price").(json.Number).String(), aapl.LastPrice.String())
	assert.Equal(t, latest.field(t, "timestamp"), aapl.Last.Text())
	assert.True(t, aapl.First.Before(aapl.Last.Time))

	var providers struct {
		Items []struct {
			Name                string
			Default, Configured bool
			Capabilities        []string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/providers").body), &providers))
	told := map[string]string{}
	for _, one := range providers.Items {
		told[one.Name] = fmt.Sprint(one.Default, one.Configured, one.Capabilities)
	}
	assert.Equal(t, map[string]string{"simulated": "true true [quote stream history]", "finnhub": "false false [quote stream]",
		"coinbase": "false true [quote stream history]", "yahoo": "false true [quote]", "csv": "false false [quote]"}, told)
	assert.Equal(t, http.StatusOK, p.get("/redoc").status)
}

// job is what GET poll tells of one.
type job struct {
	JobID     string `json:"job_id"`
	Status    string
	NextRun   *schema.Time `json:"next_run"`
	LastRun   *schema.Time `json:"last_run"`
	LastError *struct {
		Symbol, Code string
		Timestamp    schema.Time
	} `json:"last_error"`
	Counts struct{ Runs, Prices, Unchanged, Failures int }
}

func (p *program) job(id string) job {
	p.t.Helper()
	got := p.eventually("/api/v1/prices/poll/"+id, http.StatusOK)
	var j job
	require.NoError(p.t, json.Unmarshal([]byte(got.body), &j))
	return j
}

func (p *program) newJob(body string) string {
	p.t.Helper()
	got := p.post("/api/v1/prices/poll", body)
	require.Equal(p.t, http.StatusAccepted, got.status, got.body)
	return got.field(p.t, "job_id").(string)
}

// command sends a command to a job. While the read model is far behind the log, as
// on a machine that is busy, the answer may be that it should be tried again; it is
// never that there is no such job.
func (p *program) command(method, path string) {
	p.t.Helper()
	var got answer
	require.Eventually(p.t, func() bool {
		got = p.do(method, "/api/v1/prices/poll/"+path, "")
		return got.status != http.StatusServiceUnavailable
	}, time.Minute, 20*time.Millisecond)
	require.Equal(p.t, http.StatusAccepted, got.status, got.body)
}

// A job runs, reports its results, is paused, resumed and stopped. Commands
// that come at once after it was posted find it.
func TestTheLifeOfAPollingJob(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"MIN_POLL_INTERVAL": "1s", "SIMULATED_FAULTS": "DOWN=fail"})
	p.eventually("/readyz", http.StatusOK)
	id := p.newJob(`{"symbols":["AAPL","DOWN"],"interval":1}`)
	p.command(http.MethodPost, id+"/pause")  // at once
	p.command(http.MethodPost, id+"/resume") // although the pause may be on its way

	require.Eventually(t, func() bool {
		j := p.job(id)
		return j.Counts.Runs >= 2 && j.Counts.Prices >= 2 && j.Counts.Failures >= 2
	}, 20*time.Second, 20*time.Millisecond)
	j := p.job(id)
	assert.Equal(t, "active", j.Status)
	require.NotNil(t, j.LastError)
	assert.Equal(t, "DOWN unavailable", j.LastError.Symbol+" "+j.LastError.Code)
	require.NotNil(t, j.NextRun)
	require.NotNil(t, j.LastRun)
	assert.True(t, j.NextRun.After(*j.LastRun))

	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	// A run moves the next one in its transaction: while it stays, none began.
	scheduled := func() (row struct {
		Status  string
		NextRun schema.Time `db:"next_run"`
	}) {
		require.NoError(t, db.Get(t.Context(), &row, `SELECT status, next_run FROM schedules WHERE job_id = $1`, id))
		return row
	}
	becomes := func(status string) {
		t.Helper()
		require.Eventually(t, func() bool { return scheduled().Status == status && p.job(id).Status == status },
			10*time.Second, 5*time.Millisecond, status)
	}
	for range 2 { // the second changes nothing
		p.command(http.MethodPost, id+"/pause")
	}
	becomes("paused")
	assert.Nil(t, p.job(id).NextRun)
	before := scheduled()
	other := p.newJob(`{"symbols":["MSFT"],"interval":1}`)
	require.Eventually(t, func() bool { return p.job(other).Counts.Runs >= 3 }, 20*time.Second, 20*time.Millisecond)
	assert.Equal(t, before, scheduled(), "the other one ran for two seconds, this one did not")

	runs := p.job(id).Counts.Runs
	p.command(http.MethodPost, id+"/resume")
	require.Eventually(t, func() bool { return p.job(id).Counts.Runs > runs }, 20*time.Second, 20*time.Millisecond)
	p.command(http.MethodDelete, id)
	becomes("stopped")
	before, runs = scheduled(), p.job(other).Counts.Runs
	for _, path := range []string{"/pause", "/resume"} {
		assert.Equal(t, http.StatusConflict, p.post("/api/v1/prices/poll/"+id+path, "").status)
	}
	assert.Equal(t, http.StatusConflict, p.do(http.MethodDelete, "/api/v1/prices/poll/"+id, "").status)
	require.Eventually(t, func() bool { return p.job(other).Counts.Runs >= runs+2 }, 20*time.Second, 20*time.Millisecond)
	assert.Equal(t, before, scheduled())

	var list struct{ Items []job }
	require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/prices/poll").body), &list))
	require.Len(t, list.Items, 2)
	assert.Equal(t, []string{other, id}, []string{list.Items[0].JobID, list.Items[1].JobID}, "newest first")
	assert.Equal(t, http.StatusNotFound, p.get("/api/v1/prices/poll/poll_nobodys1").status)
}

// events reads the log of polling jobs.
func (p *program) events() []string {
	p.t.Helper()
	status, stdout, stderr := run(p.t, p.env, "replay", "polling-jobs")
	require.Zero(p.t, status, stderr)
	return strings.Split(strings.TrimSpace(stdout), "\n")
}

// countRuns counts the runs of a job on the log.
func (p *program) countRuns(id string) int {
	p.t.Helper()
	n := 0
	for _, event := range p.events() {
		if strings.Contains(event, "polling.job.ran.v1") && strings.Contains(event, id) {
			n++
		}
	}
	return n
}

// The same key gives the same job, and one event.
func TestOneKeyIsOneJob(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	post := func(body string) answer {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/prices/poll", strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Idempotency-Key", "order-4711")
		return p.send(request)
	}
	first := post(`{"symbols":["AAPL"],"interval":60}`)
	require.Equal(t, http.StatusAccepted, first.status, first.body)
	p.job(first.field(t, "job_id").(string)) // it is known from here on
	again := post(`{"symbols":["aapl"],"interval":60}`)
	assert.Equal(t, first.body, again.body)
	assert.Equal(t, http.StatusUnprocessableEntity, post(`{"symbols":["MSFT"],"interval":60}`).status)
	require.Eventually(t, func() bool { return p.countRuns(first.field(t, "job_id").(string)) == 1 }, 10*time.Second, 50*time.Millisecond)
	assert.Len(t, p.events(), 2, "it was created once, and ran")
}

// A cursor is good for the list that it was given for.
func TestACursorOfAnotherList(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	for range 2 {
		require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL&max_age=0").status)
	}
	path := "/api/v1/prices/history?symbol=AAPL&limit=1"
	require.Eventually(t, func() bool { return p.get(path).field(t, "next_cursor") != nil }, 10*time.Second, 5*time.Millisecond)
	cursor := url.QueryEscape(p.get(path).field(t, "next_cursor").(string))
	assert.Equal(t, http.StatusOK, p.get(path+"&cursor="+cursor).status)
	for _, other := range []string{"/api/v1/prices/history?symbol=MSFT&cursor=", "/api/v1/prices/moving-average/history?symbol=AAPL&cursor=",
		"/api/v1/symbols?cursor=", "/api/v1/prices/poll?cursor=", path + "&from=2025-06-15T14:30:00Z&cursor="} {
		assert.Equal(t, http.StatusUnprocessableEntity, p.get(other+cursor).status, other)
	}
}

// TestReadYourWrites: a read that names the position of a command sees what it did, whatever
// is under way.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	for range 10 {
		posted := p.post("/api/v1/prices/poll", `{"symbols":["AAPL"],"interval":3600}`)
		require.Equal(t, http.StatusAccepted, posted.status, posted.body)
		id, position := posted.field(t, "job_id").(string), posted.header.Get("X-Log-Position")
		listed := p.get("/api/v1/prices/poll?wait=10s&after=" + position)
		require.Equal(t, http.StatusOK, listed.status, listed.body)
		require.Contains(t, listed.body, id)
		stopped := p.do(http.MethodDelete, "/api/v1/prices/poll/"+id, "")
		require.Equal(t, http.StatusAccepted, stopped.status, stopped.body)
		got := p.get("/api/v1/prices/poll/" + id + "?wait=10s&after=" + stopped.header.Get("X-Log-Position"))
		require.Equal(t, "stopped", got.field(t, "status"), got.body)
	}
	got := p.get("/api/v1/prices/poll?wait=50ms&after=polling-jobs:0:999999999")
	assert.Equal(t, http.StatusGatewayTimeout, got.status, got.body)
	assert.Contains(t, got.body, "polling-jobs:0:999999999 was not reached within 50ms: polling-jobs.g1 is at offset ")
}
