package shrink

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// log is n prices, each with all fields set.
func log(n int) []schema.Payload {
	payloads := make([]schema.Payload, n)
	for i := range payloads {
		at := schema.NewTime(time.Unix(int64(1_750_000_000+i), 0))
		payloads[i] = schema.PriceObserved{Symbol: "AAPL", Source: "finnhub", Price: schema.MustDecimal(fmt.Sprint(100 + i)),
			Size: schema.MustDecimal("3"), Sequence: 7, Timestamp: at, ReceivedAt: at}
	}
	return payloads
}

func isPrice(p schema.Payload, text string) bool {
	return p.(schema.PriceObserved).Price.String() == text
}

// Two prices of many are at fault, when they come in one batch that is rolled back.
func TestSmallest(t *testing.T) {
	t.Parallel()
	c := New(log(60))
	for i := range 12 {
		b := Batch{Process: i == 6, Session: true, Undo: 2}
		for k := range 5 {
			b.Events = append(b.Events, 5*i+k)
		}
		c.Batches = append(c.Batches, b)
	}
	small, result := Smallest(c, func(c Case) Result {
		for _, b := range c.Batches {
			found := 0
			for _, e := range b.Events {
				if isPrice(c.Events[e].Payload, "117") || isPrice(c.Events[e].Payload, "118") {
					found++
				}
			}
			if found == 2 && b.Undo > 0 {
				return Result{Want: []string{"row 1", "row 2"}, Got: []string{"row 2", "row 3"}}
			}
		}
		return Result{}
	})
	assert.Equal(t, `the smallest log that shows it, of 2 events:
  1  p/A  price 117 at 2025-01-01T00:00:00Z
  2  p/A  price 118 at 2025-01-01T00:00:01Z
delivered as:
  1 2, rolled back 1 time and tried again
wanted, by the test:
- row 1
got:
+ row 3
1 other line as wanted`, Text(small, result, "by the test"))
}

func TestTheTextOfACase(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Unix(0, 0))
	c := New(append(log(1), schema.StreamStopped{StreamID: "s1", StoppedAt: at}, schema.StreamStopped{}))
	c.Events[2].Spoilt = true
	c.Batches = []Batch{{Events: []int{0}, Session: true}, {Events: []int{2, 1}, Process: true, Undo: 2}}
	for want, r := range map[string]Result{
		"it fails: panic: oh":                                   {Err: errors.New("panic: oh")},
		"wanted, x:\n  none\ngot:\n+ a":                         {Got: []string{"a"}},
		"wanted, x:\n- a\ngot:\n  none\n1 other line as wanted": {Want: []string{"a", "a"}, Got: []string{"a"}},
		"the same lines in another order":                       {Want: []string{"a", "b"}, Got: []string{"b", "a"}},
		"+ 19\n  and 5 more":                                    {Got: numbered(25)},
	} {
		text := Text(c, r, "x")
		assert.Contains(t, text, want)
		assert.Contains(t, text, `  1  finnhub/AAPL  price 100 at 2025-06-15T15:06:40Z, size 3, sequence 7
  2  stream.stopped.v1 {"stream_id":"s1"`)
		assert.Contains(t, text, "  3  a record that cannot be decoded\ndelivered as:\n  in another session: 1\n  in another process: 3 2, rolled back 2 times and tried again\n")
	}
	assert.Contains(t, Text(New(log(1)), Result{}, "x"), "delivered as:\n  one batch\n")
}

func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}

// A plugin that is broken by any log is not run without end.
func TestTheSearchEnds(t *testing.T) {
	t.Parallel()
	runs := 0
	small, _ := Smallest(New(log(500)), func(c Case) Result { runs++; return Result{Err: errors.New("always")} })
	assert.Len(t, small.Events, 1)
	assert.LessOrEqual(t, runs, attempts+1)
}

// A case that was made smaller may deliver the records of a partition in another order
// than the log's, which no service sees.
func TestInOrder(t *testing.T) {
	t.Parallel()
	records := make([]pipeline.Record, 3)
	for i, partition := range []int32{0, 1, 0} {
		records[i].TopicPartition = pipeline.TopicPartition{Topic: "t", Partition: partition}
	}
	for name, test := range map[string]struct {
		batches []Batch
		want    bool
	}{
		"at once":             {nil, true},
		"as in the log":       {[]Batch{{Events: []int{0, 1, 2}}}, true},
		"another partition":   {[]Batch{{Events: []int{1}}, {Events: []int{0, 2}}}, true},
		"within a batch":      {[]Batch{{Events: []int{2, 0}}}, false},
		"in an earlier batch": {[]Batch{{Events: []int{2}}, {Events: []int{1, 0}}}, false},
	} {
		assert.Equal(t, test.want, Case{Batches: test.batches}.InOrder(records), name)
	}
}
