package log_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
)

func TestRepeatsOfARelayAreTold(t *testing.T) {
	t.Parallel()
	var repeats log.Repeats
	for _, step := range []struct {
		timeline string
		number   int64
		repeat   bool
	}{
		{"a", 1, false}, {"a", 2, false}, {"a", 3, false}, {"a", 2, true}, {"a", 3, true}, {"a", 4, false},
		{"b", 1, false}, {"a", 4, true}, {"b", 2, false}, {"", 0, false}, {"", 0, false},
	} {
		record := pipeline.Record{}
		if step.timeline != "" {
			link := chain.LinkHeaders([]byte(step.timeline), step.number)
			record.Headers = link[:]
		}
		assert.Equal(t, step.repeat, repeats.IsRepeat(&record), step.timeline+strconv.FormatInt(step.number, 10))
	}
}
