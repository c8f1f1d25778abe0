package cmd_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
)

// serveUntil runs the service until its log has a line that contains last, and returns
// the log.
func serveUntil(t *testing.T, env environment, last string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		exit <- cmd.Main(ctx, []string{"serve"}, newStack(t, env).lookup, io.Discard, writer)
		_ = writer.Close() // never fails
	}()
	var log strings.Builder
	buffer := make([]byte, 4096)
	for {
		n, err := reader.Read(buffer)
		log.Write(buffer[:n])
		if strings.Contains(log.String(), last) {
			cancel()
		}
		if err != nil {
			break
		}
	}
	cancel()
	require.Zero(t, <-exit, log.String())
	return log.String()
}

// Who reads the log as text is greeted, once everything runs.
func TestTheBanner(t *testing.T) {
	t.Parallel()
	log := serveUntil(t, environment{"LOG_FORMAT": "text"}, "Ctrl-C")
	match := regexp.MustCompile(`(?s)msg="pipeline running"\n\npricemill \S+ on (http://127\.0\.0\.1:\d+)\n` +
		`  data      (.+?)(?:, which holds the log too|, and the log on Kafka at \S+)\n  prices    simulated, made up and not of any market; for real ones ask with provider=coinbase or provider=yahoo, [^\n]+\n` +
		`  look at   (\S+)/ in a browser, and (\S+)/docs for the API\n  try       curl -s '(\S+)/api/v1/prices/latest\?symbol=AAPL'\n  stop it   Ctrl-C\n\n`).FindStringSubmatch(log)
	require.NotNil(t, match, log)
	assert.Equal(t, match[1], match[3])
	assert.Equal(t, match[1], match[4])
	assert.Equal(t, match[1], match[5])
	if onPostgres() {
		assert.Regexp(t, `^PostgreSQL on \S+$`, match[2])
		assert.NotContains(t, match[2], "@", "neither user nor password")
	} else {
		assert.Regexp(t, `^SQLite in /`, match[2])
	}
	log = serveUntil(t, environment{"LOG_FORMAT": "text", "FINNHUB_API_KEY": "canary-key"}, "Ctrl-C")
	assert.Contains(t, log, "  prices    of finnhub, unless a request names another provider\n")
	assert.NotContains(t, log, "canary-key")
}

func TestLogLevelsAndFormats(t *testing.T) {
	t.Parallel()
	log := serveUntil(t, environment{"LOG_LEVEL": "debug"}, `"pipeline running"`)
	lines := strings.Split(strings.TrimSpace(log), "\n")
	assert.Contains(t, lines[len(lines)-1], `"msg":"stopped"`)
	for line := range strings.Lines(log) {
		assert.True(t, json.Valid([]byte(line)), line)
	}
	assert.Contains(t, log, `"level":"DEBUG"`)
	assert.NotContains(t, log, "Ctrl-C")
	const noAccessLog = "neither off nor errors, nor a share above 0 and up to 1"
	for text, want := range map[string]string{
		"LOG_LEVEL=loud": `there is no level "loud"; known are debug, error, info, warn`, "LOG_FORMAT=jsn": `there is no format "jsn"; did you mean "json"?`,
		"ACCESS_LOG=all": `"all" is ` + noAccessLog, "ACCESS_LOG=0": `"0" is ` + noAccessLog, "ACCESS_LOG=1.01": `"1.01" is ` + noAccessLog, "ACCESS_LOG=NaN": `"NaN" is ` + noAccessLog} {
		name, value, _ := strings.Cut(text, "=")
		status, _, stderr := run(t, environment{name: value}, "config")
		assert.Equal(t, 2, status, text)
		assert.Contains(t, stderr, name+": "+want)
	}
	status, _, stderr := run(t, environment{"DEBUG": "true", "LOG_LEVEL": "warn"}, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "contradicts DEBUG=true")
}

// "config" says where each value comes from.
func TestWhereSettingsComeFrom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, key := filepath.Join(dir, "pricemill.yaml"), filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(file, []byte("latest_max_age: 7s\ndebug: false\n"), 0o600))
	require.NoError(t, os.WriteFile(key, []byte("canary-key"), 0o600))
	status, stdout, stderr := run(t, environment{"DEBUG": "true", "FINNHUB_API_KEY_FILE": key}, "config", "--config", file, "--data-dir", dir)
	require.Zero(t, status, stderr)
	for _, line := range []string{
		`SETTING +VALUE +FROM$`,
		`HTTP_ADDR +127\.0\.0\.1:8000 +default\n +address`,
		`LATEST_MAX_AGE +7s +` + file + `\n +maximum age`,
		`DEBUG +true +environment\n +the same`,
		`DATA_DIR +` + dir + ` +flag\n +directory`,
		`FINNHUB_API_KEY +\*\*\* +` + key + `\n +API key`,
	} {
		assert.Regexp(t, "(?m)^"+line, stdout)
	}
	assert.NotContains(t, stdout, "canary-key")
}

func TestTheVersionIsAFlagToo(t *testing.T) {
	t.Parallel()
	status, byCommand, _ := run(t, environment{}, "version")
	assert.Zero(t, status)
	status, byFlag, _ := run(t, environment{}, "--version")
	assert.Zero(t, status)
	assert.Equal(t, byCommand, byFlag)
	assert.Regexp(t, `^pricemill \S+`, byFlag)
}
