package cmd_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const acmeDefinition = `name: acme
doc: Prices of ACME; needs a key.
base_url: https://api.acme.example
request: quote?s={symbol}&token={key}
limits: [{calls: 1000, per: 1m}]
answers: [{when: .error != null, means: unknown_symbol}]
read: {price: .c, time: .t, unit: seconds}
`

// declare writes definitions into a directory of their own.
func declare(t testing.TB, definitions ...string) string {
	t.Helper()
	directory := t.TempDir()
	for i, text := range definitions {
		require.NoError(t, os.WriteFile(filepath.Join(directory, fmt.Sprintf("%d.yaml", i)), []byte(text), 0o600))
	}
	return directory
}

// acmeService plays the service of acmeDefinition.
func acmeService(t testing.TB) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, canaryKey, r.URL.Query().Get("token"))
		if r.URL.Query().Get("s") == "NOPE" {
			_, _ = fmt.Fprint(w, `{"error":"no such symbol"}`)
			return
		}
		_, _ = fmt.Fprint(w, `{"c":612345.67,"other":0.123456789012345678,"t":1582641000}`)
	}))
	t.Cleanup(server.Close)
	return server
}

// TestDeclaredProviders: a provider of a file is as one that is compiled in. A changed file
// reads new answers; each answer says by which version it is read.
func TestDeclaredProviders(t *testing.T) {
	t.Parallel()
	directory := declare(t, acmeDefinition)
	settings := environment{"PROVIDERS_DIR": directory, "ACME_API_KEY": canaryKey, "ACME_BASE_URL": acmeService(t).URL, "DEBUG": "true"}
	p := start(t, settings)
	first := p.get("/api/v1/prices/latest?symbol=aapl&provider=acme")
	assert.Equal(t, `{"symbol":"AAPL","price":612345.67,"timestamp":"2020-02-25T14:30:00.000000Z","provider":"acme"}`, strings.TrimSpace(first.body))
	unknown := p.get("/api/v1/prices/latest?symbol=NOPE&provider=acme")
	assert.Equal(t, http.StatusNotFound, unknown.status, unknown.body)
	assert.Contains(t, p.get("/api/v1/providers").body, `"Prices of ACME; needs a key."`)
	assertNoKey(t, p, first.body+unknown.body)
	require.Zero(t, p.stop())

	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(strings.Replace(acmeDefinition, ".c,", ".other,", 1)), 0o600))
	p = start(t, p.env)
	second := p.get("/api/v1/prices/latest?symbol=MSFT&provider=acme")
	assert.Equal(t, `{"symbol":"MSFT","price":0.123456789012345678,"timestamp":"2020-02-25T14:30:00.000000Z","provider":"acme"}`, strings.TrimSpace(second.body))
	require.Zero(t, p.stop())
	status, stdout, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, "%s%s", stdout, stderr)

	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	var versions []struct{ Symbol, Definition string }
	require.NoError(t, db.Select(t.Context(), &versions, `SELECT r.symbol, d.definition FROM raw_market_data r
		JOIN provider_definitions d ON d.version = r.definition ORDER BY r.symbol`))
	require.Len(t, versions, 3)
	assert.Equal(t, "AAPL", versions[0].Symbol)
	assert.Equal(t, acmeDefinition, versions[0].Definition)
	assert.Equal(t, "MSFT", versions[1].Symbol)
	assert.Contains(t, versions[1].Definition, ".other,")
}

// TestDefinitionsThatCannotBe: all of them are said before anything starts.
func TestDefinitionsThatCannotBe(t *testing.T) {
	t.Parallel()
	named := func(name string) string { return strings.Replace(acmeDefinition, "name: acme", "name: "+name, 1) }
	for name, c := range map[string]struct {
		definitions []string
		want        string
	}{
		"of a compiled provider": {[]string{named("finnhub")}, `the name "finnhub" is compiled into this binary`},
		"of a stage":             {[]string{named("normalize")}, `the name "normalize" is compiled into this binary`},
		"of an alias":            {[]string{named("yahoo_finance")}, `the name "yahoo_finance" is another name of the provider yahoo`},
		"twice":                  {[]string{acmeDefinition, acmeDefinition}, `1.yaml: the name "acme" is declared by `},
		"a misspelt key":         {[]string{strings.Replace(acmeDefinition, "request:", "reqest:", 1)}, `line 4: there is no key "reqest" here; did you mean "request"?`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, _, stderr := run(t, environment{"PROVIDERS_DIR": declare(t, c.definitions...)}, "config")
			assert.Equal(t, 2, status)
			assert.Contains(t, stderr, "PROVIDERS_DIR: ")
			assert.Contains(t, stderr, c.want)
		})
	}
	status, _, stderr := run(t, environment{"PROVIDERS_DIR": "/nonexistent"}, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "PROVIDERS_DIR: ")
}

// TestDeclaredProvidersAreCompleted: --provider completes their names.
func TestDeclaredProvidersAreCompleted(t *testing.T) {
	t.Parallel()
	_, stdout, _ := run(t, environment{"PROVIDERS_DIR": declare(t, acmeDefinition)}, "__complete", "price", "AAPL", "--provider", "")
	assert.Contains(t, stdout, "acme\tPrices of ACME; needs a key.\n")
}

// TestSettingsOfDeclaredProviders: the key comes from the environment, a file or the
// configuration file, and is never shown.
func TestSettingsOfDeclaredProviders(t *testing.T) {
	t.Parallel()
	directory := declare(t, acmeDefinition)
	secret := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(secret, []byte(canaryKey+"\n"), 0o600))
	configFile := filepath.Join(t.TempDir(), "pricemill.yaml")
	require.NoError(t, os.WriteFile(configFile, []byte("modules: {acme: {api_key: "+canaryKey+"}}\n"), 0o600))
	for from, env := range map[string]environment{
		"environment": {"ACME_API_KEY": canaryKey},
		secret:        {"ACME_API_KEY_FILE": secret},
		configFile:    {"CONFIG_FILE": configFile},
	} {
		env["PROVIDERS_DIR"] = directory
		status, stdout, stderr := run(t, env, "config")
		require.Zero(t, status, stderr)
		assert.Regexp(t, `(?m)^ACME_API_KEY +\*\*\* +`+from+`$`, stdout)
		assert.Regexp(t, `(?m)^ACME_BASE_URL +https://api.acme.example +default$`, stdout)
		assert.NotContains(t, stdout+stderr, canaryKey)
	}
}

// TestTheProvidersDocument runs the commands of docs/providers.md with the definition and
// the answer of the document, and compares what they print.
func TestTheProvidersDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/providers.md")
	require.NoError(t, err)
	directory := t.TempDir()
	blocks := func(kind string) [][][]byte {
		all := regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllSubmatch(text, -1)
		require.Len(t, all, 2, kind)
		return all
	}
	write := func(file string, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(directory, file), text, 0o600))
	}
	write("acme.yaml", slices.Concat(blocks("yaml")[0][1], blocks("yaml")[1][1])) // the definition, and its stream
	write("answer.json", blocks("json")[0][1])
	write("frame.json", blocks("json")[1][1])
	compared := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)\n```\n\n```text\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		args := arguments(block[1])
		for i, arg := range args {
			if arg == "acme.yaml" || filepath.Ext(arg) == ".json" {
				args[i] = filepath.Join(directory, arg)
			}
		}
		status, stdout, stderr := run(t, environment{}, args...)
		if want, failed := strings.CutPrefix(block[2], "pricemill: "); failed {
			assert.Equal(t, 1, status)
			assert.Equal(t, "pricemill: "+want, stderr)
		} else {
			assert.Zero(t, status, stderr)
			assert.Equal(t, block[2], regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, ""))
		}
		compared++
	}
	assert.Equal(t, 3, compared)
}

// TestProviderTestAsks: without a sample the service is asked, with the key.
func TestProviderTestAsks(t *testing.T) {
	t.Parallel()
	file := filepath.Join(declare(t, acmeDefinition), "0.yaml")
	env := environment{"ACME_API_KEY": canaryKey, "ACME_BASE_URL": acmeService(t).URL}
	status, stdout, stderr := run(t, env, "provider", "test", file, "--symbol", "aapl", "-o", "json")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, `"value": "612345.67"`)
	assert.NotContains(t, stdout+stderr, canaryKey)

	compiled := filepath.Join(declare(t, strings.Replace(acmeDefinition, "name: acme", "name: yahoo", 1)), "0.yaml")
	module := filepath.Join(declare(t, strings.Replace(acmeDefinition, "name: acme", "name: normalize", 1)), "0.yaml")
	alias := filepath.Join(declare(t, strings.Replace(acmeDefinition, "name: acme", "name: yahoo_finance", 1)), "0.yaml")
	ahead := filepath.Join(t.TempDir(), "ahead.json")
	require.NoError(t, os.WriteFile(ahead, []byte(`{"c":1,"t":9000000000}`), 0o600))
	for args, want := range map[string]string{
		compiled:                      `the name "yahoo" is compiled into this binary`,
		module:                        `the name "normalize" is compiled into this binary`,
		alias:                         `the name "yahoo_finance" is another name of the provider yahoo`,
		file + " --sample " + ahead:   "bad_response: the price is of 2255",
		file + " --symbol NOPE":       "unknown_symbol: the service does not know NOPE, by rule 1 of the definition",
		file + " --sample " + file:    "bad_response: the answer is not JSON",
		file + " --status 99":         "--status: 99 is not within 200 and 599",
		file + " --symbol ?":          "--symbol: ",
		file + " --sample nothing":    "--sample: open nothing",
		file + " --page " + ahead:     "--page: " + file + " declares no history",
		"../docs/providers.md":        "not a provider's definition",
		filepath.Join(file, "absent"): "absent",
	} {
		status, _, stderr := run(t, env, append([]string{"provider", "test"}, strings.Fields(args)...)...)
		assert.NotZero(t, status, args)
		assert.Contains(t, stderr, want, args)
	}
	delete(env, "ACME_API_KEY")
	_, _, stderr = run(t, env, "provider", "test", file)
	assert.Contains(t, stderr, "not_configured: there is no key: set ACME_API_KEY")
}
