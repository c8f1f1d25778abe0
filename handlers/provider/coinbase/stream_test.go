package coinbase_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/coinbase"
	"github.com/pricemill/pricemill/internal/exchangetest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func newStreamer(t testing.TB, url string) pipeline.Streamer {
	t.Helper()
	p, err := coinbase.New(pipeline.Env{Settings: map[string]any{"ws_url": url}, Version: "1.2.3"})
	require.NoError(t, err)
	return p.(pipeline.Streamer)
}

// errEnough ends a stream that a test has seen enough of.
var errEnough = errors.New("enough")

// receive streams until there were so many quotes, or until the stream ends.
func receive(t testing.TB, url string, quotes int, symbols ...schema.Symbol) (got []pipeline.StreamMessage, lives int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = newStreamer(t, url).Stream(ctx, symbols, func(m pipeline.StreamMessage) error {
		if m.ID == "" {
			lives++
		} else {
			got = append(got, m)
		}
		if len(got) >= quotes {
			return errEnough
		}
		return nil
	})
	return got, lives, err
}

func symbolsOf(frames []exchangetest.Frame) []schema.Symbol {
	var symbols []schema.Symbol
	for _, product := range exchangetest.Products(frames) {
		symbols = append(symbols, schema.Symbol(product))
	}
	return symbols
}

func TestStreamOfTheRecordedSession(t *testing.T) {
	t.Parallel()
	frames := exchangetest.Session(t)
	require.Len(t, frames, 107)
	exchange := exchangetest.Start(t, frames, nil)
	began := time.Now().Truncate(time.Microsecond)
	got, lives, err := receive(t, exchange.URL, len(frames), symbolsOf(frames)...)
	require.ErrorIs(t, err, errEnough, "an error of the callback comes back")
	require.Len(t, got, len(frames))
	assert.Positive(t, lives, "the acknowledgement")
	assert.Equal(t, [][]string{exchangetest.Products(frames)}, exchange.Subscribed())
	for i, m := range got {
		assert.Equal(t, string(frames[i].Text), string(m.RawResponse), "byte for byte")
		assert.Equal(t, schema.DeriveID("stream", "coinbase", frames[i].Product, fmt.Sprint(frames[i].TradeID)), m.ID)
		assert.Equal(t, schema.Symbol(frames[i].Product), m.Symbol)
		assert.Equal(t, frames[i].TradeID, m.Sequence)
		assert.False(t, m.ReceivedAt.Before(began))
	}
}

func TestHeartbeatsAreSignsOfLife(t *testing.T) {
	t.Parallel()
	exchange := exchangetest.Start(t, nil, nil)
	lives := 0
	err := newStreamer(t, exchange.URL).Stream(t.Context(), []schema.Symbol{"BTC-USD"}, func(m pipeline.StreamMessage) error {
		assert.Empty(t, m.ID)
		if lives++; lives == 3 {
			return errEnough
		}
		return nil
	})
	require.ErrorIs(t, err, errEnough)
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
	for name, test := range map[string]struct {
		plan   exchangetest.Plan
		quotes int
		code   schema.Code
		reason string
		retry  time.Duration
	}{
		"cut":                {at(5, exchangetest.Cut), 5, schema.CodeUnavailable, "cut off", 0},
		"closed":             {at(5, exchangetest.Close), 5, schema.CodeUnavailable, "closed the connection with status 1001", 0},
		"an error":           {at(2, exchangetest.Send(`{"type":"error","message":"Failed to subscribe","reason":"X is not a valid product"}`)), 2, schema.CodeBadResponse, "Failed to subscribe: X is not a valid product", 0},
		"garbage":            {at(2, exchangetest.Send("<html>")), 2, schema.CodeBadResponse, "not one of the feed's", 0},
		"no type":            {at(2, exchangetest.Send("{}")), 2, schema.CodeBadResponse, "not one of the feed's", 0},
		"too large":          {at(3, exchangetest.Send(`{"type":"ticker","x":"`+strings.Repeat("x", 32<<10)+`"}`)), 3, schema.CodeTooLarge, "more than 32768 bytes", 0},
		"rate limited":       {exchangetest.Plan{Refuse: 429, Header: http.Header{"Retry-After": {"7"}}}, 0, schema.CodeRateLimited, "status 429", 7 * time.Second},
		"refused":            {exchangetest.Plan{Refuse: 403}, 0, schema.CodeUnauthorized, "status 403", 0},
		"down":               {exchangetest.Plan{Refuse: 503}, 0, schema.CodeUnavailable, "status 503", 0},
		"no WebSocket":       {exchangetest.Plan{Refuse: 200}, 0, schema.CodeBadResponse, "status 200", 0},
		"sent away":          {exchangetest.Plan{Refuse: 302, Header: http.Header{"Location": {"http://127.0.0.1:1/elsewhere"}}}, 0, schema.CodeBadResponse, "status 302", 0},
		"unknown types":      {at(1, exchangetest.Send(`{"type":"status","products":[]}`)), 107, "", "", 0},
		"no trade yet":       {at(1, exchangetest.Send(`{"type":"ticker","product_id":"SKL-USD","price":"0"}`)), 107, "", "", 0},
		"no product of ours": {at(2, exchangetest.Send(`{"type":"error","message":"Failed to subscribe","reason":"OTHER-USD is not a valid product"}`)), 2, schema.CodeBadResponse, "OTHER-USD is not a valid product", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			frames := exchangetest.Session(t)
			exchange := exchangetest.Start(t, frames, func(int) exchangetest.Plan { return test.plan })
			got, _, err := receive(t, exchange.URL, len(frames), symbolsOf(frames)...)
			assert.Len(t, got, test.quotes, "what came before was delivered")
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

// The exchange refuses a subscription for one product that it does not have. The others are
// streamed all the same.
func TestAnUnknownProductDoesNotStarveTheOthers(t *testing.T) {
	t.Parallel()
	frames := exchangetest.Session(t)
	plan := func(int) exchangetest.Plan { return exchangetest.Plan{Unknown: []string{"NO-USD", "GONE-EUR"}} }
	exchange := exchangetest.Start(t, frames, plan)
	known := symbolsOf(frames)
	got, _, err := receive(t, exchange.URL, len(frames), slices.Concat([]schema.Symbol{"NO-USD"}, known, []schema.Symbol{"GONE-EUR"})...)
	require.ErrorIs(t, err, errEnough)
	assert.Len(t, got, len(frames))
	assert.Equal(t, 1, exchange.Connections(), "on one connection")
	subscribed := exchange.Subscribed()
	assert.Equal(t, exchangetest.Products(frames), subscribed[len(subscribed)-1])

	_, _, err = receive(t, exchangetest.Start(t, frames, plan).URL, 1, "NO-USD", "GONE-EUR")
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	assert.Equal(t, schema.CodeUnknownSymbol, q.Code)
	assert.Contains(t, q.Reason, "no product GONE-EUR")
}

// Products are added to a connection and taken from it: only what changes is asked for, and
// the others continue.
func TestTheSymbolsOfAConnectionChange(t *testing.T) {
	t.Parallel()
	frames := exchangetest.Session(t)
	all := symbolsOf(frames)
	stays, goes, comes := all[0], all[1], all[2:]
	changed := make(chan struct{})
	exchange := exchangetest.Start(t, frames, func(int) exchangetest.Plan {
		return exchangetest.Plan{At: func(n int) exchangetest.Act {
			if n == 1 {
				return exchangetest.Await(changed)
			}
			return nil
		}}
	})
	p := newStreamer(t, exchange.URL).(pipeline.Resubscriber)
	changes := make(chan []schema.Symbol, 1)
	go func() {
		defer close(changed)
		assert.Eventually(t, func() bool { return len(exchange.Unsubscribed()) == 1 }, 10*time.Second, time.Millisecond)
	}()
	want := map[schema.Symbol]int{}
	for _, f := range frames {
		want[schema.Symbol(f.Product)]++
	}
	left := want[stays]
	for _, symbol := range comes {
		left += want[symbol]
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := map[schema.Symbol]int{}
	err := p.StreamChanging(ctx, []schema.Symbol{goes, stays}, changes, func(m pipeline.StreamMessage) error {
		if m.ID == "" {
			return nil
		}
		if len(got) == 0 {
			changes <- append([]schema.Symbol{stays}, comes...)
		}
		got[m.Symbol]++
		if m.Symbol != goes {
			left--
		}
		if left == 0 {
			return errEnough
		}
		return nil
	})
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, 1, exchange.Connections())
	texts := func(symbols []schema.Symbol) (texts []string) {
		for _, symbol := range symbols {
			texts = append(texts, string(symbol))
		}
		return texts
	}
	assert.Equal(t, [][]string{texts([]schema.Symbol{goes, stays}), texts(comes)}, exchange.Subscribed())
	assert.Equal(t, [][]string{{string(goes)}}, exchange.Unsubscribed())
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
	err := newStreamer(t, exchange.URL).Stream(ctx, []schema.Symbol{"BAND-GBP"}, func(m pipeline.StreamMessage) error {
		if m.ID != "" {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	url := "ws" + strings.TrimPrefix(server.URL, "http")
	server.Close()
	_, _, err := receive(t, url, 1, "BTC-USD")
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	assert.Equal(t, schema.CodeUnavailable, q.Code)
}

// A server whose certificate no one vouches for is not spoken to.
func TestAnUnknownCertificateIsRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the handshake was sent")
	}))
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	_, _, err := receive(t, "wss"+strings.TrimPrefix(server.URL, "https"), 1, "BTC-USD")
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	assert.Contains(t, q.Reason, "no trust")
}

func TestFeedURLs(t *testing.T) {
	t.Parallel()
	for url, hint := range map[string]string{
		"ws://example.com":              "want wss, or ws to this machine",
		"https://example.com":           "want wss",
		"wss://user:canary@example.com": "no user",
		"wss://":                        "not a URL",
	} {
		_, err := coinbase.New(pipeline.Env{Settings: map[string]any{"ws_url": url}})
		require.ErrorContains(t, err, hint, url)
		assert.NotContains(t, err.Error(), "canary")
	}
}

// Every frame of the session is a trade of its own. The ids must never change: they
// are in logs.
func TestTradesOfTheSession(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range exchangetest.Session(t) {
		symbol, id, err := coinbase.TradeID(f.Text)
		require.NoError(t, err, string(f.Text))
		assert.Equal(t, schema.Symbol(f.Product), symbol)
		assert.False(t, seen[id])
		seen[id] = true
	}
	_, id, err := coinbase.TradeID([]byte(`{"type":"ticker","product_id":"BTC-USD","trade_id":1}`))
	require.NoError(t, err)
	assert.Equal(t, schema.DeriveID("stream", "coinbase", "BTC-USD", "1"), id)
}

// While the callback waits nothing is read, so the exchange cannot write on
// without end: what it has sent by then is what sockets hold.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	big := fmt.Sprintf(`{"type":"ticker","product_id":"BTC-USD","trade_id":1,"x":%q}`, strings.Repeat("x", 30<<10))
	const frames = 2000 // 60 MB
	session := make([]exchangetest.Frame, frames)
	for i := range session {
		session[i] = exchangetest.Frame{Product: "BTC-USD", TradeID: 1, Text: []byte(big)}
	}
	sent := make(chan int, frames+1)
	exchange := exchangetest.Start(t, session, func(int) exchangetest.Plan {
		return exchangetest.Plan{At: func(n int) exchangetest.Act { sent <- n; return nil }}
	})
	blocked, release := make(chan struct{}), make(chan struct{})
	got := 0
	ended := make(chan error, 1)
	go func() {
		ended <- newStreamer(t, exchange.URL).Stream(context.Background(), []schema.Symbol{"BTC-USD"}, func(m pipeline.StreamMessage) error {
			if m.ID == "" {
				return nil
			}
			if got++; got == 1 {
				close(blocked)
				<-release
			}
			if got == frames {
				return io.EOF
			}
			return nil
		})
	}()
	<-blocked
	// The exchange stops sending: its count stands still.
	last := -1
	require.Eventually(t, func() bool {
		count := len(sent)
		still := count == last
		last = count
		return still
	}, 20*time.Second, 300*time.Millisecond)
	assert.Less(t, last, frames, "sent while no one reads")
	close(release)
	require.ErrorIs(t, <-ended, io.EOF)
	assert.Equal(t, frames, got, "nothing was lost")
}
