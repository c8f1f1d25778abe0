package shipped_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/internal/feedtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// feed is a feed as its documentation describes it; each definition names the page.
type feed struct {
	symbols []schema.Symbol
	request string // of the handshake
	// hello is what the service says first, welcome its answer to a login, and accepted that
	// to a subscription: signs of life.
	hello, welcome, accepted []string
	login                    string
	subscribe                []string
	ping, pong               string
	// trades is a frame with trades.
	trades string
	want   []streamedTrade
	// says are other frames, with what they mean.
	says map[string]schema.Code
}

// streamedTrade is what is read of a trade.
type streamedTrade struct {
	symbol            schema.Symbol
	price, size, time string
	counted           int64 // of the message: without gaps
	sequence          schema.Sequence
	id                []string
}

const feedKey = "key-of-a-test:secret-of-a-test"

// feeds are those of all definitions with a stream. Frames are those of the documentation,
// or in the form that it describes.
func feeds() map[schema.Provider]feed {
	return map[schema.Provider]feed{
		"binance": {
			symbols: []schema.Symbol{"BNB-BTC", "ETH-BTC"}, request: "/",
			subscribe: []string{`{"method":"SUBSCRIBE","params":["bnbbtc@aggTrade","ethbtc@aggTrade"],"id":1}`},
			accepted:  []string{`{"result":null,"id":1}`},
			ping:      `{"method":"LIST_SUBSCRIPTIONS","id":2}`, pong: `{"result":["bnbbtc@aggTrade"],"id":2}`,
			trades: `{"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001","q":"100","f":100,"l":105,"T":1672515782136,"m":true,"M":true}`,
			want: []streamedTrade{{symbol: "BNB-BTC", price: "0.001", size: "100", time: "2022-12-31T19:43:02.136000Z", counted: 12345, sequence: 12345,
				id: []string{"12345"}}},
			says: map[string]schema.Code{`{"e":"serverShutdown","E":1770123456789}`: schema.CodeUnavailable,
				`{"error":{"code":2,"msg":"Invalid request"},"id":1}`: schema.CodeBadResponse, `{"code":0,"msg":"Unknown property"}`: schema.CodeBadResponse},
		},
		"kraken": {
			symbols: []schema.Symbol{"MATIC-USD", "BTC-USD"}, request: "/",
			hello:     []string{`{"channel":"status","data":[{"api_version":"v2","connection_id":10393937466563694334,"system":"online","version":"2.0.0"}],"type":"update"}`},
			subscribe: []string{`{"method":"subscribe","params":{"channel":"trade","symbol":["MATIC/USD","BTC/USD"],"snapshot":true}}`},
			accepted: []string{`{"method":"subscribe","result":{"channel":"trade","snapshot":true,"symbol":"MATIC/USD"},"success":true,` +
				`"time_in":"2023-09-25T09:21:10.428340Z","time_out":"2023-09-25T09:21:10.428375Z"}`, `{"channel":"heartbeat"}`, `{"channel":"trade","type":"snapshot","data":[]}`},
			trades: `{"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,"ord_type":"market",` +
				`"trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"},{"symbol":"MATIC/USD","side":"buy","price":0.5118,"qty":14.5,` +
				`"ord_type":"limit","trade_id":4665907,"timestamp":"2023-09-25T07:49:37.708706Z"}]}`,
			want: []streamedTrade{
				{symbol: "MATIC-USD", price: "0.5117", size: "40", time: "2023-09-25T07:49:37.708706Z", counted: 4665906, sequence: 4665906, id: []string{"4665906"}},
				{symbol: "MATIC-USD", price: "0.5118", size: "14.5", time: "2023-09-25T07:49:37.708706Z", counted: 4665907, sequence: 4665907, id: []string{"4665907"}}},
			says: map[string]schema.Code{
				`{"error":"Currency pair not supported FOO/BAR","method":"subscribe","success":false,"symbol":"FOO/BAR"}`: schema.CodeUnknownSymbol,
				`{"error":"Exceeded msg rate","method":"subscribe","success":false}`:                                      schema.CodeRateLimited,
				`{"error":"Event(s) not found","method":"subscribe","success":false}`:                                     schema.CodeBadResponse},
		},
		"bitstamp": {
			symbols: []schema.Symbol{"BTC-USD", "ETH-USD"}, request: "/",
			subscribe: []string{`{"event":"bts:subscribe","data":{"channel":"live_trades_btcusd"}}`, `{"event":"bts:subscribe","data":{"channel":"live_trades_ethusd"}}`},
			accepted:  []string{`{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}`},
			ping:      `{"event":"bts:heartbeat"}`, pong: `{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}`,
			trades: `{"data":{"id":118018416,"timestamp":"1590569286","amount":0.01513062,"amount_str":"0.01513062","price":8869.13,"price_str":"8869.13",` +
				`"type":0,"microtimestamp":"1590569286049000","buy_order_id":1241191377858560,"sell_order_id":1241191376474112},"channel":"live_trades_btcusd","event":"trade"}`,
			want: []streamedTrade{{symbol: "BTC-USD", price: "8869.13", size: "0.01513062", time: "2020-05-27T08:48:06.049000Z", sequence: 118018416, id: []string{"118018416"}}},
			says: map[string]schema.Code{`{"event":"bts:request_reconnect","channel":"","data":""}`: schema.CodeUnavailable,
				`{"event":"bts:error","channel":"","data":{"code":null,"message":"Bad subscription string."}}`: schema.CodeBadResponse},
		},
		"okx": {
			symbols: []schema.Symbol{"BTC-USDT", "ETH-USDT"}, request: "/",
			subscribe: []string{`{"op":"subscribe","args":[{"channel":"trades","instId":"BTC-USDT"},{"channel":"trades","instId":"ETH-USDT"}]}`},
			accepted: []string{`{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"accb8e21"}`,
				`{"event":"channel-conn-count","channel":"trades","connCount":"2","connId":"accb8e21"}`},
			ping: "ping", pong: "pong",
			trades: `{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474","px":"42219.9","sz":"0.12060306",` +
				`"side":"buy","ts":"1630048897897","count":"3"}]}`,
			want: []streamedTrade{{symbol: "BTC-USDT", price: "42219.9", size: "0.12060306", time: "2021-08-27T07:21:37.897000Z", sequence: 130639474, id: []string{"130639474"}}},
			says: map[string]schema.Code{
				`{"event":"error","code":"60018","msg":"Wrong URL or channel:trades,instId:NO-USDT doesn't exist.","connId":"a4d3ae55"}`: schema.CodeUnknownSymbol,
				`{"event":"error","code":"60014","msg":"Requests too frequent","connId":"a4d3ae55"}`:                                     schema.CodeRateLimited,
				`{"event":"error","code":"60012","msg":"Invalid request","connId":"a4d3ae55"}`:                                           schema.CodeBadResponse,
				`{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. Please reconnect."}`:  schema.CodeUnavailable},
		},
		"bybit": {
			symbols: []schema.Symbol{"BTC-USDT", "ETH-USDT"}, request: "/",
			subscribe: []string{`{"op":"subscribe","args":["publicTrade.BTCUSDT","publicTrade.ETHUSDT"]}`},
			accepted:  []string{`{"success":true,"ret_msg":"subscribe","conn_id":"2324d924-aa4d-45b0-a858-7b8be29ab52b","op":"subscribe"}`},
			ping:      `{"op":"ping"}`, pong: `{"success":true,"ret_msg":"pong","conn_id":"0970e817-426e-429a-a679-ff7f55e0b16a","op":"ping"}`,
			trades: `{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT","S":"Buy","v":"0.001",` +
				`"p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,"seq":1783284617},{"T":1672304486866,"s":"BTCUSDT",` +
				`"S":"Sell","v":"0.002","p":"16578.49","L":"MinusTick","i":"2290000000007764263","BT":false,"seq":1783284618}]}`,
			want: []streamedTrade{
				{symbol: "BTC-USDT", price: "16578.5", size: "0.001", time: "2022-12-29T09:01:26.865000Z", id: []string{"20f43950-d8dd-5b31-9112-a178eb6023af"}},
				{symbol: "BTC-USDT", price: "16578.49", size: "0.002", time: "2022-12-29T09:01:26.866000Z", sequence: 2290000000007764263, id: []string{"2290000000007764263"}}},
			says: map[string]schema.Code{`{"success":false,"ret_msg":"Invalid symbol :[publicTrade.NOUSDT]","conn_id":"x","op":"subscribe"}`: schema.CodeUnknownSymbol,
				`{"success":false,"ret_msg":"error:handler not found","conn_id":"x","op":"subscribe"}`: schema.CodeBadResponse},
		},
		"alpaca": {
			symbols: []schema.Symbol{"AAPL", "MSFT"}, request: "/",
			hello: []string{`[{"T":"success","msg":"connected"}]`}, welcome: []string{`[{"T":"success","msg":"authenticated"}]`},
			login:     `{"action":"auth","key":"key-of-a-test","secret":"secret-of-a-test"}`,
			subscribe: []string{`{"action":"subscribe","trades":["AAPL","MSFT"]}`},
			accepted:  []string{`[{"T":"subscription","trades":["AAPL","MSFT"],"quotes":[],"bars":[]}]`},
			trades: `[{"T":"t","i":96921,"S":"AAPL","x":"V","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208123456Z","c":["@","I"],"z":"C"},` +
				`{"T":"c","S":"MSFT","x":"V","oi":1,"op":1.5,"os":1,"oc":["@"],"ci":2,"cp":1.6,"cs":1,"cc":["@"],"z":"C","t":"2021-02-22T15:51:44.208Z"},` +
				`{"T":"t","i":96922,"S":"MSFT","x":"V","p":241.01,"s":20,"t":"2021-02-22T15:51:44.209Z","c":["@"],"z":"C"}]`,
			want: []streamedTrade{
				{symbol: "AAPL", price: "126.55", size: "1", time: "2021-02-22T15:51:44.208123Z", id: []string{"V", "96921", "2021-02-22T15:51:44.208123456Z"}},
				{symbol: "MSFT", price: "241.01", size: "20", time: "2021-02-22T15:51:44.209000Z", id: []string{"V", "96922", "2021-02-22T15:51:44.209Z"}}},
			says: map[string]schema.Code{`[{"T":"error","code":402,"msg":"auth failed"}]`: schema.CodeUnauthorized,
				`[{"T":"error","code":406,"msg":"connection limit exceeded"}]`: schema.CodeRateLimited, `[{"T":"error","code":500,"msg":"internal error"}]`: schema.CodeUnavailable,
				`[{"T":"error","code":400,"msg":"invalid syntax"}]`: schema.CodeBadResponse},
		},
		"massive": {
			symbols: []schema.Symbol{"MSFT", "AAPL"}, request: "/",
			hello: []string{`[{"ev":"status","status":"connected","message":"Connected Successfully"}]`},
			login: `{"action":"auth","params":"` + feedKey + `"}`, welcome: []string{`[{"ev":"status","status":"auth_success","message":"authenticated"}]`},
			subscribe: []string{`{"action":"subscribe","params":"T.MSFT"}`, `{"action":"subscribe","params":"T.AAPL"}`},
			accepted:  []string{`[{"ev":"status","status":"success","message":"subscribed to: T.MSFT"}]`},
			trades: `[{"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.125,"s":100,"c":[0,12],"t":1536036818784,"q":3681328},` +
				`{"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.126,"s":0,"t":1536036818784,"q":3681330,"trfi":201}]`,
			want: []streamedTrade{
				{symbol: "MSFT", price: "114.125", size: "100", time: "2018-09-04T04:53:38.784000Z", sequence: 3681328, id: []string{"4", "0", "12345", "1536036818784"}},
				{symbol: "MSFT", price: "114.126", size: "0", time: "2018-09-04T04:53:38.784000Z", sequence: 3681330, id: []string{"4", "201", "12345", "1536036818784"}}},
			says: map[string]schema.Code{`[{"ev":"status","status":"auth_failed","message":"authentication failed"}]`: schema.CodeUnauthorized,
				`[{"ev":"status","status":"max_connections","message":"Maximum number of connections exceeded."}]`: schema.CodeRateLimited,
				`[{"ev":"status","status":"error","message":"unknown action"}]`:                                    schema.CodeBadResponse},
		},
	}
}

func shippedDefinition(t testing.TB, name schema.Provider) *declared.Definition {
	t.Helper()
	text, err := os.ReadFile(string(name) + ".yaml")
	require.NoError(t, err)
	d, err := declared.Parse(text)
	require.NoError(t, err)
	return d
}

// errEnough ends a stream that a test has seen enough of.
var errEnough = errors.New("enough")

// follow streams from a feed that answers as documented, and then sends these frames.
func (f feed) follow(t testing.TB, d *declared.Definition, frames []string, enough func(pipeline.StreamMessage) bool) (*feedtest.Feed, error) {
	t.Helper()
	subscriptions := 0
	server := feedtest.Start(t, func(heard string) []string {
		switch heard {
		case f.login:
			return f.welcome
		case f.ping:
			return []string{f.pong}
		}
		if subscriptions++; subscriptions == len(f.subscribe) {
			return append(append([]string{}, f.accepted...), frames...)
		}
		return nil
	}, f.hello...)
	p, err := d.New(pipeline.Env{Settings: map[string]any{"ws_url": server.URL, "api_key": feedKey}})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return server, p.(pipeline.Streamer).Stream(ctx, f.symbols, func(m pipeline.StreamMessage) error {
		if enough(m) {
			return errEnough
		}
		return nil
	})
}

// TestStreams streams from each feed: what is sent, and what is read of each frame.
func TestStreams(t *testing.T) {
	t.Parallel()
	streams := 0
	for _, s := range services() {
		d := shippedDefinition(t, s.Name)
		f, known := feeds()[s.Name]
		assert.Equal(t, d.Streams(), known, s.Name)
		if !known {
			continue
		}
		streams++
		t.Run(string(s.Name), func(t *testing.T) {
			t.Parallel()
			var got []pipeline.StreamMessage
			lives := 0
			server, err := f.follow(t, d, []string{f.trades}, func(m pipeline.StreamMessage) bool {
				if m.ID == "" {
					lives++
				} else {
					got = append(got, m)
				}
				return len(got) == len(f.want)
			})
			require.ErrorIs(t, err, errEnough)
			assert.GreaterOrEqual(t, lives, len(f.hello)+len(f.welcome)+len(f.accepted))
			require.Len(t, server.Requests(), 1)
			assert.Equal(t, f.request, server.Requests()[0].RequestURI)
			sent := f.subscribe
			if f.login != "" {
				sent = append([]string{f.login}, sent...)
			}
			assert.Equal(t, sent, server.Heard())
			for i, want := range f.want {
				want.check(t, d, got[i])
			}
			for frame, code := range f.says {
				_, err := f.follow(t, d, []string{frame}, func(pipeline.StreamMessage) bool { return false })
				var q *pipeline.QuoteError
				if assert.ErrorAs(t, err, &q, frame) {
					assert.Equal(t, code, q.Code, "%s: %v", frame, err)
				}
			}
			if f.ping != "" {
				fields, err := d.Sends(f.symbols[0])
				require.NoError(t, err)
				assert.Equal(t, f.ping, fields[len(fields)-1].Value)
				fields, err = d.ReadsFrame([]byte(f.pong), f.symbols[0], schema.NewTime(time.Now()))
				require.NoError(t, err)
				assert.Equal(t, "alive", fields[0].Value)
			}
		})
	}
	assert.Len(t, feeds(), streams)
}

func (want streamedTrade) check(t *testing.T, d *declared.Definition, m pipeline.StreamMessage) {
	t.Helper()
	assert.Equal(t, want.symbol, m.Symbol)
	assert.Equal(t, schema.DeriveID(append([]string{"stream", string(d.Name()), string(want.symbol)}, want.id...)...), m.ID)
	assert.Equal(t, want.counted, m.Sequence)
	prices, err := d.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: d.Name(), Symbol: m.Symbol}, RawResponse: m.RawResponse,
		ReceivedAt: m.ReceivedAt})
	require.NoError(t, err)
	require.Len(t, prices, 1)
	assert.Equal(t, want.price, prices[0].Price.String())
	assert.Equal(t, want.size, prices[0].Size.String())
	assert.Equal(t, want.time, prices[0].Time.Text())
	assert.Equal(t, want.sequence, prices[0].Sequence)
}
