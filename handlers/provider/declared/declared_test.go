package declared_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
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

func read(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

func parse(t testing.TB, text string) *declared.Definition {
	t.Helper()
	d, err := declared.Parse([]byte(text))
	require.NoError(t, err)
	return d
}

// acme is the definition in testdata, with replacements.
func acme(t testing.TB, replace ...string) string {
	t.Helper()
	text := read(t, "testdata/acme.yaml")
	for i := 0; i < len(replace); i += 2 {
		require.Contains(t, text, replace[i])
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}

const trade = `{"data":[{"pair":"BTC/USD","last":612345.67,"qty":"0.5","trade":862973857,"at":1749998100.123456}]}`

// The suite of compiled providers, with the key in each place where it may be.
func TestConformance(t *testing.T) {
	t.Parallel()
	suite := providertest.REST{
		Name: "acme", Symbol: "BTC-USD", Request: "/trades/BTC%2FUSD?count=1", Answer: trade,
		UnknownStatus: 404, UnknownAnswer: `{"error":"unknown pair"}`, NotFound: schema.CodeBadResponse,
	}
	header, token, query, none := suite, suite, suite, suite
	header.KeyHeader, header.New = "X-Api-Key", parse(t, acme(t)).New
	token.KeyHeader, token.KeyPrefix = "Authorization", "Token "
	token.New = parse(t, acme(t, `X-Api-Key: "{key}"`, `Authorization: "Token {key}"`)).New
	query.KeyQuery, query.Request = "apikey", "/trades/BTC%2FUSD?apikey={key}&count=1"
	query.New = parse(t, acme(t, `headers: {X-Api-Key: "{key}"}`+"\n", "", "?count=1", "?count=1&apikey={key}")).New
	none.UnknownStatus = 200
	none.New = parse(t, acme(t, `headers: {X-Api-Key: "{key}"}`+"\n", "")).New
	for name, s := range map[string]providertest.REST{"header": header, "token": token, "query": query, "none": none} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.RunREST(t, s)
		})
	}
}

// A provider that was declared by docs/providers.md from the service's documentation alone.
func TestAProviderFromItsDocumentation(t *testing.T) {
	t.Parallel()
	text := read(t, "testdata/kucoin.yaml")
	assert.LessOrEqual(t, strings.Count(text, "\n"), 40)
	d := parse(t, text)
	providertest.RunREST(t, providertest.REST{
		Name: "kucoin", New: d.New, Symbol: "BTC-USDT", Request: "/market/orderbook/level1?symbol=BTC-USDT",
		Answer: `{"code":"200000","data":{"sequence":"1550467636704","price":"0.03715005","size":"0.17","bestAsk":"0.03715004",` +
			`"bestAskSize":"1.788","bestBid":"0.03710768","bestBidSize":"3.803","time":1550653727731}}`,
		UnknownStatus: 200, UnknownAnswer: `{"code":"200000","data":null}`, NotFound: schema.CodeBadResponse,
		Golden: "testdata/kucoin",
	})
}

func FuzzNormalize(f *testing.F) {
	p, err := parse(f, acme(f)).New(pipeline.Env{})
	require.NoError(f, err)
	providertest.FuzzNormalize(f, "acme", p)
}

// FuzzParse: whatever a file holds, there is a definition or an error; what a definition
// reads is a price or an error with a code.
func FuzzParse(f *testing.F) {
	f.Add(acme(f), trade)
	f.Add(acme(f, ".last", "[.last] | first | tonumber", ".data[-1]", "first(.data[] | objects)"), trade)
	f.Add(definition(f, "acmestream"), "["+acmeTrade("BTC/USD", 7)+"]")
	f.Add(definition(f, "exchange"), `{"type":"match","product_id":"BTC-USD","price":"1","time":"2021-04-17T16:43:30Z","trade_id":1}`)
	f.Fuzz(func(t *testing.T, text, answer string) {
		d, err := declared.Parse([]byte(text))
		if err != nil {
			require.ErrorIs(t, err, declared.ErrDefinition)
			return
		}
		for _, request := range []string{"r", ""} { // an answer, and perhaps a frame
			fetched := fetchedBy(answer)
			fetched.RequestID = request
			prices, err := d.Normalize(fetched)
			if err != nil {
				var q *pipeline.QuoteError
				require.ErrorAs(t, err, &q)
				continue
			}
			again, err := d.Normalize(fetched)
			require.NoError(t, err)
			require.Equal(t, prices, again)
		}
		if d.Streams() {
			_, err := d.Sends("BTC-USD")
			if err == nil {
				_, err = d.ReadsFrame([]byte(answer), "BTC-USD", schema.NewTime(time.Now()))
			}
			var q *pipeline.QuoteError
			require.True(t, err == nil || errors.As(err, &q), "%v", err)
		}
	})
}

func fetchedBy(answer string) schema.QuoteFetched {
	return schema.QuoteFetched{Quote: schema.Quote{Provider: "acme", Symbol: "BTC-USD", RequestID: "r"},
		RawResponse: schema.RawResponse(answer), ReceivedAt: schema.NewTime(time.Date(2025, 6, 15, 15, 0, 0, 0, time.UTC))}
}

// What is wrong is said by name, all at once.
func TestParseNamesFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		replace []string
		want    []string
	}{
		"an unknown key":        {[]string{"price:", "pirce:"}, []string{`line 16: there is no key "pirce" here; did you mean "price"?`}},
		"a key of a rule":       {[]string{"means:", "mean:"}, []string{`line 9: there is no key "mean" here; did you mean "means"?`}},
		"not a number":          {[]string{"calls: 60", "calls: many"}, []string{"line 6: `many`: want a whole number"}},
		"half a call":           {[]string{"calls: 60", "calls: 1.5"}, []string{"line 6: limits: calls: 1.5: want a whole number"}},
		"no duration":           {[]string{"per: 1m", "per: often"}, []string{"line 6: `often`: want a duration such as 1m"}},
		"a list as text":        {[]string{"price: .last", "price: [1]"}, []string{"line 16: want text; quote it"}},
		"several at once":       {[]string{"unit: seconds", "unit: second", "calls: 60", "calls: 0"}, []string{`did you mean "seconds"?`, "limits: 0 calls per 1m0s"}},
		"name":                  {[]string{"name: acme", "name: Acme"}, []string{`name: "Acme" is no name`}},
		"name of a view":        {[]string{"name: acme", "name: median"}, []string{`name: "median" is no name`}},
		"plain http":            {[]string{"https://api", "http://api"}, []string{"base_url: http://api.acme.example: want https"}},
		"no symbol asked":       {[]string{"{symbol}", "BTC"}, []string{"request: want {symbol} in it"}},
		"an unknown place":      {[]string{"{symbol}", "{symbl}"}, []string{`request: there is no {symbl} here; did you mean "symbol"?`}},
		"a path upwards":        {[]string{"trades/{symbol}", "../{symbol}"}, []string{`line 4: request: a path with ".."`}},
		"a path in place":       {[]string{"trades/{symbol}", "a/./{symbol}"}, []string{`request: a path with "."`}},
		"an empty step":         {[]string{"trades/{symbol}", "a//{symbol}"}, []string{`request: a path with ""`}},
		"another host":          {[]string{"trades/{symbol}", "https://evil.example/{symbol}"}, []string{"request: an address: want the path below base_url"}},
		"another host again":    {[]string{"trades/{symbol}", "//evil.example/{symbol}"}, []string{"request: an address"}},
		"an open brace":         {[]string{"{symbol}", "{symbol"}, []string{"request: a { without a }"}},
		"a key in the file":     {[]string{`"{key}"`, "hunter2"}, []string{"headers: X-Api-Key: want {key} in it"}},
		"jq that does not end":  {[]string{"price: .last", "price: .last["}, []string{`read: price: jq ".last[": unexpected EOF`}},
		"jq with a wrong name":  {[]string{"price: .last", "price: .last | nmber"}, []string{"nmber may not be used", `did you mean "numbers"?`}},
		"jq that asks the time": {[]string{"time: .at", "time: now"}, []string{"now may not be used"}},
		"deep within":           {[]string{"time: .at", "time: '[if true then [.at | (1 | localtime)] else 1 end] | first'"}, []string{"localtime may not be used"}},
		"the environment":       {[]string{"price: .last", "price: $ENV.HOME"}, []string{"$ENV may not be used"}},
		"the environment again": {[]string{"price: .last", "price: env.HOME"}, []string{"env may not be used"}},
		"jq that imports":       {[]string{"price: .last", `price: 'import "a" as a; .last'`}, []string{"read: price: jq"}},
		"no price":              {[]string{"  price: .last\n", ""}, []string{"read: price: required"}},
		"no time":               {[]string{"  time: .at\n", ""}, []string{"read: time: required"}},
		"no limits":             {[]string{"limits: [{calls: 60, per: 1m}, {calls: 5, per: 1s}]\n", ""}, []string{"limits: required"}},
		"an empty rule":         {[]string{"{when: .error == \"limit\", means: rate_limited}", "{means: rate_limited}"}, []string{"answers: rule 3: want a status, a condition, or both"}},
		"an unknown meaning":    {[]string{"means: rate_limited", "means: limited"}, []string{`answers: rule 3: means: there is no meaning "limited"`}},
		"a bar and a price":     {[]string{"  size: .qty\n", "  bar: {open: .o, high: .h, low: .l, close: .c, span: 1m}\n"}, []string{"a bar has no price and no size of its own"}},
		"a bar without span":    {[]string{"  price: .last\n", "", "  size: .qty\n", "  bar: {open: .o, high: .h, low: .l}\n"}, []string{"read: bar: close: required", "span: 0s is not within"}},
		"two documents":         {[]string{"name: acme", "name: other\n---\nname: acme"}, []string{"more than one YAML document"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := declared.Parse([]byte(acme(t, c.replace...)))
			require.ErrorIs(t, err, declared.ErrDefinition)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "hunter2")
			assert.NotContains(t, err.Error(), "declared.")
		})
	}
	for text, want := range map[string]string{"": "empty", "a: [": "line", strings.Repeat("#", declared.MaxFile+1): "larger than"} {
		_, err := declared.Parse([]byte(text))
		require.ErrorIs(t, err, declared.ErrDefinition)
		assert.ErrorContains(t, err, want)
	}
}

// reading is what a definition with these replacements reads from an answer.
func reading(t *testing.T, answer string, replace ...string) (pipeline.Price, error) {
	t.Helper()
	prices, err := parse(t, acme(t, replace...)).Normalize(fetchedBy(answer))
	if err != nil {
		return pipeline.Price{}, err
	}
	require.Len(t, prices, 1)
	return prices[0], nil
}

func assertCode(t *testing.T, want schema.Code, err error) {
	t.Helper()
	var q *pipeline.QuoteError
	if assert.ErrorAs(t, err, &q) {
		assert.Equal(t, want, q.Code, "%v", err)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ unit, at, want string }{
		{"seconds", `1749998100`, "2025-06-15T14:35:00.000000Z"},
		{"seconds", `"1749998100.1234567891"`, "2025-06-15T14:35:00.123456Z"},
		{"seconds", `1.7499981e9`, "2025-06-15T14:35:00.000000Z"},
		{"milliseconds", `1749998100123`, "2025-06-15T14:35:00.123000Z"},
		{"microseconds", `"1749998100123456"`, "2025-06-15T14:35:00.123456Z"},
		{"nanoseconds", `1749998100123456789`, "2025-06-15T14:35:00.123456Z"},
		{"nanoseconds", `1749998100123456789.9`, ""},
		{"nanoseconds", `99999999999999999999`, ""},
		{"rfc3339", `"2025-06-15T16:35:00.5+02:00"`, "2025-06-15T14:35:00.500000Z"},
		{"date", `"2025-06-13"`, "2025-06-13T00:00:00.000000Z"},
		{"date", `"13.06.2025"`, ""},
		{"rfc3339", `1749998100`, ""},
		{"seconds", `0`, ""},
		{"seconds", `-5`, ""},
		{"seconds", `true`, ""},
		{"seconds", `9300000000`, ""},
		{"milliseconds", `1e400`, ""},
	} {
		price, err := reading(t, strings.Replace(trade, "1749998100.123456", c.at, 1), "unit: seconds", "unit: "+c.unit)
		if c.want == "" {
			assertCode(t, schema.CodeBadResponse, err)
			continue
		}
		require.NoError(t, err, "%+v", c)
		assert.Equal(t, c.want, price.Time.Text(), "%+v", c)
	}
}

// What jq computes in floating point is refused rather than rounded.
func TestComputedNumbers(t *testing.T) {
	t.Parallel()
	_, err := reading(t, trade, "price: .last", "price: .last / 1")
	assertCode(t, schema.CodeBadPrice, err)
	assert.ErrorContains(t, err, "jq computed")
	price, err := reading(t, strings.Replace(trade, "612345.67", "9007199254740993", 1), "price: .last", "price: .last + 1")
	require.NoError(t, err)
	assert.Equal(t, "9007199254740994", price.Price.String())
	price, err = reading(t, strings.Replace(trade, "612345.67", `"$612,345.67"`, 1), "price: .last", `price: .last | ltrimstr("$") | gsub(","; "")`)
	require.NoError(t, err)
	assert.Equal(t, "612345.67", price.Price.String())
}

func TestPricesOfZeroAndBelow(t *testing.T) {
	t.Parallel()
	price, err := reading(t, strings.Replace(trade, "612345.67", "-37.63", 1), "  price: .last\n", "  price: .last\n  signed: true\n")
	require.NoError(t, err)
	assert.True(t, price.Signed)
	assert.Equal(t, "-37.63", price.Price.String())
}

func TestBars(t *testing.T) {
	t.Parallel()
	const bars = `[[1749997980,"1.10","1.30","1.00","1.20","42"],[1749998040,"1.20","1.25","1.15","1.18","7"],[%]]`
	const bar = "  entry: .[-2]\n  time: .[0]\n  unit: seconds\n  bar: {open: '.[1]', high: '.[2]', low: '.[3]', close: '.[4]', volume: '.[5]', span: 1m}\n"
	text := acme(t)
	before, _, _ := strings.Cut(text, "read:\n")
	text = before + "read:\n" + bar
	prices, err := parse(t, text).Normalize(fetchedBy(strings.Replace(bars, "%", `1749998100,"1","1","1","1","0"`, 1)))
	require.NoError(t, err)
	require.Len(t, prices, 1)
	assert.Equal(t, "1.18", prices[0].Price.String())
	assert.Equal(t, "2025-06-15T14:34:59.999999Z", prices[0].Time.Text())
	assert.Equal(t, "2025-06-15T14:34:00.000000Z", prices[0].Bar.OpenTime.Text())
	assert.Equal(t, "7", prices[0].Bar.Volume.String())

	unfinished := strings.Replace(text, ".[-2]", ".[-1]", 1)
	_, err = parse(t, unfinished).Normalize(fetchedBy(strings.Replace(bars, "%", `1749999600,"1","1","1","1","0"`, 1)))
	assertCode(t, schema.CodeBadResponse, err)
	assert.ErrorContains(t, err, "choose the last complete one")
}

// A program ends after so many steps, on whatever machine.
func TestProgramsEnd(t *testing.T) {
	t.Parallel()
	many := `{"data":[{"pair":"BTC/USD","l":[` + strings.Repeat("1,", 120000) + `1],"at":1749998100}]}`
	for _, program := range []string{"last(.l[] | . == 2 and true)", "[.l[] | . == 1] | map(not) | length"} {
		_, err := reading(t, many, "price: .last", "price: '"+program+"'")
		assertCode(t, schema.CodeBadPrice, err)
		assert.ErrorContains(t, err, "takes more than 1000000 steps", program)
	}
	_, err := reading(t, many, "price: .last", "price: .l[]")
	assert.ErrorContains(t, err, "gives several values")
	_, err = reading(t, trade, "price: .last", "price: empty")
	assert.ErrorContains(t, err, "gives no value")
	_, err = reading(t, strings.Replace(trade, "612345.67", strings.Repeat("9", 2000), 1))
	assert.ErrorContains(t, err, "2000 bytes")
}

// What could take all memory within the steps of a program is refused when the definition
// is read, with the line and the name.
func TestProgramsThatGrowAreRefused(t *testing.T) {
	t.Parallel()
	for program, want := range map[string]string{
		`reduce range(32) as $i ("x"; .+.) | length`:    "reduce",
		`foreach range(32) as $i ("x"; .+.)`:            "foreach",
		`"x" * 2000000000`:                              "*",
		`reduce range(60) as $i ([1]; .+.)`:             "reduce",
		`.last | . * . | . * .`:                         "*",
		`.last | . + . | . + .`:                         `"+" may only be used with a constant`,
		`def f: . + "x" | f; f`:                         "def",
		`[limit(9; repeat("x"))]`:                       "limit",
		`"x" | until(false; .)`:                         "until",
		`[range(1e9)]`:                                  "range",
		`[., .] | [., .]`:                               `","`,
		`. as $x | [$x]`:                                "as",
		`{a: ., b: .}`:                                  "{…}",
		`"\(.)\(.)"`:                                    `\(…)`,
		`[.] | join("x")`:                               "join",
		`. | @json | @json`:                             "@json",
		`.a = .`:                                        "=",
		`.a |= .`:                                       "|=",
		`.[1000000000] += 1`:                            "+=",
		`first(.. | objects)`:                           "..",
		`test(.x)`:                                      "test may only be used with a constant",
		`gsub("("; "")`:                                 "gsub",
		`if true then {a: [tojson]}.a else 1 end`:       "{…}",
		`.[(1 | tojson)]`:                               "tojson",
		`"` + strings.Repeat("x", 201) + `"`:            "a constant of 201 bytes",
		strings.Repeat(". | ", 600) + ".":               "a program of 2401 bytes",
		`.x | [if split("")[] then . + "x" else . end]`: "where one value is wanted",
		`.x | map(select(.[]))`:                         "where one value is wanted",
		`[.[.x[]]]`:                                     "where one value is wanted",
		`[.x[] == .y[]]`:                                "where one value is wanted",
		`label $out | 1, break $out`:                    "label",
		`try error("x") catch ascii`:                    "error may not be used with 1 arguments",
	} {
		_, err := declared.Parse([]byte(acme(t, "price: .last", "price: '"+program+"'")))
		if assert.ErrorIs(t, err, declared.ErrDefinition, program) {
			assert.ErrorContains(t, err, want, program)
			assert.ErrorContains(t, err, "line 16: read: price: ", program)
		}
	}
	_, err := reading(t, strings.Replace(trade, "612345.67", `"`+strings.Repeat("9", 1001)+`"`, 1), "price: .last", `price: .last | gsub("9"; "99")`)
	assert.ErrorContains(t, err, "1001 bytes")
}

// Rules look at status and body; the first that fits counts. An answer of status 200 whose
// meaning is a limit is an error of the call, so that the service is left alone.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status     int
		body       string
		retryAfter string
		want       schema.Code // empty: the answer is kept
		pause      time.Duration
	}{
		{200, `{"error":"limit"}`, "7", schema.CodeRateLimited, 7 * time.Second},
		{200, `{"error":"unknown pair"}`, "", "", 0},
		{404, `{"error":"unknown pair"}`, "", schema.CodeUnknownSymbol, 0},
		{404, `{"error":"no route"}`, "", schema.CodeBadResponse, 0},
		{400, `{"error":"key"}`, "", schema.CodeUnauthorized, 0},
		{400, `not JSON`, "", schema.CodeBadResponse, 0},
		{429, `["of another form"]`, "5", schema.CodeRateLimited, 5 * time.Second},
		{503, ``, "", schema.CodeUnavailable, 0},
		{200, trade, "", "", 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", c.retryAfter)
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		p, err := parse(t, acme(t)).New(pipeline.Env{Settings: map[string]any{"base_url": server.URL, "api_key": "key-of-a-test"}})
		require.NoError(t, err)
		raw, err := p.Quote(t.Context(), "BTC-USD")
		if c.want == "" {
			require.NoError(t, err, "%+v", c)
			assert.Equal(t, c.body, string(raw))
		} else {
			assertCode(t, c.want, err)
			var q *pipeline.QuoteError
			if assert.ErrorAs(t, err, &q) {
				assert.Equal(t, c.pause, q.RetryAfter, "%+v", c)
			}
		}
		server.CloseClientConnections()
		server.Close()
	}
}

// The path ends as the definition says; a symbol that has no spelling is unknown.
func TestRequests(t *testing.T) {
	t.Parallel()
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		_, _ = io.WriteString(w, "{}")
	}))
	defer server.Close()
	ask := func(symbol schema.Symbol, replace ...string) error {
		asked = ""
		p, err := parse(t, acme(t, replace...)).New(pipeline.Env{Settings: map[string]any{"base_url": server.URL + "/v1/", "api_key": "key-of-a-test"}})
		require.NoError(t, err)
		_, err = p.Quote(t.Context(), symbol)
		return err
	}
	require.NoError(t, ask("BTC-USD", "trades/{symbol}?count=1", "/t/{symbol}/"))
	assert.Equal(t, "/v1/t/BTC%2FUSD/", asked)
	require.NoError(t, ask("BTC-USD", "trades/{symbol}?count=1", "?q=x-{symbol}&f=1%2C2"))
	assert.Equal(t, "/v1?f=1%2C2&q=x-BTC%2FUSD", asked)
	for _, spelling := range []string{`symbol: '""'`, "symbol: empty", "symbol: error", `symbol: '".."'`, `symbol: '{"BTC-USD": "."}[.]'`} {
		assertCode(t, schema.CodeUnknownSymbol, ask("BTC-USD", `symbol: sub("-"; "/")`, spelling))
		assert.Empty(t, asked)
	}
}

func TestVersionNamesTheText(t *testing.T) {
	t.Parallel()
	one, other := parse(t, acme(t)), parse(t, acme(t)+"\n")
	assert.Regexp(t, "^[0-9a-f]{32}$", one.Version())
	assert.NotEqual(t, one.Version(), other.Version())
	assert.Equal(t, one.Version(), parse(t, one.Text()).Version())
}

// The manual names all functions.
func TestTheManualNamesTheFunctions(t *testing.T) {
	t.Parallel()
	_, programs, found := strings.Cut(read(t, "../../../docs/providers.md"), "### Programs")
	require.True(t, found)
	for _, name := range declared.Functions() {
		assert.Contains(t, programs, "`"+name+"`")
	}
}

// An answer that is compressed without having been asked for is refused, and says why.
func TestACompressedAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "\x1f\x8b")
	}))
	defer server.Close()
	p, err := parse(t, acme(t)).New(pipeline.Env{Settings: map[string]any{"base_url": server.URL, "api_key": "key-of-a-test"}})
	require.NoError(t, err)
	_, err = p.Quote(t.Context(), "BTC-USD")
	assertCode(t, schema.CodeBadResponse, err)
	assert.ErrorContains(t, err, "the answer is compressed (gzip)")
	server.CloseClientConnections()
}
