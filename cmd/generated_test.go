package cmd_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/internal/contracttest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// sizeOf is one of three sizes, by the length of the run: that of every run of the
// tests, and those of `make test-faults-short` and `make test-faults`.
func sizeOf[T any](always, short, long T) T {
	switch os.Getenv(faultsVariable) {
	case "short":
		return short
	case "long":
		return long
	}
	return always
}

// seed is that of the environment, or another each time.
func seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%d", seedVariable, seed)
	return seed
}

// deadEnds are the settings by which providers that are asked over the network find
// a server on this machine that never has a price.
func deadEnds(t testing.TB) environment {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(server.Close)
	return environment{"FINNHUB_BASE_URL": server.URL, "COINBASE_BASE_URL": server.URL, "YAHOO_BASE_URL": server.URL,
		"COINBASE_WS_URL": "ws" + strings.TrimPrefix(server.URL, "http"), "FINNHUB_WS_URL": "ws" + strings.TrimPrefix(server.URL, "http")}
}

// campaign sends generated requests and keeps account of the answers.
type campaign struct {
	t         testing.TB
	program   *program
	document  *contracttest.Document
	generator *contracttest.Generator
	// keys are API keys, one of which each request has, or none; nil for no keys.
	keys []callerOf

	mu     sync.Mutex
	random *rand.Rand
	left   int
	counts map[string]map[int]int // by operation and status
	wrong  []wrongAnswer
}

type wrongAnswer struct {
	request contracttest.Request
	status  int // 0 for no answer
	err     error
}

// maxWrong is how many wrong answers are looked at; those after them are mostly
// the same.
const maxWrong = 5

func newCampaign(t testing.TB, p *program, maxCreated int) *campaign {
	t.Helper()
	document, err := contracttest.Load(schema.OpenAPI())
	require.NoError(t, err)
	generator := contracttest.NewGenerator(document, rand.New(rand.NewPCG(seed(t), 0)), contracttest.Options{
		Symbols:   []string{"AAPL", "msft", "BTC-USD", "^GSPC", "EURUSD=X", "BINANCE:BTCUSDT", "DOWN", "HANG", "NOPE", "JUNK", "ZERO"},
		Providers: []string{"simulated", "finnhub", "coinbase", "yahoo", "yahoo_finance", "csv"}, MaxCreated: maxCreated, MaxBody: httpapi.MaxBody})
	return &campaign{t: t, program: p, document: document, generator: generator, random: rand.New(rand.NewPCG(rand.Uint64(), 0)), counts: map[string]map[int]int{}}
}

func (c *campaign) client() *contracttest.Client {
	return &contracttest.Client{Address: strings.TrimPrefix(c.program.url, "http://"), Timeout: time.Minute}
}

// run sends n requests, over some connections at once.
func (c *campaign) run(n int) {
	const connections = 8
	c.left = n
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			client := c.client()
			defer client.Close()
			for c.take() {
				c.send(client, c.generator.Next())
			}
		})
	}
	all.Wait()
}

func (c *campaign) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left--
	return c.left >= 0 && len(c.wrong) < maxWrong
}

// callerOf is one who sends requests.
type callerOf struct {
	scope apikeys.Scope // empty for none
	key   string        // empty for none
}

// withCaller adds the key of a caller to a request, and says what it may be answered then.
func (c *campaign) withCaller(r contracttest.Request) contracttest.Request {
	if len(c.keys) == 0 || r.Raw != nil {
		return r
	}
	c.mu.Lock()
	caller := c.keys[0] // the one that may all, mostly
	if c.random.IntN(3) == 0 {
		caller = c.keys[c.random.IntN(len(c.keys))]
	}
	c.mu.Unlock()
	// A request that was learned may have the key of another one.
	r.Header = slices.DeleteFunc(slices.Clone(r.Header), func(h [2]string) bool { return h[0] == "Authorization" })
	if caller.key != "" {
		r.Header = append(r.Header, [2]string{"Authorization", "Bearer " + caller.key})
	}
	r.Kind += ", as " + string(cmp.Or(caller.scope, "nobody"))
	o := c.document.Find(r.Method, r.DecodedPath())
	if o == nil || o.Scope == "" || caller.scope.Includes(apikeys.Scope(o.Scope)) {
		return r
	}
	refused := http.StatusForbidden
	if caller.scope == "" {
		refused = http.StatusUnauthorized
	}
	// What is refused before: another host, or another origin.
	r.Statuses = []int{refused, http.StatusForbidden, http.StatusMisdirectedRequest}
	return r
}

func (c *campaign) send(client *contracttest.Client, r contracttest.Request) {
	r = c.withCaller(r)
	a, err := client.Do(r)
	if err == nil {
		c.generator.Learn(r, a)
		err = c.judge(r, a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.wrong = append(c.wrong, wrongAnswer{r, a.Status, err})
	}
	of := "before any route"
	if r.Raw == nil {
		of = "not documented"
		if o := c.document.Find(r.Method, r.DecodedPath()); o != nil {
			of = o.String()
		}
	}
	if c.counts[of] == nil {
		c.counts[of] = map[int]int{}
	}
	c.counts[of][a.Status]++
}

// judge allows no fault of ours, documented or not: there is no reason for any.
func (c *campaign) judge(r contracttest.Request, a contracttest.Answer) error {
	if a.Status == http.StatusInternalServerError {
		return fmt.Errorf("%s, %s: %d %s", r.Operation, r.Kind, a.Status, a.Body)
	}
	// Whether as_of_log asks for too much depends on the prices that there are by then.
	if len(r.Statuses) > 0 && a.Status == http.StatusUnprocessableEntity && bytes.Contains(a.Body, []byte(projections.ErrAsOfTooLong.Error())) {
		r.Statuses = append(slices.Clone(r.Statuses), a.Status)
	}
	return c.document.Judge(r, a)
}

// report fails the test where an answer was wrong, with the smallest request that
// gets such a one.
func (c *campaign) report() {
	for _, w := range c.wrong {
		smallest := contracttest.Shrink(w.request, func(r contracttest.Request) bool {
			client := c.client()
			defer client.Close()
			a, err := client.Do(r)
			return a.Status == w.status && (err != nil || c.judge(r, a) != nil)
		})
		assert.Fail(c.t, w.err.Error(), "%s, %s, as %q:\n%s", w.request.Operation, w.request.Kind, w.request.Target(), smallest.Curl(c.program.url))
	}
	var table strings.Builder
	for _, of := range slices.Sorted(maps.Keys(c.counts)) {
		fmt.Fprintf(&table, "\n%-50s", of)
		for _, status := range slices.Sorted(maps.Keys(c.counts[of])) {
			fmt.Fprintf(&table, " %d×%d", status, c.counts[of][status])
		}
	}
	c.t.Logf("answers by operation and status:%s", &table)
}

// unreached are the statuses that the document has and no answer had, but for those
// that no client can cause.
func (c *campaign) unreached() []string {
	var missing []string
	for _, o := range c.document.Operations() {
		if o.Path == "/dashboard/actions" { // forms are made by pages: TestActions (httpapi)
			continue
		}
		for _, status := range o.Statuses() {
			switch status {
			case http.StatusTooManyRequests: // TestEveryOperationIsLimited
			case http.StatusUnauthorized:
				if len(c.keys) > 0 && c.counts[o.String()][status] == 0 {
					missing = append(missing, fmt.Sprintf("%s: %d", o, status))
				}
			case http.StatusInternalServerError, http.StatusServiceUnavailable: // TestFaultsOfPorts (httpapi)
			case http.StatusGatewayTimeout: // to a read after what is not written: TestReadYourWrites
				if o.Path != "/api/v1/prices/latest" {
					continue
				}
				fallthrough
			case http.StatusOK: // to a rebuild that is there and ready: TestRebuildOfAChangedFold
				// and to the retry of what can be applied: TestDeadLettersAreRetried
				if strings.HasPrefix(o.Path, "/api/v1/rebuilds/{id}/") || o.Path == "/api/v1/dead-letters/{letter_id}/retry" {
					continue
				}
				fallthrough
			case http.StatusAccepted: // to a retry that takes longer than a client waits
				if status == http.StatusAccepted && strings.HasPrefix(o.Path, "/api/v1/dead-letter") {
					continue
				}
				fallthrough
			default:
				if c.counts[o.String()][status] == 0 {
					missing = append(missing, fmt.Sprintf("%s: %d", o, status))
				}
			}
		}
	}
	return missing
}

// focusOn has requests follow for the operations that lack an answer, and for those of
// the same collection: a job is resumed only once it is created and paused.
func (c *campaign) focusOn(missing []string) {
	var operations []string
	for _, m := range missing {
		_, path, _ := strings.Cut(m, " ")
		path, _, _ = strings.Cut(path, ": ")
		collection, _, _ := strings.Cut(path, "/{")
		for _, o := range c.document.Operations() {
			if o.Path == collection || strings.HasPrefix(o.Path, collection+"/") {
				operations = append(operations, o.String())
			}
		}
	}
	c.generator.Focus(operations...)
}

// deadLetterStage is the stage that the dead letters of a campaign are of.
const deadLetterStage = "normalize"

// renewDeadLetters makes dead letters in place of those that requests deleted, and
// retries them, for the generator to know a retry.
func (c *campaign) renewDeadLetters() {
	sendUnreadable(c.t, c.program, schema.StoredQuotes, 5)
	require.Eventually(c.t, func() bool { return len(c.program.deadLettersOf(deadLetterStage)) > 0 }, time.Minute, 50*time.Millisecond, "dead letters")
	client := c.client()
	defer client.Close()
	c.send(client, contracttest.Request{
		Operation: c.document.Find(http.MethodPost, "/api/v1/dead-letter-retries"), Kind: "a retry of all dead letters",
		Method: http.MethodPost, Path: "/api/v1/dead-letter-retries", Query: []string{"stage=" + deadLetterStage, "confirm=yes"},
		Statuses: []int{http.StatusOK, http.StatusAccepted}})
}

// correctPrices sends corrections and retractions of prices that there are, since none of
// those that are made up name one.
func (c *campaign) correctPrices() {
	file := filepath.Join(c.t.TempDir(), "prices.csv")
	require.NoError(c.t, os.WriteFile(file, []byte("symbol,price,time\nONE,1,2024-01-01\nTWO,1,2024-01-01\nTWO,2,2024-01-01\n"), 0o600))
	ingested(c.t, c.program.env, file)
	client := c.client()
	defer client.Close()
	send := func(path, symbol, more string) {
		c.send(client, contracttest.Request{Operation: c.document.Find(http.MethodPost, path), Kind: "a price that there is", Method: http.MethodPost, Path: path,
			Body:     []byte(`{"symbol":"` + symbol + `","provider":"csv","timestamp":"2024-01-01T00:00:00Z","reason":"r"` + more + `}`),
			Statuses: []int{http.StatusOK, http.StatusAccepted, http.StatusConflict}})
	}
	send("/api/v1/corrections", "ONE", `,"price":1`)
	send("/api/v1/corrections", "ONE", `,"price":2`)
	send("/api/v1/corrections", "TWO", `,"price":3`)
	send("/api/v1/retractions", "TWO", "")
	require.Eventually(c.t, func() bool { // until it is known
		send("/api/v1/retractions", "ONE", "")
		return c.counts["POST /api/v1/retractions"][http.StatusOK] > 0
	}, time.Minute, 50*time.Millisecond)
}

// adjustPrices records a dividend above the price that there is, so that no read can be adjusted.
func (c *campaign) adjustPrices() {
	client := c.client()
	defer client.Close()
	const recorded = "/api/v1/adjustments"
	require.Eventually(c.t, func() bool { // until it is known
		c.send(client, contracttest.Request{Operation: c.document.Find(http.MethodPost, recorded), Kind: "a dividend", Method: http.MethodPost, Path: recorded,
			Body:     []byte(`{"symbol":"TWO","provider":"csv","effective_at":"2024-01-02T00:00:00Z","kind":"dividend","value":"5","reason":"r"}`),
			Statuses: []int{http.StatusOK, http.StatusAccepted}})
		return c.counts["POST "+recorded][http.StatusOK] > 0
	}, time.Minute, 50*time.Millisecond)
	for _, path := range []string{"/api/v1/prices/history", "/api/v1/prices/moving-average", "/api/v1/prices/moving-average/history"} {
		c.send(client, contracttest.Request{Operation: c.document.Find(http.MethodGet, path), Kind: "a dividend above the price", Method: http.MethodGet, Path: path,
			Query: []string{"symbol=TWO", "provider=csv", "adjusted=true"}, Statuses: []int{http.StatusConflict}})
	}
}

// TestFaultsGeneratedRequests: whatever is sent, every answer is one that the
// document has, and nothing breaks.
func TestFaultsGeneratedRequests(t *testing.T) {
	t.Parallel()
	generatedRequests(t, sizeOf(3_000, 20_000, 100_000), false)
}

// TestFaultsGeneratedRequestsWithKeys: nor with API keys, of all scopes and of none; and no
// route answers one whose key has not its scope.
func TestFaultsGeneratedRequestsWithKeys(t *testing.T) {
	t.Parallel()
	generatedRequests(t, sizeOf(3_000, 20_000, 50_000), true)
}

func generatedRequests(t *testing.T, n int, withKeys bool) {
	p := start(t, deadEnds(t).with(environment{"FETCH_TIMEOUT": "500ms",
		"SIMULATED_FAULTS": "DOWN=fail,HANG=hang,NOPE=unknown,JUNK=garbage,ZERO=zero",
		"PLUGINS":          "ema", // of which the document speaks
		// Odd headers have commands come from elsewhere.
		"HTTP_ALLOW_REMOTE_COMMANDS": "true",
		"MAX_ACTIVE_JOBS":            "4", "MAX_ACTIVE_STREAMS": "1", "MAX_ACTIVE_BACKFILLS": "2"}))
	p.eventually("/readyz", http.StatusOK)
	makeDeadLetters(t, p, schema.StoredQuotes, 20, deadLetterStage) // 17 is that of the document
	c := newCampaign(t, p, sizeOf(30, 60, 100))
	c.correctPrices()
	c.adjustPrices()
	what := "requests made from the OpenAPI document"
	if withKeys {
		what += ", with API keys of all scopes and none"
		for _, scope := range []apikeys.Scope{apikeys.Admin, apikeys.Command, apikeys.Read} {
			c.keys = append(c.keys, callerOf{scope, p.newKey(string(scope), scope)})
		}
		c.keys = append(c.keys, callerOf{}, callerOf{"", "pm_aaaaaaaa_" + strings.Repeat("a", 52)})
		p.key = c.keys[0].key
		p.awaitStatus("/version", "", http.StatusUnauthorized)
	}
	began := time.Now()
	c.run(n)
	// What depends on luck may take some more.
	for more := 0; more < 20 && len(c.wrong) == 0 && len(c.unreached()) > 0; more++ {
		c.focusOn(c.unreached())
		c.renewDeadLetters()
		c.run(1000)
		n += 1000
	}
	t.Logf("%d requests in %v", n, time.Since(began))
	c.report()
	assert.Empty(t, c.unreached(), "documented, and never answered")
	p.eventually("/readyz", http.StatusOK)
	for _, line := range p.logs.atLevel("ERROR") {
		assert.Fail(t, "an error in the log", "%v", line)
	}
	unavailable := 0
	for _, statuses := range c.counts {
		unavailable += statuses[http.StatusServiceUnavailable]
	}
	row := fmt.Sprintf("| %s: every answer as documented, no 500, %d × 503 | %s | %d | – | – | – | – |",
		what, unavailable, thisStack(), n)
	t.Log(row)
	writeRow(t, row)
}

// TestEveryOperationIsLimited: each that the document says so of, and no other.
func TestEveryOperationIsLimited(t *testing.T) {
	t.Parallel()
	p := start(t, deadEnds(t).with(environment{"RATE_LIMIT_PER_MINUTE": "1"}))
	c := newCampaign(t, p, 1)
	client := c.client()
	defer client.Close()
	require.Equal(t, http.StatusOK, p.get("/version").status) // which was all
	asked := map[string]bool{}
	for len(asked) < len(c.document.Operations()) {
		r := c.generator.Next()
		o := c.document.Find(r.Method, r.DecodedPath())
		if r.Raw != nil || o == nil {
			continue
		}
		a, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, c.document.Judge(r, a), r.Curl(p.url))
		if a.Status == http.StatusForbidden || a.Status == http.StatusMisdirectedRequest {
			continue // refused before the limit, for which it does not count
		}
		limited := slices.Contains(o.Statuses(), http.StatusTooManyRequests)
		assert.Equal(t, limited, a.Status == http.StatusTooManyRequests, "%d: %s", a.Status, r.Curl(p.url))
		asked[o.String()] = true
	}
}
