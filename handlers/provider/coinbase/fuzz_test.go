package coinbase

import (
	"bufio"
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// recorded are frames of a session with the real service.
func recorded(f *testing.F) [][]byte {
	f.Helper()
	text, err := os.ReadFile("../../../cmd/testdata/coinbase-2021-04-17.jsonl")
	require.NoError(f, err)
	var frames [][]byte
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan() && len(frames) < 20; {
		frames = append(frames, bytes.Clone(lines.Bytes()))
	}
	return frames
}

// Whatever frame the feed sends, it is a sign of life, an error with a code, or a
// quote: an event with the id that a file of the same frames gives it, of which
// Normalize makes one price of the same symbol or says what is wrong.
func FuzzFrame(f *testing.F) {
	made, err := New(pipeline.Env{Now: time.Now})
	require.NoError(f, err)
	p := made.(*provider)
	for _, frame := range recorded(f) {
		f.Add(true, frame)
	}
	for _, seed := range []string{`{"type":"ticker","product_id":"BTC-USD","trade_id":1,"price":"1","time":"2025-06-15T14:30:00Z"}`,
		`{"type":"heartbeat"}`, `{"type":"error","message":"\u0000","reason":"no such product"}`, `{"type":"subscriptions","channels":[]}`, `{}`, `null`, ``,
		`{"type":"ticker","product_id":"ſ","trade_id":-1}`, `{"type":"ticker","product_id":"A","trade_id":9223372036854775808}`, "\xff"} {
		f.Add(true, []byte(seed))
		f.Add(false, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, isText bool, frame []byte) {
		message, _, err := p.read(isText, frame)
		if err != nil {
			var q *pipeline.QuoteError
			require.ErrorAs(t, err, &q)
			require.Equal(t, schema.CodeBadResponse, q.Code)
			return
		}
		if message.ID == "" {
			require.Empty(t, message.RawResponse)
			return
		}
		require.True(t, isText && message.Sequence > 0)
		symbol, id, err := TradeID(frame)
		require.NoError(t, err)
		require.Equal(t, []string{id, string(symbol)}, []string{message.ID, string(message.Symbol)})
		quote := schema.QuoteFetched{Quote: schema.Quote{Provider: Name, Symbol: message.Symbol}, RawResponse: message.RawResponse, ReceivedAt: message.ReceivedAt}
		if len(frame) <= maxFrame {
			_, _, err = schema.Event{ID: message.ID, Source: "test", Payload: quote}.Encode()
			require.NoError(t, err)
		}
		prices, err := p.Normalize(quote)
		if err != nil {
			var q *pipeline.QuoteError
			require.ErrorAs(t, err, &q)
			return
		}
		require.Len(t, prices, 1)
		require.Equal(t, message.Symbol, prices[0].Symbol)
		require.Positive(t, prices[0].Price.Sign())
	})
}
