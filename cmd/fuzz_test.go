package cmd_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
)

// Whatever the environment and the file say, the settings are printed, or it is
// said which are wrong; and no secret is in either.
func FuzzConfig(f *testing.F) {
	const secret = "hunter2hunter2"
	names := []string{"HTTP_ADDR", "DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPIC_PREFIX", "KAFKA_INSTANCE_ID", "KAFKA_SESSION_TIMEOUT",
		"KAFKA_PARTITIONS", "KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM", "ROLES", "DEFAULT_PROVIDER", "COINBASE_WS_URL",
		"YAHOO_BASE_URL", "MOVING_AVERAGE_WINDOW", "LATEST_MAX_AGE", "RATE_LIMIT_PER_MINUTE", "SIMULATED_FAULTS", "DEBUG", "REDIS_URL"}
	for i, value := range []string{"127.0.0.1:8000", "postgres://u:" + secret + "@h/d", "a:1,,b:2", "x.", "w1", "10s", "12", "sasl_ssl", "plain",
		"api,relay", "yahoo_finance", "ws://127.0.0.1:1", "https://example.com", "5,20", "-1s", "99999999999999999999", "A=late:1s", "maybe", secret} {
		f.Add(uint8(i), value, "")
	}
	for _, file := range []string{"http_addr: 127.0.0.1:1\n", "database_url: postgres://u:" + secret + "@h/d\n", "modules:\n  fetch:\n    concurrency: 3\n",
		"modules: 1\n", "modules: {x: {}}\n", "http_adr: x\n", "- a\n", "a: &a [*a]\n", "\xff", "{", "moving_average_window: [5, 20]\n", "debug: {a: b}\n",
		"? [a]\n: b\n", "data_dir: !!binary AAE=\n"} {
		f.Add(uint8(0), "", file)
	}
	path := filepath.Join(f.TempDir(), "pricemill.yaml")
	f.Fuzz(func(t *testing.T, which uint8, value, text string) {
		if strings.Contains(value, "\x00") {
			return // no environment has it
		}
		name := names[int(which)%len(names)]
		env := environment{name: value, "KAFKA_SASL_PASSWORD": secret, "FINNHUB_API_KEY": secret}
		if text != "" {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			env["CONFIG_FILE"] = path
		}
		var out, errs bytes.Buffer
		status := cmd.Main(t.Context(), []string{"config"}, env.lookup, &out, &errs)
		require.Contains(t, []int{0, 2}, status, errs.String())
		require.Equal(t, status == 0, errs.Len() == 0)
		scheme, _, _ := strings.Cut(value, "://") // which an error may show
		exposed := strings.Contains(text, secret) || strings.Contains(scheme, secret) ||
			strings.Contains(value, secret) && name != "DATABASE_URL" && name != "REDIS_URL"
		if !exposed {
			require.NotContains(t, out.String()+errs.String(), secret)
		}
	})
}
