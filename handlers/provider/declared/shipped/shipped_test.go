package shipped_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a service as its documentation describes it; each definition names the page.
type service struct {
	providertest.REST
	// price and time are the members of Answer with the price and its time, with the value
	// of each; a bare value is one of an array.
	price, time string
	want        map[string]any
}

// services are those of all definitions. Answers are those of the documentation.
func services() []service {
	const unknown = schema.CodeUnknownSymbol
	return []service{
		{providertest.REST{Name: "kraken", Symbol: "BTC-USD", Request: "/Trades?count=1&pair=XBTUSD",
			Answer:        `{"error":[],"result":{"XXBTZUSD":[["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952]],"last":"1688671969993150842"}}`,
			UnknownStatus: 200, UnknownAnswer: `{"error":["EQuery:Unknown asset pair"]}`},
			`"30243.40000"`, `1688669597.8277369`,
			map[string]any{"price": "30243.4", "size": "0.34507674", "time": "2023-07-06T18:53:17.827736Z", "sequence": 61044952}},
		{providertest.REST{Name: "bitstamp", Symbol: "BTC-USD", Request: "/ticker/btcusd/",
			Answer: `{"timestamp":"1643640186","open":"2211.00","high":"2811.00","low":"2188.97","last":"2211.00","volume":"213.26801100",` +
				`"vwap":"2189.80","bid":"2188.97","ask":"2211.00","side":"0","open_24":"2211.00","percent_change_24":"13.57"}`,
			UnknownStatus: 404, UnknownAnswer: `{}`, NotFound: unknown},
			`"last":"2211.00"`, `"timestamp":"1643640186"`,
			map[string]any{"price": "2211", "time": "2022-01-31T14:43:06Z"}},
		{providertest.REST{Name: "okx", Symbol: "BTC-USDT", Request: "/market/trades?instId=BTC-USDT&limit=1",
			Answer:        `{"code":"0","msg":"","data":[{"instId":"BTC-USDT","side":"sell","sz":"0.00001","px":"29963.2","tradeId":"242720720","ts":"1654161646974"}]}`,
			UnknownStatus: 200, UnknownAnswer: `{"code":"51001","data":[],"msg":"Instrument ID does not exist"}`},
			`"px":"29963.2"`, `"ts":"1654161646974"`,
			map[string]any{"price": "29963.2", "size": "0.00001", "time": "2022-06-02T09:20:46.974Z", "sequence": 242720720}},
		{providertest.REST{Name: "bybit", Symbol: "BTC-USDT", Request: "/market/recent-trade?category=spot&limit=1&symbol=BTCUSDT",
			Statuses: map[int]schema.Code{403: schema.CodeRateLimited},
			Answer: `{"retCode":0,"retMsg":"OK","result":{"category":"spot","list":[{"execId":"2100000000007764263","symbol":"BTCUSDT",` +
				`"price":"16618.49","size":"0.00012","side":"Buy","time":"1672052955758","isBlockTrade":false}]},"retExtInfo":{},"time":1672053054358}`,
			UnknownStatus: 200, UnknownAnswer: `{"retCode":10001,"retMsg":"Not supported symbols","result":{},"retExtInfo":{},"time":1672053054358}`},
			`"price":"16618.49"`, `"time":"1672052955758"`,
			map[string]any{"price": "16618.49", "size": "0.00012", "time": "2022-12-26T11:09:15.758Z", "sequence": 2100000000007764263}},
		{providertest.REST{Name: "binance", Symbol: "BNB-BTC", Request: "/trades?limit=1&symbol=BNBBTC",
			Statuses: map[int]schema.Code{403: schema.CodeRateLimited, 418: schema.CodeRateLimited},
			Answer: `[{"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1499865549590,` +
				`"isBuyerMaker":true,"isBestMatch":true}]`,
			UnknownStatus: 400, UnknownAnswer: `{"code":-1121,"msg":"Invalid symbol."}`},
			`"price":"4.00000100"`, `"time":1499865549590`,
			map[string]any{"price": "4.000001", "size": "12", "time": "2017-07-12T13:19:09.59Z", "sequence": 28457}},
		{providertest.REST{Name: "frankfurter", Symbol: "EUR-USD", Request: "/latest?base=EUR&symbols=USD",
			Answer:        `{"amount":1.0,"base":"EUR","date":"2024-11-25","rates":{"USD":1.0495}}`,
			UnknownStatus: 404, UnknownAnswer: `{"message":"not found"}`},
			`"USD":1.0495`, `"date":"2024-11-25"`,
			map[string]any{"price": "1.0495", "time": "2024-11-25T00:00:00Z"}},
		{providertest.REST{Name: "coingecko", Symbol: "BITCOIN", KeyHeader: "x-cg-demo-api-key",
			Request:       "/simple/price?ids=bitcoin&include_last_updated_at=true&precision=full&vs_currencies=usd",
			Answer:        `{"bitcoin":{"usd":67187.3358936566,"last_updated_at":1711356300}}`,
			UnknownStatus: 200, UnknownAnswer: `{}`},
			`"usd":67187.3358936566`, `"last_updated_at":1711356300`,
			map[string]any{"price": "67187.3358936566", "time": "2024-03-25T08:45:00Z"}},
		{providertest.REST{Name: "twelvedata", Symbol: "AAPL", KeyHeader: "Authorization", KeyPrefix: "apikey ", Request: "/quote?symbol=AAPL",
			Answer: `{"symbol":"AAPL","name":"Apple Inc","exchange":"NASDAQ","mic_code":"XNAS","currency":"USD","datetime":"2021-09-16",` +
				`"timestamp":1631772000,"last_quote_at":1631772000,"open":"148.44000","high":"148.96840","low":"147.22099","close":"148.85001",` +
				`"volume":"67903927","previous_close":"149.09000","is_market_open":false}`,
			UnknownStatus: 200, UnknownAnswer: `{"code":404,"message":"**symbol** not found: NOPE","status":"error"}`},
			`"close":"148.85001"`, `"last_quote_at":1631772000`,
			map[string]any{"price": "148.85001", "time": "2021-09-16T06:00:00Z"}},
		{providertest.REST{Name: "alphavantage", Symbol: "IBM", KeyQuery: "apikey", Request: "/query?apikey={key}&function=GLOBAL_QUOTE&symbol=IBM",
			Answer: `{"Global Quote":{"01. symbol":"IBM","02. open":"226.5000","03. high":"228.0000","04. low":"225.1000","05. price":"227.4100",` +
				`"06. volume":"3215112","07. latest trading day":"2024-11-27","08. previous close":"227.0000","09. change":"0.4100","10. change percent":"0.1806%"}}`,
			UnknownStatus: 200, UnknownAnswer: `{"Global Quote":{}}`},
			`"05. price":"227.4100"`, `"07. latest trading day":"2024-11-27"`,
			map[string]any{"price": "227.41", "time": "2024-11-27T00:00:00Z"}},
		{providertest.REST{Name: "tiingo", Symbol: "AAPL", KeyHeader: "Authorization", KeyPrefix: "Token ", Request: "/iex/AAPL",
			Answer: `[{"ticker":"AAPL","timestamp":"2019-01-30T10:33:38.186520297-05:00","quoteTimestamp":"2019-01-30T10:33:38.186520297-05:00",` +
				`"lastSaleTimestamp":"2019-01-30T10:33:34.176037579-05:00","last":162.37,"lastSize":100,"tngoLast":162.33,"prevClose":154.68,` +
				`"open":161.83,"high":163.25,"low":160.38,"mid":162.67,"volume":4363380,"bidSize":100,"bidPrice":162.34,"askSize":100,"askPrice":163.0}]`,
			UnknownStatus: 200, UnknownAnswer: `[]`},
			`"tngoLast":162.33`, `"timestamp":"2019-01-30T10:33:38.186520297-05:00"`,
			map[string]any{"price": "162.33", "time": "2019-01-30T15:33:38.18652Z"}},
		{providertest.REST{Name: "alpaca", Symbol: "AAPL", KeyHeader: "APCA-API-SECRET-KEY", IDHeader: "APCA-API-KEY-ID",
			Request:       "/stocks/AAPL/trades/latest?feed=iex",
			Answer:        `{"symbol":"AAPL","trade":{"t":"2021-02-06T13:04:56.334320128Z","x":"C","p":387.62,"s":100,"c":[" ","T"],"i":52983525029461,"z":"B"}}`,
			UnknownStatus: 400, UnknownAnswer: `{"message":"code=400, message=invalid symbol: NOPE"}`},
			`"p":387.62`, `"t":"2021-02-06T13:04:56.334320128Z"`,
			map[string]any{"price": "387.62", "size": "100", "time": "2021-02-06T13:04:56.33432Z"}},
		{providertest.REST{Name: "massive", Symbol: "AAPL", KeyHeader: "Authorization", KeyPrefix: "Bearer ", Request: "/last/trade/AAPL",
			Answer: `{"request_id":"f05562305bd26ced64b98ed68b3c5d96","results":{"T":"AAPL","c":[37],"f":1617901342969796400,"i":"118749",` +
				`"p":129.8473,"q":3135876,"r":202,"s":25,"t":1617901342968000000,"x":4,"y":1617901342968000000,"z":3},"status":"OK"}`,
			UnknownStatus: 404, UnknownAnswer: `{"status":"NOT_FOUND","request_id":"f05562305bd26ced64b98ed68b3c5d96","message":"Data not found."}`},
			`"p":129.8473`, `"t":1617901342968000000`,
			map[string]any{"price": "129.8473", "size": "25", "time": "2021-04-08T17:02:22.968Z", "sequence": 3135876}},
		{providertest.REST{Name: "fred", Symbol: "DGS10", KeyQuery: "api_key",
			Request: "/series/observations?api_key={key}&file_type=json&limit=20&series_id=DGS10&sort_order=desc",
			Answer: `{"realtime_start":"2024-11-29","realtime_end":"2024-11-29","observation_start":"1600-01-01","observation_end":"9999-12-31","units":"lin",` +
				`"output_type":1,"file_type":"json","order_by":"observation_date","sort_order":"desc","count":16412,"offset":0,"limit":20,"observations":[` +
				`{"realtime_start":"2024-11-29","realtime_end":"2024-11-29","date":"2024-11-28","value":"."},` +
				`{"realtime_start":"2024-11-29","realtime_end":"2024-11-29","date":"2024-11-27","value":"4.25"}]}`,
			UnknownStatus: 400, UnknownAnswer: `{"error_code":400,"error_message":"Bad Request.  The series does not exist."}`},
			`"value":"4.25"`, `"date":"2024-11-27"`,
			map[string]any{"price": "4.25", "time": "2024-11-27T00:00:00Z"}},
		{providertest.REST{Name: "ecb", Symbol: "EUR-USD", Request: "/EXR/D.USD.EUR.SP00.A?format=jsondata&lastNObservations=1",
			Answer: `{"header":{"id":"b5a4","test":false,"prepared":"2024-11-25T16:10:00.000+01:00","sender":{"id":"ECB"}},"dataSets":[{"action":"Replace",` +
				`"validFrom":"2024-11-25T16:10:00.000+01:00","series":{"0:0:0:0:0":{"attributes":[0,null,0],"observations":{"0":[1.0495,0,0,null,null]}}}}],` +
				`"structure":{"name":"Exchange Rates","dimensions":{"series":[{"id":"FREQ","name":"Frequency","values":[{"id":"D","name":"Daily"}]},` +
				`{"id":"CURRENCY","name":"Currency","values":[{"id":"USD","name":"US dollar"}]}],"observation":[{"id":"TIME_PERIOD","name":"Time period or range",` +
				`"role":"time","values":[{"id":"2024-11-25","name":"2024-11-25","start":"2024-11-25T00:00:00.000+01:00","end":"2024-11-25T23:59:59.999+01:00"}]}]}}}`,
			UnknownStatus: 404, UnknownAnswer: `{}`, NotFound: unknown},
			`1.0495`, `"id":"2024-11-25"`,
			map[string]any{"price": "1.0495", "time": "2024-11-25T00:00:00Z"}},
	}
}

// TestConformance runs the suite of compiled providers on each definition, of at most 60
// lines, against a service that answers as documented. The suite is for prices above zero:
// it does without the key signed.
func TestConformance(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	assert.Len(t, services(), len(files))
	for _, s := range services() {
		t.Run(string(s.Name), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(string(s.Name) + ".yaml")
			require.NoError(t, err)
			assert.LessOrEqual(t, strings.Count(string(text), "\n"), 60)
			assert.Contains(t, string(text), "# https://", "the documentation")
			d, err := declared.Parse([]byte(strings.Replace(string(text), "  signed: true\n", "", 1)))
			require.NoError(t, err)
			assert.Equal(t, s.Name, d.Name())
			if s.NotFound == "" {
				s.NotFound = schema.CodeBadResponse
			}
			s.New, s.Golden = d.New, s.golden(t)
			providertest.RunREST(t, s.REST)
		})
	}
}

// golden writes the answer and what it means, and the answer with other prices and times.
func (s service) golden(t *testing.T) string {
	t.Helper()
	require.Contains(t, s.Answer, s.price)
	require.Contains(t, s.Answer, s.time)
	with := func(member, value string) string {
		name, _, isMember := strings.Cut(member, `":`)
		if isMember {
			value = name + `":` + value
		}
		return strings.Replace(s.Answer, member, value, 1)
	}
	without := func(member string) string {
		if strings.Contains(member, `":`) {
			return strings.Replace(s.Answer, member, `"other":1`, 1)
		}
		return with(member, "{}")
	}
	s.want["symbol"] = s.Symbol
	write := func(cases map[string]map[string]any, name string, directory string) {
		for _, c := range cases {
			c["symbol"] = s.Symbol
		}
		text, err := json.Marshal(cases)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(directory, name), text, 0o600))
	}
	bad := func(payload string, code schema.Code) map[string]any {
		return map[string]any{"payload": payload, "code": code}
	}
	directory := t.TempDir()
	exact := maps.Clone(s.want)
	exact["price"] = "612345.123456789012345678"
	write(map[string]map[string]any{
		"as documented":        {"payload": s.Answer, "prices": []any{s.want}},
		"18 fractional digits": {"payload": with(s.price, "612345.123456789012345678"), "prices": []any{exact}},
		"as a text":            {"payload": with(s.price, `"612345.123456789012345678"`), "prices": []any{exact}},
	}, "prices.json", directory)
	refused := map[string]map[string]any{
		"price zero": bad(with(s.price, "0"), schema.CodeBadPrice), "price negative": bad(with(s.price, "-1"), schema.CodeBadPrice),
		"price absent": bad(without(s.price), schema.CodeBadPrice), "price null": bad(with(s.price, "null"), schema.CodeBadPrice),
		"price NaN": bad(with(s.price, `"NaN"`), schema.CodeBadPrice), "price of 19 integer digits": bad(with(s.price, "1234567890123456789"), schema.CodeBadPrice),
		"price of 19 fractional digits": bad(with(s.price, "0.1234567890123456789"), schema.CodeBadPrice),
		"time absent":                   bad(strings.Replace(without(s.time), `"timestamp":1631772000`, `"more":1`, 1), schema.CodeBadResponse),
		"time out of range":             bad(with(s.time, "99999999999999999999"), schema.CodeBadResponse),
	}
	if s.UnknownStatus == http.StatusOK { // no other answer is read
		refused["an unknown symbol"] = bad(s.UnknownAnswer, schema.CodeUnknownSymbol)
	}
	write(refused, "refused.json", directory)
	return directory
}

// TestLimitsInBodies: some services say with status 200 that a limit is reached, and one of
// them repeats the key.
func TestLimitsInBodies(t *testing.T) {
	t.Parallel()
	const key = "key-of-a-test"
	for name, bodies := range map[schema.Provider]map[string]schema.Code{
		"alphavantage": {
			`{"Information":"We have detected your API key as ` + key + ` and our standard API rate limit is 25 requests per day."}`: schema.CodeRateLimited,
			`{"Note":"Our standard API call frequency is 5 calls per minute."}`:                                                      schema.CodeRateLimited,
			`{"Error Message":"the parameter apikey is invalid or missing."}`:                                                        schema.CodeUnauthorized,
			`{"Global Quote":{"you":"` + key + `"}}`:                                                                                 schema.CodeBadResponse,
		},
		"kraken":     {`{"error":["EAPI:Rate limit exceeded"]}`: schema.CodeRateLimited, `{"error":["EService:Unavailable"]}`: schema.CodeUnavailable},
		"okx":        {`{"code":"50011","msg":"Too Many Requests","data":[]}`: schema.CodeRateLimited},
		"bybit":      {`{"retCode":10006,"retMsg":"Too many visits!"}`: schema.CodeRateLimited},
		"twelvedata": {`{"code":429,"status":"error"}`: schema.CodeRateLimited, `{"code":401,"status":"error"}`: schema.CodeUnauthorized},
	} {
		text, err := os.ReadFile(string(name) + ".yaml")
		require.NoError(t, err)
		d, err := declared.Parse(text)
		require.NoError(t, err)
		for body, want := range bodies {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
			p, err := d.New(pipeline.Env{Settings: map[string]any{"base_url": server.URL, "api_key": key}})
			require.NoError(t, err)
			_, err = p.Quote(t.Context(), "AAPL")
			var q *pipeline.QuoteError
			if assert.ErrorAs(t, err, &q, body) {
				assert.Equal(t, want, q.Code, body)
				assert.NotContains(t, err.Error(), key)
			}
			server.CloseClientConnections()
			server.Close()
		}
	}
}

// TestRefusals: what else the services say instead of a price, and by which status.
func TestRefusals(t *testing.T) {
	t.Parallel()
	type answer struct {
		status int
		body   string
	}
	for name, answers := range map[schema.Provider]map[answer]schema.Code{
		"tiingo": {
			{404, `{"detail":"Not found."}`}:                                               schema.CodeUnknownSymbol,
			{200, `{"detail":"Error: You have run over your hourly request allocation."}`}: schema.CodeRateLimited,
		},
		"bybit": {{403, `access too frequent`}: schema.CodeRateLimited},
		"binance": {
			{418, ``}: schema.CodeRateLimited, {403, `<html>`}: schema.CodeRateLimited,
			{400, `{"code":-1100,"msg":"Illegal characters found in parameter 'symbol'"}`}: schema.CodeUnknownSymbol,
			{400, `{"code":-1102,"msg":"Mandatory parameter"}`}:                            schema.CodeBadResponse,
		},
		"alpaca": {
			{404, `{"code":40410000,"message":"no trade found for NOPE"}`}: schema.CodeUnknownSymbol,
			{404, `{"message":"endpoint not found."}`}:                     schema.CodeBadResponse,
			{403, `{"message":"forbidden."}`}:                              schema.CodeUnauthorized,
		},
		"massive": {
			{401, `{"status":"ERROR","request_id":"x","error":"Unknown API Key"}`}: schema.CodeUnauthorized,
			{429, `{"status":"ERROR","request_id":"x"}`}:                           schema.CodeRateLimited,
		},
		"fred": {
			{400, `{"error_code":400,"error_message":"Bad Request.  The value for variable api_key is not registered."}`}: schema.CodeUnauthorized,
			{400, `{"error_code":400,"error_message":"Bad Request.  The value for variable limit is not an integer."}`}:   schema.CodeBadResponse,
			{200, `{"observations":[{"date":"2024-11-28","value":"."}]}`}:                                                 schema.CodeBadResponse,
		},
		"ecb": {{404, `No results found.`}: schema.CodeUnknownSymbol},
		"okx": {{200, `{"code":"50013","msg":"busy"}`}: schema.CodeUnavailable, {500, `{"code":"50026"}`}: schema.CodeUnavailable},
		"alphavantage": {
			{200, `{"Information":"Thank you! This is a premium endpoint."}`}: schema.CodeUnauthorized,
			{200, `{"Error Message":"Invalid API call."}`}:                    schema.CodeUnknownSymbol,
		},
		"twelvedata": {
			{404, `{"code":404,"message":"**symbol** not found: NOPE"}`}:                           schema.CodeUnknownSymbol,
			{400, `{"code":400,"message":"**symbol** parameter is invalid"}`}:                      schema.CodeUnknownSymbol,
			{404, `{"code":404,"message":"This symbol is available starting with the Pro plan."}`}: schema.CodeUnauthorized,
			{404, `{"code":404,"message":"no data"}`}:                                              schema.CodeBadResponse,
			// The start of a day's bar is no time of a price.
			{200, `{"symbol":"AAPL","close":"148.85","timestamp":1631772000}`}: schema.CodeBadResponse,
		},
	} {
		text, err := os.ReadFile(string(name) + ".yaml")
		require.NoError(t, err)
		d, err := declared.Parse(text)
		require.NoError(t, err)
		for a, want := range answers {
			_, err := d.Reads(schema.QuoteFetched{Quote: schema.Quote{Provider: name, Symbol: "AAPL"}, RawResponse: schema.RawResponse(a.body),
				ReceivedAt: schema.NewTime(time.Date(2025, 6, 15, 15, 0, 0, 0, time.UTC))}, a.status)
			var q *pipeline.QuoteError
			if assert.ErrorAs(t, err, &q, "%s: %v", name, a) {
				assert.Equal(t, want, q.Code, "%s: %v: %v", name, a, err)
			}
		}
	}
}

// TestYieldsBelowZero: a series of rates can be negative.
func TestYieldsBelowZero(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("fred.yaml")
	require.NoError(t, err)
	d, err := declared.Parse(text)
	require.NoError(t, err)
	prices, err := d.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: "fred", Symbol: "T10Y2Y", RequestID: "r"},
		RawResponse: schema.RawResponse(`{"observations":[{"date":"2024-06-26","value":"-0.42"}]}`), ReceivedAt: schema.NewTime(time.Now())})
	require.NoError(t, err)
	assert.True(t, prices[0].Signed)
	assert.Equal(t, "-0.42", prices[0].Price.String())
}
