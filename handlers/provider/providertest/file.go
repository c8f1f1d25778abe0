package providertest

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// FileLines reads a file, and holds every provider's duties against what comes:
// a quote is an event with a price in it, lines are in order, a second reading
// gives the same, and nothing comes after the last error. It returns the quotes,
// the errors of lines, and the last error.
func FileLines(t testing.TB, p pipeline.FileReader, file string, options map[string]string) (quotes []pipeline.FileLine, bad []error, last error) {
	t.Helper()
	quotes, bad, last = fileLines(t, p, file, options)
	again, badAgain, lastAgain := fileLines(t, p, file, options)
	require.Equal(t, quotes, again, "read again")
	require.Equal(t, bad, badAgain, "read again")
	require.Equal(t, last, lastAgain, "read again")
	return quotes, bad, last
}

func fileLines(t testing.TB, p pipeline.FileReader, file string, options map[string]string) (quotes []pipeline.FileLine, bad []error, last error) {
	t.Helper()
	number := 0
	for line, err := range p.ReadFile(strings.NewReader(file), options) {
		require.NoError(t, last, "something comes after the last error")
		var wrong *pipeline.LineError
		switch {
		case errors.As(err, &wrong):
			line.Number = wrong.Line
			bad = append(bad, err)
		case err != nil:
			last = err
			continue
		case line.ID != "":
			_, _, err := schema.Event{ID: line.ID, Source: "test", Payload: line.Quote}.Encode()
			require.NoError(t, err)
			prices, err := p.Normalize(line.Quote)
			require.NoError(t, err)
			assert.Len(t, prices, 1)
			assert.Equal(t, line.Quote.Symbol, prices[0].Symbol)
			quotes = append(quotes, line)
		}
		require.GreaterOrEqual(t, line.Number, number, "the number of the line: %v", err)
		number = line.Number
	}
	return quotes, bad, last
}

// FuzzReadFile is the body of a provider's fuzz target of files. Its seeds are in
// testdata/fuzz.
func FuzzReadFile(f *testing.F, p pipeline.FileReader, options map[string]string) {
	f.Helper()
	f.Fuzz(func(t *testing.T, file string) { _, _, _ = FileLines(t, p, file, options) })
}
