package webhook_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/handlers/pricealerts"
	"github.com/pricemill/pricemill/handlers/target/targettest"
	"github.com/pricemill/pricemill/handlers/webhook"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	targettest.RunIfChild(webhook.New)
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// began is the clock of the tests.
var began = time.Date(2026, 1, 5, 14, 30, 0, 0, time.UTC)

// receiver is what events are posted to.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	// answers are the statuses of the next requests; 200 after them.
	answers []int
	header  http.Header
}

type request struct {
	header http.Header
	body   []byte
	status int
}

func newReceiver(t testing.TB, answers ...int) *receiver {
	r := &receiver{answers: answers}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		r.mu.Lock()
		defer r.mu.Unlock()
		status := http.StatusOK
		if len(r.answers) > 0 {
			status, r.answers = r.answers[0], r.answers[1:]
		}
		r.requests = append(r.requests, request{req.Header, body, status})
		for name, values := range r.header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

// event is what a receiver reads of a CloudEvent.
type event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
}

// accepted are the prices of the events of all requests that were answered 200.
func (r *receiver) accepted(t require.TestingT) (prices []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range r.requests {
		if req.status == http.StatusOK {
			prices = append(prices, pricesOf(t, req)...)
		}
	}
	return prices
}

func pricesOf(t require.TestingT, req request) (prices []string) {
	var events []event
	if req.header.Get("Content-Type") == "application/cloudevents+json" {
		events = make([]event, 1)
		require.NoError(t, json.Unmarshal(req.body, &events[0]))
	} else {
		require.Equal(t, "application/cloudevents-batch+json", req.header.Get("Content-Type"))
		require.NoError(t, json.Unmarshal(req.body, &events))
	}
	for _, e := range events {
		var data struct{ Price json.Number }
		require.NoError(t, json.Unmarshal(e.Data, &data))
		prices = append(prices, data.Price.String())
	}
	return prices
}

func newHandler(t require.TestingT, name string, settings map[string]any) pipeline.Handler {
	h, err := webhook.New(name)(pipeline.Env{Settings: settings, Version: "1.2.3", Now: func() time.Time { return began }})
	require.NoError(t, err)
	return h
}

func price(symbol schema.Symbol, text string) schema.PriceObserved {
	at := schema.NewTime(began)
	return schema.PriceObserved{Symbol: symbol, Source: "p", Price: schema.MustDecimal(text), Timestamp: at, ReceivedAt: at}
}

func payloads(prices ...string) (all []schema.Payload) {
	for _, text := range prices {
		all = append(all, price("A", text))
	}
	return all
}

// A request holds the event, its headers say which, and a receiver can check that it is ours.
func TestARequest(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	file := filepath.Join(t.TempDir(), "secret")
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, webhook.Alerts, newHandler(t, webhook.Alerts, map[string]any{"url": r.URL + "/hook?token=x", "secret_file": file}))
	defer stage.Close(t)
	at := schema.NewTime(began)
	alert := pricealerts.PriceAlerted{Alert: "A above 10", Symbol: "A", Source: "p", Direction: pricealerts.Above,
		Threshold: schema.MustDecimal("10"), Price: schema.MustDecimal("612345.678901234567890123"), Timestamp: at, ReceivedAt: at}
	records := rig.AppendAll(t, alert)
	require.NoError(t, stage.Deliver(records...))

	require.Len(t, r.requests, 1)
	got := r.requests[0]
	var e event
	require.NoError(t, json.Unmarshal(got.body, &e))
	require.JSONEq(t, string(records[0].Value), string(e.Data))
	assert.Contains(t, string(e.Data), "612345.678901234567890123", "every digit")
	e.Data = nil
	assert.Equal(t, event{"1.0", records[0].Event.ID, records[0].Event.Source, "market.price.alerted.v1", "p/A", began, "application/json", nil}, e)
	assert.Equal(t, e.ID, got.header.Get("Webhook-Id"))
	assert.Equal(t, "pricemill/1.2.3", got.header.Get("User-Agent"))
	verifier, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, verifier.VerifyIgnoringTimestamp(got.body, got.header))
	got.body[len(got.body)-2]++
	require.Error(t, verifier.VerifyIgnoringTimestamp(got.body, got.header), "of another body")
}

// What a receiver's answers lead to. Prices are posted in the order of the log, each until
// it is accepted, and none again because a later one was not.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answers []int
		want    []string // of each request, the prices and the status
		dead    int
	}{
		"well":                      {nil, []string{"1 200", "2 200", "3 200"}, 0},
		"any success":               {[]int{204, 202}, []string{"1 204", "2 202", "3 200"}, 0},
		"down for a while":          {[]int{200, 503, 500}, []string{"1 200", "2 503", "2 500", "2 200", "3 200"}, 0},
		"not allowed for a while":   {[]int{401, 404, 410}, []string{"1 401", "1 404", "1 410", "1 200", "2 200", "3 200"}, 0},
		"a redirect is no success":  {[]int{307}, []string{"1 307", "1 200", "2 200", "3 200"}, 0},
		"an event that it refuses":  {[]int{200, 422}, []string{"1 200", "2 422", "3 200"}, 1},
		"each event, so it refuses": {[]int{400, 413, 422}, []string{"1 400", "2 413", "3 422"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, test.answers...)
			r.header = http.Header{"Location": {"/elsewhere"}}
			rig := pipelinetest.New(t)
			stage := rig.StartHandler(t, webhook.Prices, newHandler(t, webhook.Prices, map[string]any{"url": r.URL}))
			defer stage.Close(t)
			err := stage.Deliver(rig.AppendAll(t, payloads("1", "2", "3")...)...)
			if test.dead > 0 {
				require.ErrorContains(t, err, "answered 4")
			} else {
				require.NoError(t, err)
			}
			var letters int
			require.NoError(t, rig.DB.Get(t.Context(), &letters, `SELECT COUNT(*) FROM dead_letters`))
			assert.Equal(t, test.dead, letters)
			var got []string
			for _, req := range r.requests {
				got = append(got, fmt.Sprintf("%s %d", strings.Join(pricesOf(t, req), ","), req.status))
			}
			assert.Equal(t, test.want, got)
		})
	}
}

// A receiver that says when to come back is left alone until then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, http.StatusTooManyRequests)
	r.header = http.Header{"Retry-After": {"120"}}
	h := newHandler(t, webhook.Prices, map[string]any{"url": r.URL})
	err := h.(pipeline.Preparer).Prepare(t.Context(), pipelinetest.New(t).AppendAll(t, price("A", "1")))
	var after interface{ RetryAfter() time.Duration }
	require.ErrorAs(t, err, &after)
	assert.Equal(t, 2*time.Minute, after.RetryAfter())
}

func TestWhatIsPosted(t *testing.T) {
	t.Parallel()
	old := price("A", "9") // by its place in the log
	at := schema.NewTime(began)
	about := schema.Correction{FactID: "1", Symbol: "A", Source: "p", Timestamp: at, Reason: "a typo"}
	in := []schema.Payload{price("A", "1"), price("B", "2"), old, price("A", "3"),
		schema.PriceCorrected{Correction: about, Price: schema.MustDecimal("4"), CorrectedAt: at}}
	for name, test := range map[string]struct {
		settings map[string]any
		want     []string
		sizes    []int
	}{
		"all that is not old":            {map[string]any{}, []string{"1", "2", "3", "4"}, []int{1, 1, 1, 1}},
		"old ones too":                   {map[string]any{"max_age": "0s"}, []string{"1", "2", "9", "3", "4"}, []int{1, 1, 1, 1, 1}},
		"in requests of three":           {map[string]any{"batch": 3}, []string{"1", "2", "3", "4"}, []int{3, 1}},
		"a symbol":                       {map[string]any{"symbols": "b"}, []string{"2"}, []int{1}},
		"a symbol of a provider":         {map[string]any{"symbols": []string{"p/A", "q/B"}}, []string{"1", "3", "4"}, []int{1, 1, 1}},
		"without a URL it posts nothing": {map[string]any{"url": ""}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t)
			settings := map[string]any{"url": r.URL}
			for key, value := range test.settings {
				settings[key] = value
			}
			rig := pipelinetest.New(t)
			stage := rig.StartHandler(t, webhook.Prices, newHandler(t, webhook.Prices, settings))
			defer stage.Close(t)
			records := rig.AppendAll(t, in...)
			for i := range records {
				records[i].Timestamp = began
				if records[i].Event.Payload == old {
					records[i].Timestamp = began.Add(-25 * time.Hour)
				}
			}
			require.NoError(t, stage.Deliver(records...))
			var sizes []int
			for _, req := range r.requests {
				sizes = append(sizes, len(pricesOf(t, req)))
			}
			assert.ElementsMatch(t, test.want, r.accepted(t)) // partitions are in no order
			assert.Equal(t, test.sizes, sizes)
		})
	}
}

// Whatever the receiver answers, and wherever sessions end, it has each event in the end,
// at first in the order of the log.
func TestDeliveryIsAtLeastOnceAndInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(draw *rapid.T) {
		r := newReceiver(t, rapid.SliceOfN(rapid.SampledFrom([]int{200, 200, 200, 500, 503}), 0, 12).Draw(draw, "answers")...)
		defer r.Close()
		rig, remove, err := pipelinetest.Temporary()
		require.NoError(draw, err)
		defer remove()
		settings := map[string]any{"url": r.URL, "batch": rapid.IntRange(1, 4).Draw(draw, "batch")}
		stage := rig.StartHandler(draw, webhook.Prices, newHandler(draw, webhook.Prices, settings))
		defer stage.Close(draw)
		var want []string
		for i := range rapid.IntRange(1, 20).Draw(draw, "prices") {
			want = append(want, fmt.Sprint(i+1))
		}
		pipelinetest.DeliverInPieces(draw, stage, rig.AppendAll(draw, payloads(want...)...))
		var got []string
		for _, text := range r.accepted(draw) {
			if !slices.Contains(got, text) {
				got = append(got, text)
			}
		}
		require.Equal(draw, want, got)
	})
}

// Processes that are killed between what they posted and their position post it again, with
// the same ids: each event comes, and a receiver that keeps the ids has it once.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	const prices = 60
	targettest.Kill(t, webhook.Prices, map[string]any{"url": r.URL}, prices)
	came := map[string]int{}
	repeats := 0
	for _, req := range r.requests {
		var e event
		require.NoError(t, json.Unmarshal(req.body, &e))
		if came[e.ID]++; came[e.ID] > 1 {
			repeats++
		}
	}
	assert.Len(t, came, prices)
	assert.Positive(t, repeats, "a process was killed in time")
	for _, record := range targettest.Records(t, pipelinetest.New(t), prices) {
		assert.Positive(t, came[record.Event.ID], record.Event.ID)
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("s3cret"), 0o600))
	odd := filepath.Join(dir, "odd")
	require.NoError(t, os.WriteFile(odd, []byte("whsec_s3cret!"), 0o600))
	short := filepath.Join(dir, "short")
	require.NoError(t, os.WriteFile(short, []byte("whsec_YWJj"), 0o600))
	for text, settings := range map[string]map[string]any{
		"want 24 to 64 bytes, not 3":                         {"secret_file": short},
		"batch: want 1 to 500, not 0":                        {"batch": 0},
		"timeout: want 100ms to 1m0s, not 1ms":               {"timeout": "1ms"},
		"max_age: -1s is negative":                           {"max_age": "-1s"},
		"url: not a URL such as https://example.com/hook":    {"url": "s3cret"},
		"url: http://example.com: want https, or http to th": {"url": "http://example.com/s3cret"},
		"secret_file: open":                                  {"secret_file": filepath.Join(dir, "none")},
		"does not begin with whsec_":                         {"secret_file": plain},
		"what follows whsec_ is not base64":                  {"secret_file": odd},
		`symbols: "": want [provider/]SYMBOL`:                {"symbols": []string{""}},
		`there is no setting "urls"; did you mean "url"?`:    {"urls": "x"},
	} {
		_, err := webhook.New(webhook.Prices)(pipeline.Env{Settings: settings})
		require.ErrorIs(t, err, pipeline.ErrSettings, text)
		require.ErrorContains(t, err, text)
		assert.NotContains(t, err.Error(), "s3cret")
	}
}

// A URL may hold a token: no error tells it.
func TestErrorsDoNotTellTheURL(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, 500)
	h := newHandler(t, webhook.Prices, map[string]any{"url": r.URL + "/s3cret"}).(pipeline.Preparer)
	records := pipelinetest.New(t).AppendAll(t, price("A", "1"))
	answered := h.Prepare(t.Context(), records)
	require.ErrorContains(t, answered, "answered 500")
	r.Close()
	unreachable := h.Prepare(t.Context(), records)
	require.ErrorContains(t, unreachable, "no connection")
	assert.NotContains(t, errors.Join(answered, unreachable).Error(), "s3cret")
}
