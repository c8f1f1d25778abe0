package pipeline_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
)

type testSettings struct {
	Periods []int         `mapstructure:"periods" doc:"how many prices"`
	Timeout time.Duration `mapstructure:"timeout" doc:"how long"`
	Name    string        `mapstructure:"name"`
}

func TestSettingsAreDecodedStrictly(t *testing.T) {
	t.Parallel()
	standard := testSettings{Periods: []int{12, 26, 50}, Timeout: time.Second, Name: "x"}
	for name, test := range map[string]struct {
		given map[string]any
		want  testSettings
		err   []string
	}{
		"none":          {nil, standard, nil},
		"a list":        {map[string]any{"periods": []any{7}}, testSettings{[]int{7}, time.Second, "x"}, nil},
		"text":          {map[string]any{"periods": "7,8", "timeout": "3s"}, testSettings{[]int{7, 8}, 3 * time.Second, "x"}, nil},
		"misspelt":      {map[string]any{"period": 7}, standard, []string{`there is no setting "period"; did you mean "periods"?`}},
		"two misspelt":  {map[string]any{"period": 7, "time_out": 1}, standard, []string{`"period"; did you mean "periods"?`, `"time_out"; did you mean "timeout"?`}},
		"wrong type":    {map[string]any{"timeout": "soon"}, standard, []string{"timeout"}},
		"all at once":   {map[string]any{"timeout": "soon", "nmae": "y"}, standard, []string{"timeout", `did you mean "name"?`}},
		"another's key": {map[string]any{"": 1}, standard, []string{`there is no setting ""`}},
	} {
		got := standard
		err := pipeline.Env{Settings: test.given}.Decode(&got)
		if test.err == nil {
			require.NoError(t, err, name)
			assert.Equal(t, test.want, got, name)
		}
		for _, text := range test.err {
			require.ErrorIs(t, err, pipeline.ErrSettings, name)
			assert.ErrorContains(t, err, text, name)
		}
		assert.Equal(t, []int{12, 26, 50}, standard.Periods, "%s: the defaults are shared, and stay", name)
	}
	err := pipeline.Env{Settings: map[string]any{"a": 1}}.Decode(&struct{}{})
	require.ErrorContains(t, err, "there are no settings here")

	assert.Equal(t, []pipeline.Setting{
		{Name: "periods", Type: "[]int", Default: "12,26,50", Doc: "how many prices"},
		{Name: "timeout", Type: "time.Duration", Default: "1s", Doc: "how long"},
		{Name: "name", Type: "string", Default: "x"},
	}, pipeline.DescribeSettings(standard))
	assert.Empty(t, pipeline.DescribeSettings(nil))
}
