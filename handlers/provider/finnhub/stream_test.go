package finnhub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/finnhub"
	"github.com/pricemill/pricemill/internal/feedtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const streamKey = "key-of-a-test"

// errEnough ends a stream that a test has seen enough of.
var errEnough = errors.New("enough")

// play is a feed that sends frames once a symbol was subscribed to.
func play(t testing.TB, last schema.Symbol, frames ...string) *feedtest.Feed {
	t.Helper()
	return feedtest.Start(t, func(heard string) []string {
		if strings.Contains(heard, string(last)) {
			return frames
		}
		return nil
	})
}

// receive streams until there were so many trades, or until the stream ends.
func receive(t testing.TB, feed *feedtest.Feed, trades int, symbols ...schema.Symbol) (got []pipeline.StreamMessage, lives int, err error) {
	t.Helper()
	var logs bytes.Buffer
	p, err := finnhub.New(pipeline.Env{Settings: map[string]any{"ws_url": feed.URL, "api_key": streamKey}, Log: slog.New(slog.NewTextHandler(&logs, nil))})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = p.(pipeline.Streamer).Stream(ctx, symbols, func(m pipeline.StreamMessage) error {
		if m.ID == "" {
			lives++
		} else {
			got = append(got, m)
		}
		if len(got) == trades {
			return errEnough
		}
		return nil
	})
	assert.NotContains(t, fmt.Sprintf("%v %+v %s", err, errors.Unwrap(err), logs.String()), streamKey)
	return got, lives, err
}

const (
	first  = `{"s":"BINANCE:BTCUSDT","p":7296.89,"t":1575526691134,"v":0.011467,"c":["1"]}`
	second = `{"s":"IC MARKETS:1","p":7296.9000000000001,"t":1575526691135,"v":0,"c":null}`
)

// A frame with several trades becomes one for each, of which Normalize reads one price.
func TestStream(t *testing.T) {
	t.Parallel()
	feed := play(t, "IC MARKETS:1", `{"type":"ping"}`, `{"data":[`+first+`,`+second+`],"type":"trade"}`)
	got, lives, err := receive(t, feed, 2, "BINANCE:BTCUSDT", "IC MARKETS:1")
	require.ErrorIs(t, err, errEnough)
	assert.Equal(t, 1, lives)
	assert.Equal(t, "/?token="+streamKey, feed.Requests()[0].RequestURI)
	assert.Equal(t, []string{`{"type":"subscribe","symbol":"BINANCE:BTCUSDT"}`, `{"type":"subscribe","symbol":"IC MARKETS:1"}`}, feed.Heard())
	p, err := finnhub.New(pipeline.Env{})
	require.NoError(t, err)
	for i, want := range []struct {
		trade string
		price pipeline.Price
	}{
		{first, pipeline.Price{Symbol: "BINANCE:BTCUSDT", Price: schema.MustDecimal("7296.89"), Size: schema.MustDecimal("0.011467"),
			Time: schema.NewTime(time.UnixMilli(1575526691134))}},
		{second, pipeline.Price{Symbol: "IC MARKETS:1", Price: schema.MustDecimal("7296.9000000000001"), Time: schema.NewTime(time.UnixMilli(1575526691135))}},
	} {
		assert.Equal(t, `{"data":[`+want.trade+`],"type":"trade"}`, string(got[i].RawResponse))
		assert.Equal(t, want.price.Symbol, got[i].Symbol)
		assert.Zero(t, got[i].Sequence, "the service does not count")
		prices, err := p.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: finnhub.Name, Symbol: got[i].Symbol},
			RawResponse: got[i].RawResponse, ReceivedAt: got[i].ReceivedAt})
		require.NoError(t, err)
		assert.Equal(t, []pipeline.Price{want.price}, prices)
	}
	assert.Equal(t, schema.DeriveID("stream", "finnhub", "BINANCE:BTCUSDT", "1575526691134", "7296.89", "0.011467", `["1"]`), got[0].ID,
		"ids are in logs: they must never change")
}

// Trades that say the same are trades of their own, in one frame or in several; on another
// connection they have the same ids.
func TestTradesThatSayTheSame(t *testing.T) {
	t.Parallel()
	later := strings.Replace(first, "691134", "691135", 1)
	ids := func(frames ...string) []string {
		got, _, err := receive(t, play(t, "BTCUSDT", frames...), 4, "BINANCE:BTCUSDT")
		require.ErrorIs(t, err, errEnough)
		var ids []string
		for _, m := range got {
			ids = append(ids, m.ID)
		}
		return ids
	}
	together := ids(`{"type":"trade","data":[` + first + `,` + first + `,` + first + `,` + later + `]}`)
	unique := map[string]bool{}
	for _, id := range together {
		unique[id] = true
	}
	assert.Len(t, unique, 4)
	assert.Equal(t, together, ids(`{"type":"trade","data":[`+first+`]}`, `{"type":"trade","data":[`+first+`,`+first+`]}`, `{"type":"trade","data":[`+later+`]}`))
}

func TestWhatTheFeedSays(t *testing.T) {
	t.Parallel()
	for frame, want := range map[string]schema.Code{
		`{"type":"error","msg":"Subscribing to too many symbols, ` + streamKey + `"}`: schema.CodeBadResponse,
		`{"type":"error","msg":"Invalid symbol BTCUSDT"}`:                             schema.CodeUnknownSymbol,
		`<html>`: schema.CodeBadResponse,
		`{}`:     schema.CodeBadResponse,
		`{"type":"trade","data":[{"s":"OTHER","p":1,"t":1,"v":1}]}`:                             schema.CodeBadResponse,
		`{"type":"trade","data":[{"s":"BTCUSDT","p":1,"t":1,"v":1,"c":["` + streamKey + `"]}]}`: schema.CodeBadResponse,
		`{"type":"trade","data":[],"DATA":[{"s":"BTCUSDT","p":1},{"s":"BTCUSDT","p":2}]}`:       schema.CodeBadResponse,
	} {
		_, _, err := receive(t, play(t, "BTCUSDT", frame), 1, "BTCUSDT")
		var q *pipeline.QuoteError
		if assert.ErrorAs(t, err, &q, frame) {
			assert.Equal(t, want, q.Code, frame)
		}
	}
	got, lives, err := receive(t, play(t, "ETHUSDT", `{"type":"error","msg":"Invalid symbol ETHUSDT"}`, `{"type":"trade","data":[]}`,
		`{"type":"trade","data":[{"s":"BTCUSDT","p":1,"t":1,"v":1}]}`), 1, "BTCUSDT", "ETHUSDT")
	require.ErrorIs(t, err, errEnough, "the other symbol is streamed")
	assert.Equal(t, schema.Symbol("BTCUSDT"), got[0].Symbol)
	assert.Equal(t, 2, lives)
}

func TestSettingsOfTheFeed(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"ws://example.com", "https://example.com", "wss://user:canary@example.com", "wss://"} {
		_, err := finnhub.New(pipeline.Env{Settings: map[string]any{"ws_url": url}})
		require.ErrorContains(t, err, "ws_url: ")
		assert.NotContains(t, err.Error(), "canary")
	}
	feed := feedtest.Start(t, nil)
	p, err := finnhub.New(pipeline.Env{Settings: map[string]any{"ws_url": feed.URL}})
	require.NoError(t, err)
	err = p.(pipeline.Streamer).Stream(t.Context(), []schema.Symbol{"A"}, nil)
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	assert.Equal(t, schema.CodeNotConfigured, q.Code)
	assert.Empty(t, feed.Requests())
}
