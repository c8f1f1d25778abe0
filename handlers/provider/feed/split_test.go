package feed_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		frame, path string
		want        []string
	}{
		{`[{"a":1},{"a":2}]`, "", []string{`[{"a":1}]`, `[{"a":2}]`}},
		{` { "t" : "x", "data": [ {"a":1} , {"a":"[2,"} ] ,"e":9 } `, "data", []string{` { "t" : "x", "data": [ {"a":1} ] ,"e":9 } `, ` { "t" : "x", "data": [ {"a":"[2,"} ] ,"e":9 } `}},
		{`{"d":{"l":[1e400,"x",null]}}`, "d l", []string{`{"d":{"l":[1e400]}}`, `{"d":{"l":["x"]}}`, `{"d":{"l":[null]}}`}},
		{`{"l":[1,2],"l":[3,4]}`, "l", []string{`{"l":[1,2],"l":[3]}`, `{"l":[1,2],"l":[4]}`}},
		{`{"l":[1,2],"l":3}`, "l", nil},
		{`[{"a":1}]`, "", nil},
		{`[]`, "", nil},
		{`{"data":{}}`, "data", nil},
		{`{"other":[1,2]}`, "data", nil},
		{`[[1],[2]`, "", nil},
		{`pong`, "", nil},
		{``, "data", nil},
	} {
		got, err := feed.Split([]byte(c.frame), strings.Fields(c.path))
		require.NoError(t, err)
		if c.want == nil {
			c.want = []string{c.frame}
		}
		var texts []string
		for _, frame := range got {
			texts = append(texts, string(frame))
		}
		assert.Equal(t, c.want, texts, c.frame)
	}
}

// What is around the list is repeated, so a frame could become many times its size.
func TestAFrameThatWouldGrow(t *testing.T) {
	t.Parallel()
	frame := `{"x":"` + strings.Repeat("x", 100<<10) + `","l":[` + strings.Repeat("1,", 50) + `1]}`
	_, err := feed.Split([]byte(frame), []string{"l"})
	var q *pipeline.QuoteError
	require.ErrorAs(t, err, &q)
	assert.Equal(t, schema.CodeTooLarge, q.Code)
}

// FuzzSplit: what a frame is split into are frames with one entry each, which together
// are the entries of the frame in their order.
func FuzzSplit(f *testing.F) {
	f.Add(`{"t":"x","data":[{"a":1},{"a":2}]}`)
	f.Add(`{"data":[1,2],"data":[ "3" , 4 ]}`)
	f.Fuzz(func(t *testing.T, frame string) {
		list := func(text []byte) (list []json.RawMessage, isList bool) {
			var value map[string]json.RawMessage
			isList = json.Unmarshal(text, &value) == nil && json.Unmarshal(value["data"], &list) == nil
			return list, isList
		}
		all, isList := list([]byte(frame))
		split, err := feed.Split([]byte(frame), []string{"data"})
		if !isList || err != nil || len(split) == 1 {
			return
		}
		var entries []json.RawMessage
		for _, one := range split {
			data, isList := list(one)
			require.True(t, isList, "%s", one)
			require.Len(t, data, 1, "%s", one)
			entries = append(entries, data[0])
		}
		require.Equal(t, all, entries)
	})
}
