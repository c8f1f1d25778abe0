package names_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/schema/names"
)

func TestHint(t *testing.T) {
	t.Parallel()
	known := []string{"csv", "coinbase", "finnhub", "moving-averages"}
	const all = "nown are csv, coinbase, finnhub, moving-averages"
	for misspelt, want := range map[string]string{
		"coinbse":         `did you mean "coinbase"? K` + all,
		"CSV":             `did you mean "csv"? K` + all,
		"cvs":             "k" + all,
		"csvv":            `did you mean "csv"? K` + all,
		"moving":          `did you mean "moving-averages"? K` + all,
		"mo":              "k" + all,
		"moving-average":  `did you mean "moving-averages"? K` + all,
		"bloomberg":       "k" + all,
		"":                "k" + all,
		"coinbaes":        `did you mean "coinbase"? K` + all,
		"finhub":          `did you mean "finnhub"? K` + all,
		"movnig_averages": `did you mean "moving-averages"? K` + all,
	} {
		assert.Equal(t, want, names.Hint(misspelt, known), misspelt)
	}
	assert.Equal(t, "there is none", names.Hint("x", []string{}))
}

func TestNearest(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "http_addr", names.Nearest("htp_addr", []string{"data_dir", "http_addr", "http_hosts"}))
	assert.Empty(t, names.Nearest("x", []string(nil)))
}
