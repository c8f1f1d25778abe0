package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a provider whose two methods can be replaced by broken ones.
type scripted struct {
	quote     func(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error)
	normalize func(quote schema.QuoteFetched) ([]pipeline.Price, error)
}

func (p scripted) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	return p.quote(ctx, symbol)
}

func (p scripted) Normalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	return p.normalize(quote)
}

func goodQuote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	if symbol == "HANG" {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "ended", Err: err}
	}
	if symbol == "NOPE" {
		return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "no NOPE")
	}
	return schema.RawResponse(`{"s":"` + string(symbol) + `","p":"1.5"}`), nil
}

func goodNormalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	var a struct {
		S schema.Symbol
		P string
	}
	if err := json.Unmarshal(quote.RawResponse, &a); err != nil || a.S != quote.Symbol {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "bad", Err: err}
	}
	price, err := schema.ParseDecimal(a.P)
	if err != nil || price.Sign() <= 0 {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadPrice, Reason: "bad", Err: err}
	}
	return []pipeline.Price{{Symbol: a.S, Price: price, Time: quote.ReceivedAt}}, nil
}

func suiteOf(p pipeline.Provider) Suite {
	return Suite{
		Name: "scripted", Symbol: "AAPL", Unknown: "NOPE", Hanging: "HANG", Limit: time.Second,
		New: func(testing.TB) pipeline.Provider { return p },
	}
}

func TestSuitePassesAGoodProvider(t *testing.T) {
	t.Parallel()
	Run(t, suiteOf(scripted{goodQuote, goodNormalize}))
}

// brokenQuotes lists providers with a broken Quote by the check that finds them.
func brokenQuotes() map[string][]scripted {
	shared := schema.RawResponse(`{"s":"AAPL","p":"1.5"}`)
	var calls atomic.Int64
	return map[string][]scripted{
		"AnswerIsBounded": {
			{quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) { return nil, nil }},
			{quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) {
				return make(schema.RawResponse, schema.MaxRawResponse+1), nil
			}},
		},
		"AnswerHoldsThePrice": {
			{normalize: func(schema.QuoteFetched) ([]pipeline.Price, error) { return nil, nil }},
			{normalize: func(q schema.QuoteFetched) ([]pipeline.Price, error) {
				return []pipeline.Price{{Symbol: q.Symbol, Time: q.ReceivedAt}}, nil // price 0
			}},
			{normalize: func(q schema.QuoteFetched) ([]pipeline.Price, error) {
				return []pipeline.Price{{Symbol: "OTHER", Price: schema.MustDecimal("1"), Time: q.ReceivedAt}}, nil
			}},
		},
		"AnswersShareNoMemory": {{quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) { return shared, nil }}},
		"DoneContextEndsQuote": {
			{quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) {
				return schema.RawResponse(`{"s":"AAPL","p":"1.5"}`), nil
			}},
			{quote: func(ctx context.Context, _ schema.Symbol) (schema.RawResponse, error) { return nil, ctx.Err() }},
		},
		"UnknownSymbolIsReported": {
			{quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) {
				return nil, pipeline.Quotef(schema.CodeUnavailable, "down")
			}},
			{quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) {
				return schema.RawResponse(`{"s":"NOPE","p":"1"}`), nil
			}},
		},
		"ConcurrentUse": {{quote: func(ctx context.Context, s schema.Symbol) (schema.RawResponse, error) {
			if calls.Add(1)%4 == 0 {
				return nil, pipeline.Quotef(schema.CodeInternal, "busy")
			}
			return goodQuote(ctx, s)
		}}},
	}
}

// brokenNormalizes is brokenQuotes for Normalize.
func brokenNormalizes() map[string][]scripted {
	var calls atomic.Int64
	return map[string][]scripted{
		"NormalizeIsPure": {
			{normalize: func(q schema.QuoteFetched) ([]pipeline.Price, error) {
				return []pipeline.Price{{Symbol: q.Symbol, Price: schema.MustDecimal("1"), Time: q.ReceivedAt.Add(time.Duration(calls.Add(1)) * time.Hour)}}, nil
			}},
		},
		"NormalizeRefusesGarbage": {
			{normalize: func(schema.QuoteFetched) ([]pipeline.Price, error) { panic("out of range") }},
			{normalize: func(schema.QuoteFetched) ([]pipeline.Price, error) { return nil, errors.New("untyped") }},
			{normalize: func(q schema.QuoteFetched) ([]pipeline.Price, error) {
				return nil, pipeline.Quotef(schema.CodeBadResponse, "not JSON: %s", q.RawResponse)
			}},
		},
		"NormalizeRefusesTruncated": {{normalize: func(q schema.QuoteFetched) ([]pipeline.Price, error) {
			q.RawResponse = append(q.RawResponse, `{"s":"AAPL","p":"1.5"}`[min(len(q.RawResponse), 22):]...)
			return goodNormalize(q)
		}}},
		"NormalizeSurvivesDamage": {{normalize: func(q schema.QuoteFetched) ([]pipeline.Price, error) {
			if !strings.HasPrefix(string(q.RawResponse), "{") {
				panic("no brace")
			}
			return goodNormalize(q)
		}}},
	}
}

// Each broken provider is found by the check that is meant for it.
func TestSuiteFindsBrokenProviders(t *testing.T) {
	t.Parallel()
	providers := brokenQuotes()
	maps.Copy(providers, brokenNormalizes())
	for check, broken := range providers {
		t.Run(check, func(t *testing.T) {
			t.Parallel()
			for i, p := range broken {
				if p.quote == nil {
					p.quote = goodQuote
				}
				if p.normalize == nil {
					p.normalize = goodNormalize
				}
				assert.Error(t, runCheck(t, check, suiteOf(p)), "broken provider %d", i)
			}
		})
	}
}

func TestSuiteFindsAProviderThatNeverReturns(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	ended := make(chan struct{})
	s := suiteOf(scripted{normalize: goodNormalize, quote: func(context.Context, schema.Symbol) (schema.RawResponse, error) {
		defer close(ended)
		<-release
		return nil, nil
	}})
	s.Limit = time.Millisecond
	assert.ErrorIs(t, runCheck(t, "CancelEndsHangingQuote", s), errLimit)
	close(release)
	<-ended
}

func runCheck(t *testing.T, name string, s Suite) error {
	t.Helper()
	for _, c := range checks() {
		if c.name == name {
			return c.run(t.Context(), s, s.New(t))
		}
	}
	require.Fail(t, "no such check", name)
	return nil
}

func TestSuiteNeedsItsFields(t *testing.T) {
	t.Parallel()
	good := suiteOf(scripted{goodQuote, goodNormalize})
	require.NoError(t, good.validate())
	for name, spoil := range map[string]func(*Suite){
		"New":    func(s *Suite) { s.New = nil },
		"Name":   func(s *Suite) { s.Name = "" },
		"Symbol": func(s *Suite) { s.Symbol = "" },
	} {
		bad := good
		spoil(&bad)
		assert.ErrorContains(t, bad.validate(), name)
	}
}
