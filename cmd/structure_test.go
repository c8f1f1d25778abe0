package cmd_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/pricemill/pricemill/"

// mayImport says which of our packages a package may import. A name ending in
// /... stands for all below it; the first line that fits a package counts.
var mayImport = []struct {
	packages string
	imports  []string
}{
	{"schema/parquet", []string{"schema"}},
	{"schema/...", nil},
	{"pipeline", []string{"pipeline/internal/...", "pipeline/rowid", "pipeline/store", "pipeline/tracing", "schema", "schema/names"}},
	{"pipeline/tracing", nil},
	{"pipeline/internal/...", nil},
	{"pipeline/rowid", nil},
	{"pipeline/chain", []string{"schema"}},
	{"pipeline/failpoint", nil},
	{"pipeline/store", []string{"pipeline/chain", "pipeline/failpoint", "schema"}},
	{"pipeline/store/storetest", []string{"pipeline/chain", "pipeline/store", "schema/..."}},
	{"pipeline/store/prepared", nil},
	{"pipeline/store/...", []string{"pipeline/failpoint", "pipeline/store", "pipeline/store/prepared", "schema/..."}},
	{"pipeline/log", []string{"pipeline", "pipeline/chain", "pipeline/store", "schema"}},
	{"pipeline/log/kafka", []string{"pipeline", "pipeline/failpoint", "pipeline/log", "pipeline/log/delivery", "schema"}},
	{"pipeline/log/...", []string{"pipeline", "pipeline/chain", "pipeline/failpoint", "pipeline/log", "pipeline/log/delivery", "pipeline/store", "schema"}},
	{"pipeline/topology", []string{"pipeline", "schema", "schema/names"}},
	{"pipeline/topics", []string{"pipeline/halt", "pipeline/log", "pipeline/rowid", "pipeline/store", "schema"}},
	{"pipeline/outbox", []string{"pipeline", "pipeline/chain", "pipeline/failpoint", "pipeline/log", "pipeline/store", "pipeline/topics", "schema"}},
	{"pipeline/halt", []string{"pipeline", "pipeline/chain", "pipeline/log", "pipeline/store", "schema"}},
	{"pipeline/operator", []string{"pipeline", "pipeline/chain", "pipeline/halt", "pipeline/log", "pipeline/store", "schema"}},
	{"pipeline/engine", []string{"pipeline", "pipeline/chain", "pipeline/failpoint", "pipeline/halt", "pipeline/internal/...", "pipeline/log", "pipeline/operator", "pipeline/outbox", "pipeline/rowid", "pipeline/store", "pipeline/topics", "pipeline/tracing", "schema"}},
	{"pipeline/deletion", []string{"pipeline", "pipeline/chain", "pipeline/log", "pipeline/log/kafka", "pipeline/log/table", "pipeline/outbox", "pipeline/rowid", "pipeline/store", "pipeline/topics", "schema"}},
	{"pipeline/audit", []string{"pipeline", "pipeline/chain", "pipeline/deletion", "pipeline/engine", "pipeline/halt", "pipeline/log", "pipeline/store", "pipeline/topics", "schema"}},
	{"pipeline/move", []string{"pipeline", "pipeline/engine", "pipeline/log", "pipeline/store", "schema/..."}},
	{"pipeline/refill", []string{"pipeline", "pipeline/chain", "pipeline/engine", "pipeline/log", "pipeline/operator", "pipeline/store", "pipeline/topics", "schema"}},
	{"pipeline/pipelinetest/shrink", []string{"pipeline", "schema"}},
	{"pipeline/pipelinetest", []string{"pipeline", "pipeline/engine", "pipeline/failpoint", "pipeline/log", "pipeline/pipelinetest/shrink", "pipeline/store/...", "pipeline/topics", "schema"}},
	{"handlers/failingjobs", []string{"pipeline", "pipeline/store", "schema"}},
	{"handlers/remote", []string{"pipeline", "schema"}},
	{"handlers/target", []string{"handlers/pricealerts", "pipeline", "pipeline/rowid", "schema"}},
	{"handlers/target/targettest", []string{"pipeline", "pipeline/pipelinetest", "pipeline/store", "pipeline/store/sqlite", "schema"}},
	{"handlers/claim", []string{"pipeline", "pipeline/store", "schema"}},
	{"handlers/backfill", []string{"handlers/claim", "handlers/fetch", "handlers/provider/declared", "handlers/rawstore", "pipeline", "pipeline/store", "schema"}},
	{"handlers/stream", []string{"handlers/backfill", "handlers/claim", "handlers/provider/declared", "pipeline", "pipeline/store", "pipeline/tracing", "schema"}},
	{"handlers/webhook", []string{"handlers/pricealerts", "handlers/remote", "handlers/target", "pipeline", "schema"}},
	{"handlers/...", []string{"handlers/claim", "handlers/failingjobs", "handlers/provider/...", "handlers/remote", "handlers/target", "pipeline", "pipeline/audit", "pipeline/failpoint", "pipeline/rowid", "pipeline/store", "pipeline/tracing", "schema", "schema/names", "schema/parquet"}},
	{"projections", []string{"pipeline", "pipeline/audit", "pipeline/engine", "pipeline/log", "pipeline/rowid", "pipeline/store", "pipeline/topics", "schema"}},
	{"projections/live", []string{"projections/...", "pipeline", "pipeline/engine", "pipeline/log", "pipeline/store", "pipeline/topics", "schema", "schema/names"}},
	{"projections/logrecords", []string{"pipeline", "pipeline/chain", "pipeline/log", "pipeline/refill", "pipeline/rowid", "pipeline/store", "projections", "projections/adjustments", "schema"}},
	{"projections/projectiontest", []string{"projections", "projections/processedprices", "pipeline", "pipeline/pipelinetest/...", "pipeline/store", "schema"}},
	{"projections/...", []string{"projections/...", "pipeline", "pipeline/rowid", "pipeline/store", "schema"}},
	{"httpapi", []string{"httpapi/apikeys", "httpapi/chart", "httpapi/dashboard", "httpapi/ratelimit", "httpapi/symbolmap", "pipeline/tracing", "projections/...", "schema", "schema/names", "schema/parquet"}},
	{"httpapi/apikeys", []string{"pipeline/store", "schema"}},
	{"httpapi/ratelimit", []string{"pipeline/store"}},
	{"httpapi/redis", nil},
	{"httpapi/chart", []string{"schema"}},
	{"httpapi/dashboard", []string{"schema"}},
	{"httpapi/symbolmap", []string{"schema", "schema/names"}},
	{"internal/logtest", []string{"pipeline", "pipeline/log", "schema"}},
	{"internal/...", []string{"schema"}},
	{"cmd/...", []string{"cmd/...", "httpapi", "httpapi/apikeys", "httpapi/dashboard", "httpapi/ratelimit", "httpapi/redis", "httpapi/symbolmap", "handlers/...", "projections/...", "pipeline/...", "schema/..."}},
}

// fences says where alone a third-party module, or a package of the standard
// library, may be imported.
var fences = map[string][]string{
	"github.com/quagmt/udecimal":               {"schema"},
	"github.com/parquet-go/parquet-go":         {"schema/parquet"},
	"github.com/ThreeDotsLabs/watermill":       {"pipeline/...", "internal/logtest"},
	"github.com/ThreeDotsLabs/watermill-kafka": {"pipeline/log/kafka", "pipeline/log/delivery"},
	"github.com/ThreeDotsLabs/watermill-sql":   {"pipeline/store"},
	"github.com/IBM/sarama":                    {"pipeline/log/kafka"},
	"github.com/Shopify/toxiproxy":             {"internal/proxytest"},
	"github.com/xdg-go/scram":                  {"pipeline/log/kafka"},
	"github.com/twmb/franz-go":                 {"internal/kafkatest"},
	"github.com/redis/go-redis":                {"httpapi/redis", "handlers/redisstream"},
	"github.com/jmoiron/sqlx":                  {"pipeline/store/..."},
	"github.com/lib/pq":                        {"pipeline/store/postgres", "internal/postgrestest"},
	"modernc.org/sqlite":                       {"pipeline/store/sqlite"},
	"github.com/pressly/goose":                 {"pipeline/store/..."},
	"github.com/coder/websocket":               {"handlers/provider/...", "httpapi", "internal/exchangetest", "internal/feedtest"},
	"github.com/gorilla/mux":                   {"httpapi"},
	"github.com/swaggest/swgui":                {"httpapi"},
	"github.com/go-analyze/charts":             {"httpapi/chart"},
	"github.com/guptarohit/asciigraph":         {"cmd"},
	"github.com/mvrilo/go-redoc":               {"httpapi"},
	"github.com/spf13/cobra":                   {"cmd/..."},
	"github.com/knadh/koanf":                   {"cmd/..."},
	"github.com/itchyny/gojq":                  {"handlers/provider/declared"},
	"go.yaml.in/yaml":                          {"handlers/provider/declared", "httpapi/symbolmap"},
	"github.com/schollz/progressbar":           {"cmd"},
	"github.com/modelcontextprotocol/go-sdk":   {"cmd"},
	"github.com/prometheus/client_golang":      {"pipeline", "pipeline/engine", "handlers/backfill", "handlers/fetch", "handlers/normalize", "handlers/target", "handlers/webhook", "cmd/..."},
	"github.com/sony/gobreaker":                {"handlers/fetch"},
	"github.com/santhosh-tekuri/jsonschema":    {"internal/contracttest"},
	"go.opentelemetry.io":                      {"pipeline/tracing", "internal/tracetest"},
	"net/http":                                 {"httpapi/...", "cmd/...", "handlers/provider/...", "handlers/remote", "handlers/webhook", "pipeline/tracing", "internal/tracetest", "internal/contracttest", "internal/exchangetest", "internal/feedtest"},
	"database/sql":                             {"schema", "pipeline/store/...", "projections/...", "httpapi", "internal/postgrestest"},

	// What is for tests is in no program.
	module + "internal": nil,
}

func fits(pattern, name string) bool {
	if prefix, all := strings.CutSuffix(pattern, "/..."); all {
		return name == prefix || strings.HasPrefix(name, prefix+"/")
	}
	return name == pattern
}

func fitsAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return fits(pattern, name) })
}

// TestImports holds every file that is not a test against the tables above.
func TestImports(t *testing.T) {
	t.Parallel()
	files := 0
	eachGoFile(t, func(name string, imports []string) {
		files++
		room := path.Dir(name)
		for _, imported := range imports {
			if own, ours := strings.CutPrefix(imported, module); ours {
				assert.True(t, fitsAny(importsOf(t, room), own), "%s must not import %s", name, own)
			}
			for fenced, rooms := range fences {
				if imported == fenced || strings.HasPrefix(imported, fenced+"/") {
					assert.True(t, fitsAny(rooms, room), "%s must not import %s: only %q may", name, imported, rooms)
				}
			}
		}
	})
	assert.Greater(t, files, 50, "the walk found the files")
}

func importsOf(t *testing.T, room string) []string {
	for _, line := range mayImport {
		if fits(line.packages, room) {
			return line.imports
		}
	}
	assert.Fail(t, "a package without a line in the table", room)
	return nil
}

func eachGoFile(t *testing.T, f func(name string, imports []string)) {
	root := os.DirFS("..")
	require.NoError(t, fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if _, none := fs.Stat(root, path.Join(name, "go.mod")); err == nil && entry.IsDir() && name != "." && none == nil {
			return fs.SkipDir // another module
		}
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", name), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, spec := range parsed.Imports {
			unquoted, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, unquoted)
		}
		f(name, imports)
		return nil
	}))
}

// TestRooms: the top level is what its user fixed, and no folder is a drawer
// for everything.
func TestRooms(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("..")
	require.NoError(t, err)
	rooms := []string{"cmd", "pipeline", "handlers", "projections", "httpapi", "schema", "internal", "docs", "bin", "data"}
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			assert.Contains(t, rooms, entry.Name())
		}
	}
	eachGoFile(t, func(name string, _ []string) {
		for _, part := range strings.Split(path.Dir(name), "/") {
			assert.NotContains(t, []string{"util", "utils", "common", "helpers", "misc", "base", "shared", "lib"}, part, name)
		}
	})
}
