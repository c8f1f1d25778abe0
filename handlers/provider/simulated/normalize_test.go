package simulated_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// normalizeCase is a payload and what it means: prices, or the code of an error.
type normalizeCase struct {
	Symbol  schema.Symbol
	Payload string
	Code    schema.Code
	Prices  []struct {
		Symbol schema.Symbol
		Price  string
		Time   schema.Time
	}
}

func readCases(t testing.TB) map[string]normalizeCase {
	t.Helper()
	files, err := filepath.Glob("testdata/normalize/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	cases := map[string]normalizeCase{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var inFile map[string]normalizeCase
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&inFile), file)
		for name, c := range inFile {
			cases[strings.TrimSuffix(filepath.Base(file), ".json")+"/"+name] = c
		}
	}
	return cases
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	for name, c := range readCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newProvider(t, simulated.Config{}).Normalize(fetched(c.Symbol, schema.RawResponse(c.Payload)))
			if c.Code != "" {
				assertCode(t, c.Code, err)
				assert.Empty(t, got)
				return
			}
			require.NoError(t, err)
			require.Len(t, got, len(c.Prices))
			for i, want := range c.Prices {
				assert.Equal(t, pipeline.Price{Symbol: want.Symbol, Price: schema.MustDecimal(want.Price), Time: want.Time}, got[i])
			}
		})
	}
}

// Every payload gives prices that an event can carry, or a typed error.
func FuzzNormalize(f *testing.F) {
	for _, c := range readCases(f) {
		f.Add(string(c.Symbol), []byte(c.Payload))
	}
	p := newProvider(f, simulated.Config{})
	f.Fuzz(func(t *testing.T, symbol string, payload []byte) {
		quote := fetched(schema.Symbol(symbol), bytes.Clone(payload))
		prices, err := p.Normalize(quote)
		require.Equal(t, payload, []byte(quote.RawResponse), "the payload was changed")
		if err != nil {
			var quoteErr *pipeline.QuoteError
			require.True(t, errors.As(err, &quoteErr))
			require.Contains(t, []schema.Code{schema.CodeBadResponse, schema.CodeBadPrice, schema.CodeUnknownSymbol}, quoteErr.Code)
			return
		}
		require.Len(t, prices, 1)
		require.Equal(t, quote.Symbol, prices[0].Symbol)
		require.Positive(t, prices[0].Price.Sign())
		require.GreaterOrEqual(t, prices[0].Time.Year(), 1900)
		require.LessOrEqual(t, prices[0].Time.Year(), 9999)
	})
}
