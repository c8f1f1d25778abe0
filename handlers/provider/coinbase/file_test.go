package coinbase_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/coinbase"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const ticker = `{"type":"ticker","sequence":1,"product_id":"SKL-BTC","price":"0.00001305","time":"2021-04-17T16:43:30.244075Z","trade_id":881613}`

func newReader(t testing.TB) pipeline.FileReader {
	t.Helper()
	p, err := coinbase.New(pipeline.Env{})
	require.NoError(t, err)
	return p.(pipeline.FileReader)
}

func FuzzReadFile(f *testing.F) { providertest.FuzzReadFile(f, newReader(f), nil) }

// recorded is a line of a recording; at is JSON.
func recorded(t testing.TB, at, frame string) string {
	t.Helper()
	text, err := json.Marshal(frame)
	require.NoError(t, err)
	return fmt.Sprintf(`{"received_at": %s, "frame": %s}`, at, text)
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	const tradeTime = "2021-04-17T16:43:30.244075Z"
	for name, test := range map[string]struct {
		line, received, bad string
	}{
		"a frame as it came":      {line: ticker, received: tradeTime},
		"with the end of Windows": {line: ticker + "\r", received: tradeTime},
		"a recorded frame":        {line: recorded(t, `"1618677817.0796942"`, ticker), received: "2021-04-17T16:43:37.079694Z"},
		"seconds as a number":     {line: recorded(t, "1618677817.5", ticker), received: "2021-04-17T16:43:37.5Z"},
		"whole seconds":           {line: recorded(t, `"1618677817"`, ticker), received: "2021-04-17T16:43:37Z"},
		"no time of receipt":      {line: `{"frame":` + recorded(t, "0", ticker)[len(`{"received_at": 0, "frame": `):], received: tradeTime},
		"a match":                 {line: strings.Replace(ticker, "ticker", "match", 1), received: tradeTime},
		"the last match":          {line: strings.Replace(ticker, "ticker", "last_match", 1), received: tradeTime},
		"a heartbeat":             {line: strings.Replace(ticker, "ticker", "heartbeat", 1)},
		"an empty line":           {line: " "},
		"not JSON":                {line: "AAPL,1", bad: "not a frame in JSON"},
		"cut":                     {line: ticker[:50], bad: "not a frame in JSON"},
		"no object":               {line: "[]", bad: "not a frame in JSON"},
		"no type":                 {line: "{}", bad: "it has no type"},
		"no trade":                {line: strings.Replace(ticker, "trade_id", "trade", 1), bad: "a ticker of SKL-BTC without the id of its trade"},
		"a trade as text":         {line: strings.Replace(ticker, "881613", `"x"`, 1), bad: "reading a frame"},
		"no product":              {line: strings.Replace(ticker, "SKL-BTC", "", 1), bad: "product of a ticker"},
		"price zero":              {line: strings.Replace(ticker, "0.00001305", "0", 1), bad: "bad_price"},
		"no time":                 {line: strings.Replace(ticker, "time", "at", 1), bad: "no time"},
		"an exponent":             {line: recorded(t, `"1e9"`, ticker), bad: "received_at"},
		"a bad fraction":          {line: recorded(t, `"1.0000000x"`, ticker), bad: "received_at"},
		"a negative time":         {line: recorded(t, `"-1"`, ticker), bad: "received_at"},
		"a time out of range":     {line: recorded(t, `"253402300800"`, ticker), bad: "received_at: year 10000"},
		"a frame without text":    {line: recorded(t, `"1"`, ""), bad: "reading a frame"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			quotes, bad, last := providertest.FileLines(t, newReader(t), "\n"+test.line+"\n"+ticker, nil)
			require.NoError(t, last)
			require.NotEmpty(t, quotes, "reading continues")
			assert.Equal(t, 3, quotes[len(quotes)-1].Number)
			switch {
			case test.bad != "":
				require.Len(t, bad, 1)
				require.ErrorContains(t, bad[0], test.bad)
				assert.ErrorContains(t, bad[0], "line 2: ")
			case test.received == "":
				assert.Empty(t, bad)
				assert.Len(t, quotes, 1)
			default:
				require.Len(t, quotes, 2)
				received, err := schema.ParseTime(test.received)
				require.NoError(t, err)
				assert.Equal(t, schema.QuoteFetched{Quote: schema.Quote{Provider: coinbase.Name, Symbol: "SKL-BTC"},
					RawResponse: quotes[0].Quote.RawResponse, ReceivedAt: received}, quotes[0].Quote)
				assert.Regexp(t, `^\{"type":"(ticker|match|last_match)",`+regexp.QuoteMeta(strings.TrimPrefix(ticker, `{"type":"ticker",`))+"$", string(quotes[0].Quote.RawResponse))
				assert.Equal(t, quotes[0].ID, quotes[1].ID, "one trade")
			}
		})
	}
	_, _, last := providertest.FileLines(t, newReader(t), "", nil)
	require.ErrorContains(t, last, "empty")
	_, _, last = providertest.FileLines(t, newReader(t), ticker+"\n"+strings.Repeat(" ", 600<<10)+ticker, nil)
	require.ErrorContains(t, last, "line 2 has more than 524288 bytes")
	_, _, last = providertest.FileLines(t, newReader(t), ticker, map[string]string{"time-format": "unix"})
	require.ErrorIs(t, last, pipeline.ErrOption)
}

func TestTradeID(t *testing.T) {
	t.Parallel()
	symbol, id, err := coinbase.TradeID([]byte(ticker))
	require.NoError(t, err)
	assert.Equal(t, schema.Symbol("SKL-BTC"), symbol)
	assert.Equal(t, "f081fbb3-b403-8203-a54d-2e62efd33248", id, "what was ingested once must be known forever")
	for _, other := range []string{strings.Replace(ticker, "881613", "881614", 1), strings.Replace(ticker, "SKL", "BAND", 1)} {
		_, otherID, err := coinbase.TradeID([]byte(other))
		require.NoError(t, err)
		assert.NotEqual(t, id, otherID)
	}
	_, again, err := coinbase.TradeID([]byte(strings.Replace(ticker, `"sequence":1`, `"sequence":2`, 1)))
	require.NoError(t, err)
	assert.Equal(t, id, again, "the trade is what counts")
	_, _, err = coinbase.TradeID([]byte(`{"type":"heartbeat"}`))
	require.ErrorIs(t, err, coinbase.ErrNoTrade)
}
