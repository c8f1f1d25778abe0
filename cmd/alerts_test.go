package cmd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// alert is a rule of docs/prometheus/pricemill.rules.yaml.
type alert struct{ name, expression, severity, runbook string }

func readAlerts(t *testing.T) (all []alert) {
	t.Helper()
	content, err := os.ReadFile("../docs/prometheus/pricemill.rules.yaml")
	require.NoError(t, err)
	rules, err := yaml.Parser().Unmarshal(content)
	require.NoError(t, err)
	for _, group := range rules["groups"].([]any) {
		for _, rule := range group.(map[string]any)["rules"].([]any) {
			r := rule.(map[string]any)
			annotations := r["annotations"].(map[string]any)
			all = append(all, alert{r["alert"].(string), r["expr"].(string), r["labels"].(map[string]any)["severity"].(string), annotations["runbook"].(string)})
		}
	}
	return all
}

// TestAlerts: each alert is of metrics that there are, has its section in the runbook, in
// their order, and cases that show where it fires and where it does not.
func TestAlerts(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(content)
	}
	metrics, runbook, cases := read("../docs/metrics.md"), read("../docs/runbook.md"), read("../docs/prometheus/pricemill.rules.test.yaml")
	var names []string
	for _, a := range readAlerts(t) {
		names = append(names, a.name)
		used := regexp.MustCompile(`(?:pricemill|go_sql)_[a-z_]+`).FindAllString(a.expression, -1)
		if a.name != "PricemillDown" { // which asks Prometheus
			assert.NotEmpty(t, used, a.name)
		}
		for _, metric := range used {
			assert.Contains(t, metrics, "`"+strings.TrimSuffix(metric, "_bucket")+"`", "%s: no such metric", a.name)
		}
		assert.Contains(t, []string{"page", "ticket"}, a.severity, a.name)
		assert.Equal(t, "docs/runbook.md#"+strings.ToLower(a.name), a.runbook)
		assert.Contains(t, cases, "  - name: "+a.name+"\n", "fires")
		assert.Contains(t, cases, "  - name: "+a.name+" is quiet\n")
	}
	var sections []string
	for _, heading := range regexp.MustCompile(`(?m)^## (\w+)$`).FindAllStringSubmatch(runbook, -1) {
		sections = append(sections, heading[1])
	}
	assert.Equal(t, names, sections)
	for _, code := range []schema.Code{schema.CodeTimeout, schema.CodeUnavailable, schema.CodeRateLimited, schema.CodeUnauthorized, schema.CodeNotConfigured,
		schema.CodeUnknownProvider, schema.CodeTooLarge, schema.CodeUnknownSymbol, schema.CodeBadResponse, schema.CodeBadPrice, schema.CodeInternal} {
		assert.Contains(t, runbook, "`"+string(code)+"`", "what to do where fetches fail")
	}
}
