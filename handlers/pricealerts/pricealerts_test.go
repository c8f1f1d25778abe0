package pricealerts_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/handlers/pricealerts"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHandler(t require.TestingT, alerts ...string) pipeline.Handler {
	h, err := pricealerts.New(pipeline.Env{Settings: map[string]any{"alerts": alerts}})
	require.NoError(t, err)
	return h
}

func price(symbol schema.Symbol, second int, text string) schema.Payload {
	at := schema.NewTime(time.Unix(int64(second), 0))
	return schema.PriceObserved{Symbol: symbol, Source: "p", Price: schema.MustDecimal(text), Timestamp: at, ReceivedAt: at}
}

// fired is the prices by which an alert fired.
func fired(t pipelinetest.TB, rig *pipelinetest.Rig) []string {
	t.Helper()
	var prices []string
	for _, e := range rig.Events(t, pricealerts.Topic) {
		a := e.Payload.(pricealerts.PriceAlerted)
		prices = append(prices, fmt.Sprintf("%s: %s by %s", a.Alert, a.Symbol, a.Price))
	}
	return prices
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		alert  string
		prices []string // in the order of time, but where a number of seconds says otherwise
		want   []string
	}{
		"a crossing":                   {"A above 10", []string{"9", "10", "11", "12"}, []string{"10"}},
		"the first price is none":      {"A above 10", []string{"11", "12"}, nil},
		"at the threshold is not back": {"A above 10", []string{"9", "10", "10", "11", "10", "12"}, []string{"10"}},
		"back, and again":              {"A above 10", []string{"9", "11", "9.99", "10"}, []string{"11", "10"}},
		"fluttering":                   {"A above 10 again 9", []string{"9", "10", "9.5", "10", "9.1", "10", "9", "10.5"}, []string{"10", "10.5"}},
		"below":                        {"A below 10", []string{"11", "9", "8", "10.1", "10"}, []string{"9", "10"}},
		"below, and back":              {"a below 10 again 12", []string{"12", "10", "11.9", "9", "12.5", "9"}, []string{"10", "9"}},
		"another's symbol":             {"B above 10", []string{"9", "11"}, nil},
		"of the provider":              {"p/A above 10", []string{"9", "11"}, []string{"11"}},
		"of another provider":          {"q/A above 10", []string{"9", "11"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			stage := rig.StartHandler(t, pricealerts.Name, newHandler(t, test.alert))
			defer stage.Close(t)
			for i, text := range test.prices {
				require.NoError(t, stage.Deliver(rig.AppendAll(t, price("A", i, text))...))
			}
			var got []string
			for _, e := range rig.Events(t, pricealerts.Topic) {
				got = append(got, e.Payload.(pricealerts.PriceAlerted).Price.String())
			}
			assert.Equal(t, test.want, got)
		})
	}
}

func TestLatePricesDoNotCount(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, pricealerts.Name, newHandler(t, "A above 10"))
	defer stage.Close(t)
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price("A", 100, "9"), price("A", 50, "11"), price("A", 101, "9"), price("A", 102, "12"), price("A", 60, "9"), price("A", 103, "13"))...))
	assert.Equal(t, []string{"A above 10: A by 12"}, fired(t, rig))
}

func TestHandler(t *testing.T) {
	t.Parallel()
	pipelinetest.RunHandler(t, pipelinetest.HandlerSuite{Name: pricealerts.Name,
		New: func() (pipeline.Handler, error) {
			return pricealerts.New(pipeline.Env{Settings: map[string]any{"alerts": []string{"A above 5", "A below 3 again 7", "p/B above 5 again 4", "C below 5"}}})
		},
		Draw: func(t *rapid.T) []schema.Payload {
			var payloads []schema.Payload
			for range rapid.IntRange(1, 30).Draw(t, "prices") {
				payloads = append(payloads, price(rapid.SampledFrom([]schema.Symbol{"A", "B", "C"}).Draw(t, "symbol"),
					rapid.IntRange(0, 40).Draw(t, "second"), fmt.Sprint(rapid.IntRange(1, 9).Draw(t, "price"))))
			}
			return payloads
		}})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "A", "A above", "A beyond 3", "A above x", "A above 0", "A above -1", "A above 3 again", "A above 3 again x",
		"A above 3 again 4", "A below 3 again 2", "A above 3 then 2", "! above 3"} {
		_, err := pricealerts.New(pipeline.Env{Settings: map[string]any{"alerts": []string{text}}})
		assert.ErrorContains(t, err, "alerts", text)
	}
	_, err := pricealerts.New(pipeline.Env{Settings: map[string]any{"alerts": []string{"A above 3", "a  above 3.0"}}})
	require.ErrorContains(t, err, "twice")
	_, err = pricealerts.New(pipeline.Env{Settings: map[string]any{"alert": []string{"A above 3"}}})
	require.ErrorContains(t, err, `did you mean "alerts"?`)
}

// The shape of the event, as it will have to be read forever.
func TestEventKeepsItsShape(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC))
	event := schema.Event{ID: "1", Source: "s", Payload: pricealerts.PriceAlerted{Alert: "AAPL above 200", Symbol: "AAPL", Source: "finnhub", Direction: pricealerts.Above,
		Threshold: schema.MustDecimal("200"), Price: schema.MustDecimal("200.01"), Timestamp: at, ReceivedAt: at}}
	headers, value, err := event.Encode()
	require.NoError(t, err)
	const golden = `{"alert":"AAPL above 200","symbol":"AAPL","source":"finnhub","direction":"above","threshold":200,"price":200.01,"timestamp":"2025-06-15T14:30:00.000000Z","received_at":"2025-06-15T14:30:00.000000Z"}`
	assert.Equal(t, golden, string(value))
	decoded, err := schema.DecodeEvent(headers, []byte(golden))
	require.NoError(t, err)
	assert.Equal(t, event, decoded)

	text, found := schema.JSONSchema(event.Payload.EventType())
	require.True(t, found)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("mem:schema.json", document))
	compiled, err := compiler.Compile("mem:schema.json")
	require.NoError(t, err)
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	require.NoError(t, err)
	require.NoError(t, compiled.Validate(instance))
}
