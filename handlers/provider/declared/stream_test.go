package declared_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/internal/exchangetest"
	"github.com/pricemill/pricemill/internal/feedtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const streamKey = "key-of-a-test"

// errEnough ends a stream that a test has seen enough of.
var errEnough = errors.New("enough")

// definition is one of testdata, with replacements.
func definition(t testing.TB, name string, replace ...string) string {
	t.Helper()
	text := read(t, "testdata/"+name+".yaml")
	for i := 0; i < len(replace); i += 2 {
		require.Contains(t, text, replace[i])
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}

func newStreamer(t testing.TB, text, url string, logs io.Writer) pipeline.Streamer {
	t.Helper()
	p, err := parse(t, text).New(pipeline.Env{Settings: map[string]any{"ws_url": url, "api_key": streamKey}, Version: "1.2.3",
		Log: slog.New(slog.NewTextHandler(logs, nil))})
	require.NoError(t, err)
	return p.(pipeline.Streamer)
}

// receive streams until there were so many trades, or until the stream ends.
func receive(t testing.TB, text, url string, trades int, symbols ...schema.Symbol) (got []pipeline.StreamMessage, lives int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = newStreamer(t, text, url, io.Discard).Stream(ctx, symbols, func(m pipeline.StreamMessage) error {
		if m.ID == "" {
			lives++
		} else {
			got = append(got, m)
		}
		if len(got) >= trades {
			return errEnough
		}
		return nil
	})
	assert.NotContains(t, fmt.Sprintf("%v %+v", err, errors.Unwrap(err)), streamKey)
	return got, lives, err
}

func symbolsOf(frames []exchangetest.Frame) []schema.Symbol {
	var symbols []schema.Symbol
	for _, product := range exchangetest.Products(frames) {
		symbols = append(symbols, schema.Symbol(product))
	}
	return symbols
}

// streamed is a message as normalize gets it.
func streamed(provider schema.Provider, m pipeline.StreamMessage) schema.QuoteFetched {
	return schema.QuoteFetched{Quote: schema.Quote{Provider: provider, Symbol: m.Symbol}, RawResponse: m.RawResponse, ReceivedAt: m.ReceivedAt}
}

// A definition streams a real session as the provider in Go does.
func TestStreamOfTheRecordedSession(t *testing.T) {
	t.Parallel()
	frames := exchangetest.Session(t)
	exchange := exchangetest.Start(t, frames, nil)
	began := time.Now().Truncate(time.Microsecond)
	text := definition(t, "exchange")
	got, lives, err := receive(t, text, exchange.URL, len(frames), symbolsOf(frames)...)
	require.ErrorIs(t, err, errEnough, "an error of the callback comes back")
	require.Len(t, got, len(frames))
	assert.Positive(t, lives, "the acknowledgement")
	assert.Equal(t, [][]string{exchangetest.Products(frames)}, exchange.Subscribed())
	d := parse(t, text)
	for i, m := range got {
		f := frames[i]
		assert.Equal(t, string(f.Text), string(m.RawResponse), "byte for byte")
		assert.Equal(t, schema.DeriveID("stream", "exchange", f.Product, fmt.Sprint(f.TradeID)), m.ID)
		assert.Equal(t, schema.Symbol(f.Product), m.Symbol)
		assert.Equal(t, f.TradeID, m.Sequence)
		assert.False(t, m.ReceivedAt.Before(began))
		prices, err := d.Normalize(streamed("exchange", m))
		require.NoError(t, err)
		require.Len(t, prices, 1)
		at, err := schema.ParseTime(f.Time)
		require.NoError(t, err)
		assert.Equal(t, schema.MustDecimal(f.Price), prices[0].Price)
		assert.Equal(t, at, prices[0].Time)
		assert.EqualValues(t, f.TradeID, prices[0].Sequence)
		assert.Positive(t, prices[0].Size.Sign())
	}
}

func TestFaultsOfAStream(t *testing.T) {
	t.Parallel()
	at := func(frame int, act exchangetest.Act) exchangetest.Plan {
		return exchangetest.Plan{At: func(n int) exchangetest.Act {
			if n == frame {
				return act
			}
			return nil
		}}
	}
	const trade = `{"type":"match","product_id":"SKL-USD","price":"1","time":"2021-04-17T16:43:30Z","trade_id":1}`
	for name, test := range map[string]struct {
		plan   exchangetest.Plan
		trades int
		code   schema.Code
		reason string
		retry  time.Duration
	}{
		"cut":                {at(5, exchangetest.Cut), 5, schema.CodeUnavailable, "cut off", 0},
		"closed":             {at(5, exchangetest.Close), 5, schema.CodeUnavailable, "closed the connection with status 1001", 0},
		"an error":           {at(2, exchangetest.Send(`{"type":"error","message":"`+streamKey+`"}`)), 2, schema.CodeBadResponse, "means bad_response by rule 4 of the stream", 0},
		"no product of ours": {at(2, exchangetest.Send(`{"type":"error","reason":"OTHER-USD is not a valid product"}`)), 2, schema.CodeUnknownSymbol, "rule 3", 0},
		"garbage":            {at(2, exchangetest.Send("<html>")), 2, schema.CodeBadResponse, "not JSON", 0},
		"two values":         {at(2, exchangetest.Send(trade+trade)), 2, schema.CodeBadResponse, "not JSON", 0},
		"bytes": {at(2, func(ctx context.Context, conn *websocket.Conn) error {
			return conn.Write(ctx, websocket.MessageBinary, []byte("{}"))
		}), 2, schema.CodeBadResponse, "a frame of bytes", 0},
		"too large":         {at(3, exchangetest.Send(`{"type":"match","x":"`+strings.Repeat("x", 256<<10)+`"}`)), 3, schema.CodeTooLarge, "more than 262144 bytes", 0},
		"of another symbol": {at(2, exchangetest.Send(strings.Replace(trade, "SKL-USD", "OTHER-USD", 1))), 2, schema.CodeBadResponse, "not subscribed to", 0},
		"without a symbol":  {at(2, exchangetest.Send(strings.Replace(trade, "product_id", "other", 1))), 2, schema.CodeBadResponse, "read: symbol, .product_id: gives no value", 0},
		"without an id":     {at(2, exchangetest.Send(strings.Replace(trade, "trade_id", "other", 1))), 2, schema.CodeBadResponse, "read: id, .trade_id: gives no value", 0},
		"an empty id":       {at(2, exchangetest.Send(strings.Replace(trade, `:1}`, `:""}`, 1))), 2, schema.CodeBadResponse, "names no trade", 0},
		"no number":         {at(2, exchangetest.Send(strings.Replace(trade, `:1}`, `:"x"}`, 1))), 2, schema.CodeBadResponse, "without a number", 0},
		"the key":           {at(2, exchangetest.Send(strings.Replace(trade, `:1}`, `:"`+streamKey+`"}`, 1))), 2, schema.CodeBadResponse, "repeats the key", 0},
		"rate limited":      {exchangetest.Plan{Refuse: 429, Header: http.Header{"Retry-After": {"7"}}}, 0, schema.CodeRateLimited, "status 429", 7 * time.Second},
		"refused":           {exchangetest.Plan{Refuse: 403}, 0, schema.CodeUnauthorized, "status 403", 0},
		"down":              {exchangetest.Plan{Refuse: 503}, 0, schema.CodeUnavailable, "status 503", 0},
		"no WebSocket":      {exchangetest.Plan{Refuse: 200}, 0, schema.CodeBadResponse, "status 200", 0},
		"sent away":         {exchangetest.Plan{Refuse: 302, Header: http.Header{"Location": {"http://127.0.0.1:1/elsewhere"}}}, 0, schema.CodeBadResponse, "status 302", 0},
		"unknown types":     {at(1, exchangetest.Send(`{"type":"status","products":[]}`)), 107, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			frames := exchangetest.Session(t)
			exchange := exchangetest.Start(t, frames, func(int) exchangetest.Plan { return test.plan })
			got, _, err := receive(t, definition(t, "exchange"), exchange.URL, len(frames), symbolsOf(frames)...)
			assert.Len(t, got, test.trades, "what came before was delivered")
			if test.code == "" {
				require.ErrorIs(t, err, errEnough)
				return
			}
			var q *pipeline.QuoteError
			require.ErrorAs(t, err, &q)
			assert.Equal(t, test.code, q.Code, err)
			assert.Contains(t, q.Reason, test.reason)
			assert.Equal(t, test.retry, q.RetryAfter)
		})
	}
}

// The service refuses a whole subscription for one symbol: the others are subscribed to
// again.
func TestASymbolThatTheServiceDoesNotHave(t *testing.T) {
	t.Parallel()
	frames := exchangetest.Session(t)
	plan := func(int) exchangetest.Plan { return exchangetest.Plan{Unknown: []string{"NO-USD", "GONE-EUR"}} }
	exchange := exchangetest.Start(t, frames, plan)
	symbols := slices.Concat([]schema.Symbol{"NO-USD"}, symbolsOf(frames), []schema.Symbol{"GONE-EUR"})
	got, _, err := receive(t, definition(t, "exchange"), exchange.URL, len(frames), symbols...)
	require.ErrorIs(t, err, errEnough)
	assert.Len(t, got, len(frames))
	assert.Equal(t, 1, exchange.Connections(), "on one connection")
	subscribed := exchange.Subscribed()
	assert.Equal(t, exchangetest.Products(frames), subscribed[len(subscribed)-1])

	_, _, err = receive(t, definition(t, "exchange"), exchangetest.Start(t, frames, plan).URL, 1, "NO-USD", "GONE-EUR")
	assertCode(t, schema.CodeUnknownSymbol, err)
}

func TestAStreamEndsWithItsContext(t *testing.T) {
	t.Parallel()
	exchange := exchangetest.Start(t, exchangetest.Session(t), func(int) exchangetest.Plan {
		return exchangetest.Plan{At: func(n int) exchangetest.Act {
			if n == 1 {
				return exchangetest.FallSilent
			}
			return nil
		}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := newStreamer(t, definition(t, "exchange"), exchange.URL, io.Discard).Stream(ctx, []schema.Symbol{"BAND-GBP"}, func(m pipeline.StreamMessage) error {
		if m.ID != "" {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
}

// play is the feed of acmestream.yaml.
func play(t testing.TB, answer func(heard string) []string) *feedtest.Feed {
	t.Helper()
	feed := feedtest.Start(t, answer, `[{"ev":"hello"}]`)
	feed.URL += "/base"
	return feed
}

// acmeTrade is a trade of the feed.
func acmeTrade(pair string, number int) string {
	return fmt.Sprintf(`{"ev":"trade","venue":"V", "pair":%q,"last":612345.%02d,"qty":"0.5","trade":"t-%d","no":%d,"at":1749998100.123456}`, pair, number, number, number)
}

// sends answers a login with a welcome, and a subscription with frames.
func sends(frames ...string) func(string) []string {
	return func(heard string) []string {
		switch {
		case strings.Contains(heard, `"auth"`):
			return []string{`[{"ev":"welcome"}]`}
		case strings.Contains(heard, `"subscribe"`):
			return append([]string{`[{"ev":"subscribed"}]`}, frames...)
		}
		return nil
	}
}

// The key is where the definition has it; the subscription waits for the answer to the
// login; each trade of a frame is a message of its own, which reads as if it had come alone.
func TestAStreamWithALoginAndFramesOfSeveralTrades(t *testing.T) {
	t.Parallel()
	text := definition(t, "acmestream")
	first, second, other := acmeTrade("BTC/USD", 7), acmeTrade("BTC/USD", 8), acmeTrade("ETH/USD", 9)
	feed := play(t, sends("[ "+first+",\n "+other+", "+second+" ]"))
	got, lives, err := receive(t, text, feed.URL, 3, "BTC-USD", "ETH-USD")
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, 3, lives, "hello, welcome, subscribed")
	require.Len(t, feed.Requests(), 1)
	assert.Equal(t, "/base/"+streamKey+"?feed=trades&token="+streamKey, feed.Requests()[0].RequestURI)
	assert.Equal(t, streamKey, feed.Requests()[0].Header.Get("X-Api-Key"))
	assert.Equal(t, []string{`{"action":"auth","key":"` + streamKey + `"}`, `{"action":"subscribe","pairs":["BTC/USD","ETH/USD"],"id":1}`}, feed.Heard())
	require.Len(t, got, 3)
	d := parse(t, text)
	for i, want := range []struct {
		symbol schema.Symbol
		frame  string
		id     string
		number schema.Sequence
	}{{"BTC-USD", "[ " + first + " ]", "t-7", 7}, {"ETH-USD", "[ " + other + " ]", "t-9", 9}, {"BTC-USD", "[ " + second + " ]", "t-8", 8}} {
		m := got[i]
		assert.Equal(t, want.frame, string(m.RawResponse), "byte for byte, but for the others")
		assert.Equal(t, want.symbol, m.Symbol)
		assert.Equal(t, schema.DeriveID("stream", "acme", string(want.symbol), "V", want.id), m.ID)
		assert.Zero(t, m.Sequence, "it orders, and does not count")
		prices, err := d.Normalize(streamed("acme", m))
		require.NoError(t, err)
		require.Len(t, prices, 1)
		assert.Equal(t, pipeline.Price{Symbol: want.symbol, Price: schema.MustDecimal(fmt.Sprintf("612345.%02d", want.number)),
			Size: schema.MustDecimal("0.5"), Time: prices[0].Time, Sequence: want.number}, prices[0])
		assert.Equal(t, "2025-06-15T14:35:00.123456Z", prices[0].Time.Text())
	}

	// The same trades in other frames are the same events.
	again, _, err := receive(t, text, play(t, sends("["+second+"]", "["+other+","+first+"]")).URL, 3, "BTC-USD", "ETH-USD")
	require.ErrorIs(t, err, errEnough)
	ids := func(all []pipeline.StreamMessage) (ids []string) {
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return ids
	}
	assert.ElementsMatch(t, ids(got), ids(again))
}

// What a feed says of an account or a symbol.
func TestWhatTheFeedSays(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]schema.Code{"limit": schema.CodeRateLimited, "key": schema.CodeUnauthorized, "down": schema.CodeUnavailable} {
		_, _, err := receive(t, definition(t, "acmestream"), play(t, func(string) []string { return []string{`[{"error":"` + said + `"}]`} }).URL, 1, "BTC-USD")
		assertCode(t, want, err)
	}
	var logs lockedBuffer
	feed := play(t, sends(`[{"error":"no pair","pair":"ETH/USD"},{"ev":"news"},{"ev":"news"}]`, "pong", "["+acmeTrade("BTC/USD", 7)+"]"))
	ended := newStreamer(t, definition(t, "acmestream"), feed.URL, &logs).Stream(t.Context(), []schema.Symbol{"BTC-USD", "ETH-USD"},
		func(m pipeline.StreamMessage) error {
			if m.ID != "" {
				return errEnough
			}
			return nil
		})
	require.ErrorIs(t, ended, errEnough, "the other symbol is streamed, without another subscription")
	assert.Len(t, feed.Heard(), 2)
	assert.Equal(t, 1, strings.Count(logs.String(), "no rule of the definition is for"))
	assert.Contains(t, logs.String(), "symbols=[ETH-USD]")
	assert.NotContains(t, logs.String(), streamKey)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Where the feed has nothing to say, the answers to pings are signs of life: of those of the
// protocol, and of the definition's own.
func TestPings(t *testing.T) {
	t.Parallel()
	alive := func(text string, answer func(string) []string) *feedtest.Feed {
		feed := play(t, answer)
		lives := 0
		err := newStreamer(t, text, feed.URL, io.Discard).Stream(t.Context(), []schema.Symbol{"BTC-USD"}, func(m pipeline.StreamMessage) error {
			if lives++; lives == 4 { // hello, welcome, subscribed, and the answer
				return errEnough
			}
			return nil
		})
		require.ErrorIs(t, err, errEnough)
		return feed
	}
	assert.Len(t, alive(definition(t, "acmestream"), sends()).Heard(), 2)
	feed := alive(definition(t, "acmestream", "ping: {every: 1s}", "ping: {every: 1s, send: ping}"), func(heard string) []string {
		if heard == "ping" {
			return []string{"pong"}
		}
		return sends()(heard)
	})
	assert.Equal(t, "ping", feed.Heard()[len(feed.Heard())-1])
}

// Before the answer to the login nothing is subscribed to, whatever else the feed says.
func TestTheSubscriptionWaitsForTheLogin(t *testing.T) {
	t.Parallel()
	feed := play(t, func(string) []string { return []string{`[{"ev":"hello"}]`, `[{"ev":"hello"}]`} })
	lives := 0
	err := newStreamer(t, definition(t, "acmestream"), feed.URL, io.Discard).Stream(t.Context(), []schema.Symbol{"BTC-USD"}, func(pipeline.StreamMessage) error {
		if lives++; lives == 4 { // three hellos, and the answer to a ping a second later
			return errEnough
		}
		return nil
	})
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, []string{`{"action":"auth","key":"` + streamKey + `"}`}, feed.Heard())
}

func TestStreamsThatAreNotBegun(t *testing.T) {
	t.Parallel()
	feed := play(t, sends())
	stream := func(text, key string, symbols ...schema.Symbol) error {
		p, err := parse(t, text).New(pipeline.Env{Settings: map[string]any{"ws_url": feed.URL, "api_key": key}})
		require.NoError(t, err)
		return p.(pipeline.Streamer).Stream(t.Context(), symbols, func(pipeline.StreamMessage) error { return errEnough })
	}
	err := stream(definition(t, "acmestream"), "", "BTC-USD")
	assertCode(t, schema.CodeNotConfigured, err)
	require.ErrorContains(t, err, "set ACME_API_KEY")
	err = stream(definition(t, "acmestream"), streamKey, "A", "B", "C", "D")
	assertCode(t, schema.CodeBadResponse, err)
	require.ErrorContains(t, err, "3 symbols a connection, and these are 4")
	unspelled := definition(t, "acmestream", `symbol: sub("-"; "/")`, `symbol: '{"BTC-USD": "BTC/USD"}[.]'`)
	assertCode(t, schema.CodeUnknownSymbol, stream(unspelled, streamKey, "A", "B"))
	assert.Empty(t, feed.Requests(), "no one was asked")
	require.ErrorIs(t, stream(unspelled, streamKey, "A", "BTC-USD"), errEnough)
}

// Two symbols of one spelling are two series.
func TestSymbolsOfOneSpelling(t *testing.T) {
	t.Parallel()
	text := definition(t, "acmestream", `symbol: sub("-"; "/")`, `symbol: gsub("-"; "")`)
	feed := play(t, sends("["+acmeTrade("BTCUSD", 7)+"]"))
	got, _, err := receive(t, text, feed.URL, 2, "BTC-USD", "BTCUSD")
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, []schema.Symbol{"BTC-USD", "BTCUSD"}, []schema.Symbol{got[0].Symbol, got[1].Symbol})
	assert.NotEqual(t, got[0].ID, got[1].ID)
	assert.Contains(t, feed.Heard()[1], `"pairs":["BTCUSD"]`)
}

// A frame is told from an answer: frames have no request. An answer is read as one, also
// where the definition has a stream.
func TestFramesAreToldFromAnswers(t *testing.T) {
	t.Parallel()
	d := parse(t, definition(t, "acmestream"))
	frame := "[" + acmeTrade("BTC/USD", 7) + "]"
	ofStream := fetchedBy(frame)
	ofStream.RequestID = ""
	prices, err := d.Normalize(ofStream)
	require.NoError(t, err)
	assert.Equal(t, "612345.07", prices[0].Price.String())
	_, err = d.Normalize(fetchedBy(frame))
	assertCode(t, schema.CodeBadResponse, err)
	answer := fetchedBy(trade)
	prices, err = d.Normalize(answer)
	require.NoError(t, err)
	assert.Equal(t, "612345.67", prices[0].Price.String())
	answer.RequestID = ""
	_, err = d.Normalize(answer)
	require.NoError(t, err, "of a history, or a file")

	for change, want := range map[string]schema.Code{
		`"last":0`:                     schema.CodeBadPrice,
		`"last":-1`:                    schema.CodeBadPrice,
		`"last":"NaN"`:                 schema.CodeBadPrice,
		`"last":null`:                  schema.CodeBadPrice,
		`"last":0.1234567890123456789`: schema.CodeBadPrice,
		`"at":0`:                       schema.CodeBadResponse,
		`"at":null`:                    schema.CodeBadResponse,
		`"at":99999999999999999999`:    schema.CodeBadResponse,
		`"pair":"ETH/USD"`:             schema.CodeBadResponse,
	} {
		q := ofStream
		name, _, _ := strings.Cut(change, ":")
		at := strings.Index(frame, name)
		end := at + strings.IndexAny(frame[at:], ",}")
		q.RawResponse = schema.RawResponse(frame[:at] + change + frame[end:])
		_, err := d.Normalize(q)
		assertCode(t, want, err)
	}
}

// What is wrong in a stream is said by name, all at once.
func TestParseNamesFaultsOfStreams(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		replace []string
		want    []string
	}{
		"an unknown key":      {[]string{"  split:", "  splt:"}, []string{`line 18: there is no key "splt" here; did you mean "split"?`}},
		"a key of a rule":     {[]string{"means: trade", "mean: trade"}, []string{`there is no key "mean" here; did you mean "means"?`}},
		"a key of read":       {[]string{"    sequence:", "    sequences:"}, []string{`there is no key "sequences" here; did you mean "sequence"?`}},
		"plain ws":            {[]string{"wss://", "ws://"}, []string{"line 10: stream: url: ws://stream.acme.example: want wss"}},
		"a place in a host":   {[]string{"wss://stream", "wss://{key}.stream"}, []string{"stream: url: "}},
		"a symbol in a URL":   {[]string{"feed=trades", "feed={symbol}"}, []string{"stream: url: ", "there is no {symbol} here"}},
		"a key in the file":   {[]string{`url: wss://stream.acme.example/v1/{key}?feed=trades&token={key}` + "\n  headers: {X-Api-Key: \"{key}\"}", "url: wss://stream.acme.example\n  headers: {X-Api-Key: hunter2}"}, []string{"stream: headers: X-Api-Key: want {key} in it"}},
		"no symbol":           {[]string{`pairs: ["{symbol}"]`, "pairs: [all]"}, []string{"stream: subscribe: want {symbol} in it"}},
		"a symbol twice":      {[]string{`pairs: ["{symbol}"]`, `pairs: ["{symbol}"], of: "{symbol}"`}, []string{"stream: subscribe: {symbol} is both in a list and outside of one"}},
		"an unknown place":    {[]string{`key: "{key}"}` + "\n    until", `key: "{kye}"}` + "\n    until"}, []string{`stream: login: send: key: there is no {kye} here; known are key, key_id, key_secret`}},
		"no JSON":             {[]string{", id: 1}", ", id: 0x10}"}, []string{`stream: subscribe: id: "0x10" is neither a text nor a number of JSON`}},
		"an alias":            {[]string{"{action: auth, key: \"{key}\"}", "&a {action: auth, key: \"{key}\"}", ", id: 1}", ", id: *a}"}, []string{"stream: subscribe: id: an alias of YAML"}},
		"too often":           {[]string{"every: 1s", "every: 1ms"}, []string{"stream: ping: every: 1ms is not within 1s and 10m0s"}},
		"too many symbols":    {[]string{"most_symbols: 3", "most_symbols: 51"}, []string{"stream: most_symbols: 51 is not within 1 and 50"}},
		"one of several":      {[]string{"  split: .\n", ""}, []string{"stream: read: entry: chooses one entry of several, and the others would be lost: want split"}},
		"no path":             {[]string{"split: .\n", "split: .a[0]\n"}, []string{"stream: split: want the path of a list, such as .data"}},
		"no trades":           {[]string{"means: trade", "means: alive"}, []string{"stream: frames: required: a rule for trades"}},
		"an unknown meaning":  {[]string{"means: rate_limited", "means: limited"}, []string{`line 23: stream: frames: rule 4: means: there is no meaning "limited"`}},
		"no condition":        {[]string{`{when: . == "pong", means: alive}`, `{means: alive}`}, []string{"stream: frames: rule 7: when: required"}},
		"a symbol of a trade": {[]string{"means: trade}", "means: trade, symbol: .a}"}, []string{"rule 1: only a rule that means unknown_symbol has symbol or resubscribe"}},
		"again without which": {[]string{"means: unknown_symbol, symbol: '.[0].pair'}", "means: unknown_symbol, resubscribe: true}"}, []string{"rule 3: resubscribe without symbol"}},
		"no id":               {[]string{"    id: [.venue, .trade]\n", ""}, []string{"stream: read: id: required"}},
		"an id of nothing":    {[]string{"[.venue, .trade]", "[.venue, '']"}, []string{"stream: read: id: an empty program"}},
		"no price or time":    {[]string{"    price: .last\n    time: .at\n", ""}, []string{"stream: read: price: required", "stream: read: time: required"}},
		"no unit":             {[]string{"    unit: seconds\n", "    unit: sec\n"}, []string{`stream: read: unit: there is no unit "sec"`}},
		"what cannot count":   {[]string{"    sequence: .no", "    gapless: true"}, []string{"stream: read: gapless: want sequence"}},
		"jq that grows":       {[]string{"price: .last\n    time", "price: .last * 2\n    time"}, []string{"stream: read: price: ", "* may not be used"}},
		"a variable":          {[]string{"symbol: .pair\n", "symbol: $spelled\n"}, []string{"stream: read: symbol: ", "$spelled"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := declared.Parse([]byte(definition(t, "acmestream", c.replace...)))
			require.ErrorIs(t, err, declared.ErrDefinition)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "hunter2")
			assert.NotContains(t, err.Error(), "declared.")
		})
	}
}

// A message is sent once, once for each symbol, or with a list of them; what is filled in
// is escaped.
func TestMessages(t *testing.T) {
	t.Parallel()
	for subscribe, want := range map[string][]string{
		`{op: sub, args: ["{symbol}"]}`:                                {`{"op":"sub","args":["A\"B"]}`},
		`{op: sub, args: [{channel: t, id: "{symbol}"}, {other: 1}]}`:  {`{"op":"sub","args":[{"channel":"t","id":"A\"B"},{"other":1}]}`},
		`{op: sub, data: {channel: "t_{symbol}"}, x: [1, null, true]}`: {`{"op":"sub","data":{"channel":"t_A\"B"},"x":[1,null,true]}`},
		`[["{symbol}", 1.50], end]`:                                    {`[["A\"B",1.50],"end"]`},
		`SUB {symbol}`:                                                 {`SUB A"B`},
	} {
		d := parse(t, definition(t, "acmestream", `subscribe: {action: subscribe, pairs: ["{symbol}"], id: 1}`, "subscribe: "+subscribe,
			`symbol: sub("-"; "/")`, `symbol: '"A\"B"'`))
		fields, err := d.Sends("BTC-USD")
		require.NoError(t, err)
		var sent []string
		for _, f := range fields {
			if f.Name == "subscribe" {
				sent = append(sent, f.Value)
			}
		}
		assert.Equal(t, want, sent, subscribe)
	}
	feed := play(t, func(heard string) []string {
		if strings.Contains(heard, `"auth"`) {
			return []string{`[{"ev":"welcome"}]`}
		}
		if strings.Contains(heard, "C/D") {
			return []string{"[" + acmeTrade("C/D", 1) + "]"}
		}
		return nil
	})
	_, _, err := receive(t, definition(t, "acmestream", `pairs: ["{symbol}"]`, `pair: "{symbol}"`), feed.URL, 1, "A-B", "C-D")
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, []string{`{"action":"subscribe","pair":"A/B","id":1}`, `{"action":"subscribe","pair":"C/D","id":1}`}, feed.Heard()[1:])
}

// A stream of two keys takes them as one setting.
func TestAKeyOfTwoParts(t *testing.T) {
	t.Parallel()
	text := definition(t, "acmestream", `headers: {X-Api-Key: "{key}"}`, `headers: {X-Api-Key: "{key_secret}", X-Api-Id: "{key_id}"}`,
		`send: {action: auth, key: "{key}"}`, `send: {action: auth, key: "{key_id}", secret: "{key_secret}"}`, "/v1/{key}?feed=trades&token={key}", "/v1")
	d := parse(t, text)
	for _, key := range []string{"hunter2", "hunter2:", ":hunter2"} {
		_, err := d.New(pipeline.Env{Settings: map[string]any{"api_key": key}})
		require.ErrorContains(t, err, "api_key: want ID:SECRET")
		assert.NotContains(t, err.Error(), "hunter2")
	}
	_, err := d.New(pipeline.Env{})
	require.NoError(t, err, "no key yet")
	feed := play(t, sends("["+strings.Replace(acmeTrade("BTC/USD", 7), `"V"`, `"s:3"`, 1)+"]"))
	p, err := d.New(pipeline.Env{Settings: map[string]any{"api_key": "id-1:s:3", "ws_url": feed.URL}})
	require.NoError(t, err)
	err = p.(pipeline.Streamer).Stream(t.Context(), []schema.Symbol{"BTC-USD"}, func(m pipeline.StreamMessage) error {
		if m.ID != "" {
			return errEnough
		}
		return nil
	})
	assertCode(t, schema.CodeBadResponse, err)
	require.ErrorContains(t, err, "repeats the key", "the secret alone")
	assert.Equal(t, "s:3", feed.Requests()[0].Header.Get("X-Api-Key"))
	assert.Equal(t, `{"action":"auth","key":"id-1","secret":"s:3"}`, feed.Heard()[0])
}

func TestASettingOfAStreamThatThereIsNot(t *testing.T) {
	t.Parallel()
	_, err := parse(t, acme(t)).New(pipeline.Env{Settings: map[string]any{"ws_url": "wss://stream.acme.example"}})
	require.ErrorContains(t, err, "ws_url: the definition has no stream")
	p, err := parse(t, acme(t)).New(pipeline.Env{})
	require.NoError(t, err)
	_, streams := p.(pipeline.Streamer)
	assert.False(t, streams)
	for _, url := range []string{"ws://example.com", "https://example.com", "wss://user:canary@example.com"} {
		_, err := parse(t, definition(t, "acmestream")).New(pipeline.Env{Settings: map[string]any{"ws_url": url}})
		require.ErrorContains(t, err, "ws_url: ")
		assert.NotContains(t, err.Error(), "canary")
	}
}

// A definition with unsubscribe changes the symbols of a connection: only what changes is
// asked for, also before the login is answered, and a trade of a symbol that was left a moment
// ago is no fault. One without it is connected again by the caller.
func TestTheSymbolsOfAConnectionChange(t *testing.T) {
	t.Parallel()
	trade := func(pair string, n int) string {
		return fmt.Sprintf(`[{"ev":"trade","pair":%q,"last":1,"at":1750000000,"trade":%d,"venue":"X","no":%d}]`, pair, n, n)
	}
	unsubscribe := `{"action":"unsubscribe","pairs":["A/USD"],"id":1}`
	feed := feedtest.Start(t, func(heard string) []string {
		switch {
		case strings.Contains(heard, `"auth"`):
			return []string{`[{"ev":"welcome"}]`}
		case heard == unsubscribe:
			return []string{trade("A/USD", 2), trade("C/USD", 1)} // the first was on its way
		case strings.Contains(heard, `"subscribe"`) && strings.Contains(heard, "B/USD"):
			return []string{trade("A/USD", 1), trade("B/USD", 1)}
		}
		return nil
	})
	text := definition(t, "acmestream", "  most_symbols: 3\n", "  unsubscribe: {action: unsubscribe, pairs: [\"{symbol}\"], id: 1}\n")
	p, ok := newStreamer(t, text, feed.URL, io.Discard).(pipeline.Resubscriber)
	require.True(t, ok)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	changes := make(chan []schema.Symbol, 1)
	var got []string
	err := p.StreamChanging(ctx, []schema.Symbol{"A-USD", "B-USD"}, changes, func(m pipeline.StreamMessage) error {
		if m.ID == "" {
			return nil
		}
		got = append(got, string(m.Symbol))
		if len(got) == 2 {
			changes <- []schema.Symbol{"B-USD", "C-USD"}
		}
		if len(got) == 3 {
			return errEnough
		}
		return nil
	})
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, []string{"A-USD", "B-USD", "C-USD"}, got)
	heard := slices.DeleteFunc(feed.Heard(), func(text string) bool { return strings.Contains(text, `"auth"`) })
	assert.Equal(t, []string{`{"action":"subscribe","pairs":["A/USD","B/USD"],"id":1}`, unsubscribe, `{"action":"subscribe","pairs":["C/USD"],"id":1}`}, heard)
	_, ok = newStreamer(t, definition(t, "acmestream"), feed.URL, io.Discard).(pipeline.Resubscriber)
	assert.False(t, ok)
}

// A change that the definition cannot make ends the connection with the reason.
func TestAChangeThatCannotBe(t *testing.T) {
	t.Parallel()
	feed := feedtest.Start(t, func(heard string) []string {
		if strings.Contains(heard, `"auth"`) {
			return []string{`[{"ev":"welcome"}]`}
		}
		return nil
	})
	text := definition(t, "acmestream", "  most_symbols: 3\n", "  most_symbols: 1\n  unsubscribe: {action: unsubscribe, pairs: [\"{symbol}\"], id: 1}\n")
	changes := make(chan []schema.Symbol, 1)
	changes <- []schema.Symbol{"A-USD", "B-USD"}
	err := newStreamer(t, text, feed.URL, io.Discard).(pipeline.Resubscriber).StreamChanging(t.Context(), []schema.Symbol{"A-USD"}, changes,
		func(pipeline.StreamMessage) error { return nil })
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	assert.Contains(t, q.Reason, "streams 1 symbols a connection, and these are 2")
}
