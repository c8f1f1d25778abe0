package providertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// goldenFiles hold objects of goldenCases by name, relative to the package of
// the provider.
const goldenFiles = defaultGolden + "/*.json"

// defaultGolden is where they are, unless REST.Golden says otherwise.
const defaultGolden = "testdata/normalize"

// goldenHelp says what to write.
const goldenHelp = "write " + goldenFiles + " in the provider's package, each a JSON object of cases by name, such as " +
	`{"plain": {"symbol": "AAPL", "payload": "the answer, byte for byte", "prices": [{"symbol": "AAPL", "price": "1.50", "time": "2026-01-02T15:04:05Z"}]}, ` +
	`"zero": {"symbol": "AAPL", "payload": "another answer", "code": "bad_price"}}`

// goldenPrice is a price of an answer; Size and Sequence are absent where the answer
// has none.
type goldenPrice struct {
	Symbol schema.Symbol
	Price  string
	Size   string
	Time   schema.Time
	// Sequence is the number of the trade.
	Sequence schema.Sequence
}

// goldenCase is an answer and what it means: prices, or the code of an error.
type goldenCase struct {
	Symbol  schema.Symbol
	Payload string
	Code    schema.Code
	Prices  []goldenPrice
}

// readGolden reads all cases, by file and name. An empty directory is the default.
func readGolden(t testing.TB, directory string) map[string]goldenCase {
	t.Helper()
	if directory == "" {
		directory = defaultGolden
	}
	files, err := filepath.Glob(filepath.Join(directory, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "there are no answers to hold Normalize to: %s", goldenHelp)
	cases := map[string]goldenCase{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var inFile map[string]goldenCase
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&inFile), file)
		for name, c := range inFile {
			cases[strings.TrimSuffix(filepath.Base(file), ".json")+"/"+name] = c
		}
	}
	return cases
}

// Normalize holds a provider's Normalize against the answers in the files
// testdata/normalize/*.json of its package. Each is a JSON object of cases by name:
//
//	{
//		"plain": {"symbol": "AAPL", "payload": "…", "prices": [{"symbol": "AAPL", "price": "1.50", "time": "2026-01-02T15:04:05Z"}]},
//		"zero":  {"symbol": "AAPL", "payload": "…", "code": "bad_price"}
//	}
//
// The payload is the answer of the service, byte for byte, and the symbol the one
// that was asked for. A case has the prices that are in the answer, with a size where
// it has one, or the code of the error.
func Normalize(t *testing.T, name schema.Provider, p pipeline.Provider) {
	t.Helper()
	normalizeGolden(t, name, p, "")
}

func normalizeGolden(t *testing.T, name schema.Provider, p pipeline.Provider, directory string) {
	t.Helper()
	s := Suite{Name: name}
	for caseName, c := range readGolden(t, directory) {
		t.Run(caseName, func(t *testing.T) {
			t.Parallel()
			if err := s.checkGolden(p, c); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkGolden reads the answer twice, since Normalize is pure.
func (s Suite) checkGolden(p pipeline.Provider, c goldenCase) error {
	quote := s.fetched(c.Symbol, schema.RawResponse(c.Payload))
	prices, err := p.Normalize(quote)
	again, errAgain := p.Normalize(quote)
	switch {
	case string(quote.RawResponse) != c.Payload:
		return errors.New("normalize changed the answer")
	case !reflect.DeepEqual(prices, again) || fmt.Sprint(err) != fmt.Sprint(errAgain):
		return fmt.Errorf("normalize of the same answer: first %v, %v, then %v, %v", prices, err, again, errAgain)
	case c.Code != "":
		return errors.Join(checkCode(err, c.Code), noPrices(prices))
	case err != nil:
		return err
	}
	var want []pipeline.Price
	for _, price := range c.Prices {
		one := pipeline.Price{Symbol: price.Symbol, Price: schema.MustDecimal(price.Price), Time: price.Time, Sequence: price.Sequence}
		if price.Size != "" {
			one.Size = schema.MustDecimal(price.Size)
		}
		want = append(want, one)
	}
	if !reflect.DeepEqual(want, prices) {
		return fmt.Errorf("the prices are %v, not %v", prices, want)
	}
	return s.checkPrices(quote, prices)
}

func noPrices(prices []pipeline.Price) error {
	if len(prices) > 0 {
		return fmt.Errorf("prices %v next to an error", prices)
	}
	return nil
}

// FuzzNormalize is the body of a provider's fuzz target, with the answers of
// testdata/normalize as seeds. Whatever the answer, there are prices that an
// event can carry, or an error whose code says what is wrong with it.
func FuzzNormalize(f *testing.F, name schema.Provider, p pipeline.Provider) {
	f.Helper()
	s := Suite{Name: name}
	for _, c := range readGolden(f, "") {
		f.Add(string(c.Symbol), []byte(c.Payload))
	}
	f.Fuzz(func(t *testing.T, symbol string, answer []byte) {
		if schema.Symbol(symbol).Validate() != nil {
			return // no event has it
		}
		quote := s.fetched(schema.Symbol(symbol), bytes.Clone(answer))
		prices, err := p.Normalize(quote)
		require.Equal(t, answer, []byte(quote.RawResponse), "normalize changed the answer")
		if err != nil {
			require.NoError(t, checkCode(err, schema.CodeBadResponse, schema.CodeBadPrice, schema.CodeUnknownSymbol))
			return
		}
		require.NoError(t, s.checkPrices(quote, prices))
	})
}

// badPrices are the cases that every provider has in refused.json.
var badPrices = map[string]schema.Code{
	"price zero": schema.CodeBadPrice, "price negative": schema.CodeBadPrice, "price absent": schema.CodeBadPrice,
	"price null": schema.CodeBadPrice, "price NaN": schema.CodeBadPrice,
	"price of 19 integer digits": schema.CodeBadPrice, "price of 19 fractional digits": schema.CodeBadPrice,
	"time absent": schema.CodeBadResponse, "time out of range": schema.CodeBadResponse,
}

// coversBadPrices looks for them.
func coversBadPrices(cases map[string]goldenCase) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(badPrices)) {
		code := badPrices[name]
		if c, found := cases["refused/"+name]; !found || c.Code != code {
			errs = append(errs, fmt.Errorf(`testdata/normalize/refused.json has no case %q with the code %s: add "%s": {"symbol": "AAPL", "payload": "…", "code": "%s"}, `+
				"whose payload is an answer as the service writes it, but for that", name, code, name, code))
		}
	}
	return errors.Join(errs...)
}
