package providertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/internal/failtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// naive is a provider as one might write it first.
type naive struct {
	base, key string
	client    *http.Client
}

func newNaive(env pipeline.Env) (pipeline.Provider, error) {
	var settings struct {
		BaseURL string `mapstructure:"base_url"`
		APIKey  string `mapstructure:"api_key"`
	}
	_ = env.Decode(&settings)
	return &naive{settings.BaseURL, settings.APIKey, &http.Client{Transport: &http.Transport{}}}, nil
}

func (p *naive) Quote(_ context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	response, err := p.client.Get(p.base + "/quote?symbol=" + url.QueryEscape(string(symbol)) + "&token=" + p.key)
	if err != nil {
		return nil, pipeline.Quotef(schema.CodeInternal, "asking: %v", err)
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<24))
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, pipeline.Quotef(schema.CodeInternal, "status %s: %s", response.Status, body)
	}
	return bytes.TrimSpace(body), nil
}

func (p *naive) Normalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	return []pipeline.Price{{Symbol: quote.Symbol, Price: schema.MustDecimal("1"), Time: quote.ReceivedAt}}, nil
}

// Limits are as one forgets to fill them in.
func (p *naive) Limits() []pipeline.Limit { return []pipeline.Limit{{Calls: 60}} }

func naiveSuite(keyHeader string) REST {
	return REST{
		Name: "naive", New: newNaive, KeyHeader: keyHeader, Symbol: "AAPL", Request: "/quote?symbol=AAPL&token=",
		Answer: `{"symbol":"AAPL","price":"1"}`, UnknownStatus: 200, UnknownAnswer: "{}", NotFound: schema.CodeBadResponse,
	}
}

// Each check finds something. Without a key it cannot be the key every time.
func TestRESTChecksFindANaiveProvider(t *testing.T) {
	t.Parallel()
	for _, s := range []REST{naiveSuite(""), naiveSuite("X-Key")} {
		for _, c := range restChecks(s) {
			t.Run(c.name+"/"+s.KeyHeader, func(t *testing.T) {
				t.Parallel()
				mine := s
				switch c.name {
				case "DeadlinePasses", "CancelWhileAnswerComes", "OneThatHangsDelaysNoOther":
					mine.Limit = time.Millisecond // what they find is a call that does not return
				}
				err := c.run(t.Context(), mine)
				t.Log(err)
				assert.Error(t, err)
			})
		}
	}
}

func TestTheKeyIsFoundInErrorsAndLogs(t *testing.T) {
	t.Parallel()
	s := naiveSuite("X-Key")
	answer := func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusBadGateway, key) }
	_, err := s.failsOn(t.Context(), schema.CodeInternal, answer)
	assert.ErrorContains(t, err, "the error holds the key")

	s.New = func(env pipeline.Env) (pipeline.Provider, error) {
		return scripted{normalize: goodNormalize, quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) {
			env.Log.Debug("asking", "key", env.Settings["api_key"])
			return nil, pipeline.Quotef(schema.CodeInternal, "no")
		}}, nil
	}
	_, err = s.failsOn(t.Context(), schema.CodeInternal, answer)
	assert.ErrorContains(t, err, "the log holds the key")
}

func TestRESTNeedsItsFields(t *testing.T) {
	t.Parallel()
	good := naiveSuite("")
	assert.NoError(t, good.validate())
	for name, spoil := range map[string]func(*REST){
		"Name": func(s *REST) { s.Name = "" }, "New": func(s *REST) { s.New = nil }, "Symbol": func(s *REST) { s.Symbol = "" },
		"Request": func(s *REST) { s.Request = "" }, "Answer": func(s *REST) { s.Answer = "" },
		"UnknownStatus": func(s *REST) { s.UnknownStatus = 0 }, "UnknownAnswer": func(s *REST) { s.UnknownAnswer = "" },
		"NotFound": func(s *REST) { s.NotFound = "" },
	} {
		bad := good
		spoil(&bad)
		assert.Error(t, bad.validate(), name)
	}
}

func TestLimitsAreCheckedWhereThereAre(t *testing.T) {
	t.Parallel()
	s := naiveSuite("")
	s.New = func(pipeline.Env) (pipeline.Provider, error) { return scripted{goodQuote, goodNormalize}, nil }
	assert.NoError(t, statesItsLimits(t.Context(), s), "one that is no pipeline.Limited")
	s.New = func(pipeline.Env) (pipeline.Provider, error) { return limited{}, nil }
	assert.ErrorContains(t, statesItsLimits(t.Context(), s), "states no limits")
}

type limited struct{ scripted }

func (limited) Limits() []pipeline.Limit { return nil }

// What fails says which file to write, and what to write into it.
func TestMissingGoldenFilesAreDescribed(t *testing.T) {
	t.Parallel()
	said := failtest.Of(t, func(t *failtest.T) { readGolden(t, "") }) // this package has none
	for _, part := range []string{"testdata/normalize/*.json", `"payload"`, `"prices"`, `"code": "bad_price"`} {
		assert.Contains(t, said, part)
	}
	err := coversBadPrices(nil)
	for name, code := range badPrices {
		assert.ErrorContains(t, err, fmt.Sprintf("testdata/normalize/refused.json has no case %q with the code %s", name, code))
	}
	whole := map[string]goldenCase{}
	for name, code := range badPrices {
		whole["refused/"+name] = goldenCase{Code: code}
	}
	assert.NoError(t, coversBadPrices(whole))
}

func TestGoldenCasesFindBrokenProviders(t *testing.T) {
	t.Parallel()
	s := Suite{Name: "scripted"}
	plain := goldenCase{Symbol: "AAPL", Payload: `{"s":"AAPL","p":"1.5"}`}
	plain.Prices = append(plain.Prices, goldenPrice{Symbol: "AAPL", Price: "1.50", Time: receivedAt()})
	zero := goldenCase{Symbol: "AAPL", Payload: `{"s":"AAPL","p":"0"}`, Code: schema.CodeBadPrice}
	calls := 0
	good := scripted{goodQuote, goodNormalize}
	assert.NoError(t, s.checkGolden(good, plain))
	assert.NoError(t, s.checkGolden(good, zero))
	for name, normalize := range map[string]func(schema.QuoteFetched) ([]pipeline.Price, error){
		"another price": func(q schema.QuoteFetched) ([]pipeline.Price, error) {
			return []pipeline.Price{{Symbol: q.Symbol, Price: schema.MustDecimal("1.51"), Time: q.ReceivedAt}}, nil
		},
		"another time": func(q schema.QuoteFetched) ([]pipeline.Price, error) {
			return []pipeline.Price{{Symbol: q.Symbol, Price: schema.MustDecimal("1.5"), Time: q.ReceivedAt.Add(time.Second)}}, nil
		},
		"another code": func(schema.QuoteFetched) ([]pipeline.Price, error) {
			return nil, pipeline.Quotef(schema.CodeInternal, "no")
		},
		"an answer that changes": func(q schema.QuoteFetched) ([]pipeline.Price, error) {
			defer func() { q.RawResponse[0] = ' ' }()
			return goodNormalize(q)
		},
		"a price that changes": func(q schema.QuoteFetched) ([]pipeline.Price, error) {
			if calls++; calls%2 == 0 {
				return nil, pipeline.Quotef(schema.CodeBadPrice, "not again")
			}
			return goodNormalize(q)
		},
	} {
		assert.Error(t, s.checkGolden(scripted{normalize: normalize}, plain), name)
		if name != "a price that changes" {
			assert.Error(t, s.checkGolden(scripted{normalize: normalize}, zero), name)
		}
	}
	assert.Error(t, coversBadPrices(map[string]goldenCase{"refused/price zero": zero}))
}
