package cmd_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/pricemill/pricemill/handlers/pricealerts"
	_ "github.com/pricemill/pricemill/handlers/pricefiles"
	_ "github.com/pricemill/pricemill/handlers/redisstream"
	_ "github.com/pricemill/pricemill/handlers/webhook"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/operator"
	_ "github.com/pricemill/pricemill/projections/bollinger"
	_ "github.com/pricemill/pricemill/projections/candles"
	_ "github.com/pricemill/pricemill/projections/ema"
	_ "github.com/pricemill/pricemill/projections/vwap"
)

// offsets are how far each stage has come, by stage and partition.
func offsets(t *testing.T, env environment) map[string]int64 {
	t.Helper()
	status, stdout, stderr := run(t, env, "stages", "list", "-o", "json")
	require.Zero(t, status, stderr)
	var stages []operator.StageStatus
	require.NoError(t, json.Unmarshal([]byte(stdout), &stages))
	all := map[string]int64{}
	for _, s := range stages {
		all[fmt.Sprintf("%s %s/%d", s.Stage, s.Topic, s.Partition)] = s.Position
	}
	return all
}

func (p *program) eventuallyHolds(path, text string) answer {
	p.t.Helper()
	var last answer
	require.Eventually(p.t, func() bool {
		last = p.get(path)
		return last.status == 200 && strings.Contains(last.body, text)
	}, 20*time.Second, 20*time.Millisecond, "%s never held %s", path, text)
	return last
}

// aaplAlerts are the prices by which AAPL came above 100 in the recorded closes,
// from below.
var aaplAlerts = []string{`"price":121.19`, `"price":105.12`}

// A plugin that is switched on later begins at the start of the log and catches up
// while the others stay where they are; one that is switched off keeps its tables.
func TestPluginsAreSwitchedOnAndOff(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	file := filepath.Join(t.TempDir(), "pricemill.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  price-alerts:\n    alerts: [csv/AAPL above 100, csv/AAPL below 50 again 60]\n"), 0o600))
	env = env.with(environment{"CONFIG_FILE": file})

	// Without any: the quotes of a file, and no indicator.
	p := start(t, env)
	ingested(t, p.env, append(ofCloses, monthlyCloses)...)
	ingested(t, p.env, "--provider", "coinbase", recordedSession)
	p.eventuallyHolds("/api/v1/symbols", `"symbol":"MSFT","provider":"csv","count":123`)
	missing := p.get("/api/v1/indicators/candles?symbol=AAPL&provider=csv")
	assert.Equal(t, 404, missing.status)
	assert.Equal(t, `Indicator "candles" is switched off; start the service with PLUGINS=candles, which may name several, separated by commas`, missing.field(t, "detail"))
	assert.NotContains(t, p.get("/openapi.json").body, "/api/v1/indicators/candles")
	assert.NotContains(t, p.get("/asyncapi.json").body, "handler.price-alerts")
	require.Zero(t, p.stop())
	before := offsets(t, env)

	// With all: they catch up, nothing else moves.
	p = start(t, env.with(environment{"PLUGINS": allRight()}))
	p.eventuallyHolds("/api/v1/indicators/candles?symbol=AAPL&provider=csv&interval=1d&limit=1",
		`{"items":[{"symbol":"AAPL","provider":"csv","interval":"1d","timestamp":"2010-03-01T00:00:00.000000Z","open":223.02,"high":223.02,"low":223.02,"close":223.02,"volume":null,"prices":1,"rests_on":"ticks"}],`)
	p.eventuallyHolds("/api/v1/indicators/vwap?symbol=BAND-GBP&provider=coinbase&limit=1", `"value":14.764614317425083241,"volume":36.04}`)
	p.eventuallyHolds("/api/v1/indicators/ema?symbol=MSFT&provider=csv&period=12&limit=1", `"timestamp":"2010-03-01T00:00:00.000000Z"`)
	p.eventuallyHolds("/api/v1/indicators/bollinger?symbol=MSFT&provider=csv&limit=1", `"timestamp":"2010-03-01T00:00:00.000000Z"`)
	unknown := p.get("/api/v1/indicators/candle?symbol=AAPL")
	assert.Equal(t, `Unknown indicator "candle"; did you mean "candles"? Known are bollinger, candles, ema, vwap`, unknown.field(t, "detail"))
	// Who asks for what is not kept learns what is, and gets nothing else.
	for path, kept := range map[string]string{"ema?symbol=MSFT&period=13": "'12' or '26'", "bollinger?symbol=MSFT&period=10": "'20'",
		"candles?symbol=MSFT&interval=2m": "'1m', '5m', '1h' or '1d'", "bollinger?symbol=MSFT&deviations=3": "known are period, ddof, warm_up, symbol",
		"vwap?symbol=MSFT&period=10": "known are symbol"} {
		refused := p.get("/api/v1/indicators/" + path)
		assert.Equal(t, 422, refused.status, path)
		assert.Contains(t, refused.body, kept, path)
	}
	p.eventuallyHolds("/api/v1/indicators/bollinger?symbol=MSFT&provider=csv&period=20&limit=1", `"period":"20","timestamp":"2010-03-01T00:00:00.000000Z"`)
	assert.Contains(t, p.get("/openapi.json").body, "/api/v1/indicators/candles")
	assert.Contains(t, p.get("/metrics").body, `pricemill_stage_batch_records_count{stage="ema.g1"}`)
	checkAsyncAPI(t, p.get("/asyncapi.json").body)
	require.Eventually(t, func() bool {
		_, stdout, _ := run(t, p.env, "replay", "price-alerts")
		return strings.Count(stdout, "\n") == len(aaplAlerts)
	}, 20*time.Second, 20*time.Millisecond, "the alerts")
	_, stdout, _ := run(t, p.env, "replay", "price-alerts")
	for _, want := range aaplAlerts {
		assert.Contains(t, stdout, want)
	}
	p.eventually("/readyz", 200)
	status, proof, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, stderr)
	for _, projection := range []string{"bollinger", "candles", "ema", "vwap"} {
		assert.Regexp(t, `projection `+projection+` +ok `, proof)
	}
	require.Zero(t, p.stop())
	for stage, offset := range before {
		assert.Equal(t, offset, offsets(t, env)[stage], "%s stayed where it was", stage)
	}

	// Off again: the route is gone, the tables are not.
	p = start(t, env)
	assert.Equal(t, 404, p.get("/api/v1/indicators/ema?symbol=AAPL").status)
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var averages int
	require.NoError(t, db.Get(t.Context(), &averages, `SELECT COUNT(*) FROM ema WHERE provider = 'csv'`))
	assert.Equal(t, 560, averages, "a row a price")
}

func TestPluginsSetting(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"candels":        `there is no module "candels"; did you mean "candles"?`,
		"-latest-prices": `"latest-prices" cannot be switched off`,
		"ema,-simulated": `"simulated" cannot be switched off`,
		"all,-raw-store": `handler normalize consumes "market.quote.stored.v1", which nothing produces`,
	} {
		status, _, stderr := run(t, environment{"PLUGINS": text}, "topology")
		assert.Equal(t, 2, status, text)
		assert.Contains(t, stderr, want)
	}
}

func TestPluginsAreListed(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, environment{"PLUGINS": "candles,-stream"}, "plugins", "-o", "json")
	require.Zero(t, status, stderr)
	var all []struct {
		Kind, Name, Doc string
		Optional, On    bool
		Settings        []pipeline.Setting
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &all))
	on := map[string]bool{}
	for _, p := range all {
		on[p.Kind+" "+p.Name] = p.On
		assert.NotEmpty(t, p.Doc, p.Name)
		for _, s := range p.Settings {
			assert.NotEmpty(t, s.Doc, "%s: %s", p.Name, s.Name)
		}
	}
	assert.True(t, on["projection candles"])
	assert.False(t, on["projection ema"])
	assert.False(t, on["handler stream"])
	assert.True(t, on["handler fetch"])
	assert.True(t, on["provider simulated"])
	status, stdout, stderr = run(t, environment{}, "plugins")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `periods +\[\]int +periods kept.*default "12,26"`, stdout)
}

// checkAsyncAPI holds a document against the JSON Schema of AsyncAPI 3.0.
func checkAsyncAPI(t *testing.T, text string) {
	t.Helper()
	packed, err := os.ReadFile("testdata/asyncapi-3.0.0.json.gz")
	require.NoError(t, err)
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	require.NoError(t, err)
	definition, err := jsonschema.UnmarshalJSON(reader)
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("mem:asyncapi.json", definition))
	compiled, err := compiler.Compile("mem:asyncapi.json")
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	require.NoError(t, err)
	require.NoError(t, compiled.Validate(document))
	require.Error(t, compiled.Validate(map[string]any{"asyncapi": "3.0.0"}), "the schema refuses what is none")

	doc := document.(map[string]any)
	channels, operations := doc["channels"].(map[string]any), doc["operations"].(map[string]any)
	assert.Contains(t, channels, "price-alerts")
	assert.Contains(t, operations, "handler.price-alerts.send.price-alerts")
	assert.Contains(t, operations, "projection.ema.receive.price-events")
	assert.Contains(t, operations, "source.api.send.polling-jobs")
	// Every reference leads somewhere.
	var walk func(node any)
	walk = func(node any) {
		switch n := node.(type) {
		case map[string]any:
			if ref, ok := n["$ref"].(string); ok {
				assert.NotNil(t, follow(doc, ref), ref)
			}
			for _, child := range n {
				walk(child)
			}
		case []any:
			for _, child := range n {
				walk(child)
			}
		}
	}
	walk(channels)
	walk(operations)
}

func follow(doc map[string]any, ref string) any {
	var at any = doc
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		object, _ := at.(map[string]any)
		at = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	return at
}

// The picture that the README and docs/architecture.md show is what the program draws
// without any setting. To renew it: bin/pricemill topology -o svg >docs/images/topology.svg
func TestThePictureOfTheTopology(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, environment{}, "topology", "-o", "svg")
	require.Zero(t, status, stderr)
	picture, err := os.ReadFile("../docs/images/topology.svg")
	require.NoError(t, err)
	assert.Equal(t, string(picture), stdout)
	for document, link := range map[string]string{"../README.md": "](docs/images/topology.svg)", "../docs/architecture.md": "](images/topology.svg)"} {
		content, err := os.ReadFile(document)
		require.NoError(t, err)
		assert.Contains(t, string(content), link, document)
	}
	status, stdout, stderr = run(t, environment{}, "topology")
	require.Zero(t, status, stderr)
	assert.True(t, strings.HasPrefix(stdout, "flowchart TD\n"), stdout)
	status, _, stderr = run(t, environment{}, "topology", "-o", "png")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `no such value; known are mermaid, svg`)
}
