package cmd_test

import (
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/pricemill/pricemill/internal/kafkatest"
)

// secretFiles are what the secrets of an installation hold.
var secretFiles = map[string]string{
	"database_url":        "postgres://pricemill:secret@db.example/prices",
	"kafka_sasl_password": "secret",
	"finnhub_api_key":     "secret",
}

// withSecrets has each file of a secret in a folder of the test.
func (e environment) withSecrets(t *testing.T) environment {
	t.Helper()
	dir := t.TempDir()
	changed := environment{}
	for name, value := range e {
		if !strings.HasSuffix(name, "_FILE") {
			continue
		}
		content, known := secretFiles[path.Base(value)]
		require.True(t, known, "%s names %s, which is no secret", name, value)
		changed[name] = filepath.Join(dir, path.Base(value))
		require.NoError(t, os.WriteFile(changed[name], []byte(content), 0o600))
	}
	return e.with(changed)
}

// container is one of the manifests, with what it sees.
type container struct {
	args []string
	env  environment
}

// kubernetes reads the containers of a folder of docs/kubernetes, each by the file and the
// name of its workload, with the settings of the folder.
func kubernetes(t *testing.T, folder string) map[string]container {
	t.Helper()
	dir := filepath.Join("..", "docs", "kubernetes", folder)
	shared := environment{}
	if text, err := os.ReadFile(filepath.Join(dir, "settings.env")); err == nil {
		shared.read(t, string(text))
	}
	found := map[string]container{}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var tree map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(document), &tree), file)
			metadata, _ := tree["metadata"].(map[string]any)
			eachContainer(tree, func(c map[string]any) {
				name := metadata["name"].(string)
				one := container{env: shared.with(nil)}
				for _, argument := range c["args"].([]any) {
					one.args = append(one.args, argument.(string))
				}
				for _, variable := range c["env"].([]any) {
					v := variable.(map[string]any)
					value, literal := v["value"].(string)
					if !literal {
						value = name + "-0" // the name of a pod
					}
					one.env[v["name"].(string)] = value
				}
				found[name] = one
			})
		}
	}
	return found
}

// eachContainer calls f for each container of a document.
func eachContainer(node any, f func(map[string]any)) {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			containers, ok := value.([]any)
			if key == "containers" && ok {
				for _, c := range containers {
					f(c.(map[string]any))
				}
				continue
			}
			eachContainer(value, f)
		}
	case []any:
		for _, value := range n {
			eachContainer(value, f)
		}
	}
}

// read adds the lines NAME=value of a text.
func (e environment) read(t *testing.T, text string) {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^([A-Z_]+)=(.*)$`).FindAllStringSubmatch(text, -1)
	require.NotEmpty(t, lines)
	for _, line := range lines {
		e[line[1]] = line[2]
	}
}

// assertSettings: the program knows each name, and accepts the values together.
func assertSettings(t *testing.T, what string, env environment) {
	t.Helper()
	status, stdout, stderr := run(t, env.withSecrets(t), "config")
	assert.Zero(t, status, "%s: %s", what, stderr)
	for name := range env {
		if name == "GOMEMLIMIT" { // of Go
			continue
		}
		assert.Regexp(t, `(?m)^`+strings.TrimSuffix(name, "_FILE")+`\s`, stdout, "%s sets %s", what, name)
	}
}

// TestTheKubernetesManifests: each setting that they name exists, and the program accepts
// their values. `make test-deployment` holds them to the rest.
func TestTheKubernetesManifests(t *testing.T) {
	t.Parallel()
	full, single := kubernetes(t, "base"), kubernetes(t, "single")
	assert.Len(t, full, 3)
	assert.Len(t, single, 1)
	for name, c := range full {
		assertSettings(t, name, c.env)
	}
	for name, c := range single {
		assertSettings(t, name, c.env)
	}
	assert.Equal(t, []string{"serve"}, full["pricemill-api"].args)
	assert.Equal(t, []string{"serve"}, full["pricemill-worker"].args)
	assert.Equal(t, []string{"serve"}, single["pricemill"].args)
	assert.Equal(t, []string{"migrate"}, full["pricemill-migrate"].args)
	status, _, stderr := run(t, environment{"DATA_DIR": t.TempDir()}, full["pricemill-migrate"].args...)
	assert.Zero(t, status, stderr)

	var overlay struct {
		ConfigMapGenerator []struct{ Literals []string } `yaml:"configMapGenerator"`
	}
	text, err := os.ReadFile("../docs/kubernetes/example/kustomization.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &overlay))
	require.Len(t, overlay.ConfigMapGenerator, 1)
	changed := full["pricemill-worker"].env
	changed.read(t, strings.Join(overlay.ConfigMapGenerator[0].Literals, "\n"))
	assertSettings(t, "the example", changed)
}

// TestWhatTheKubernetesManifestsStart: a worker and an API process with the settings of the
// manifests, but for addresses and one broker, and the single process are well for the
// kubelet, which asks by an address.
func TestWhatTheKubernetesManifestsStart(t *testing.T) {
	t.Parallel()
	anywhere := environment{"HTTP_ADDR": "0.0.0.0:0"}
	ask := func(p *program, route, host string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+route, nil)
		require.NoError(t, err)
		request.Host = host
		return p.send(request).status
	}
	probe := func(p *program) {
		assert.Equal(t, http.StatusOK, ask(p, "/livez", "10.1.2.3:8000"))
		assert.Equal(t, http.StatusOK, ask(p, "/livez", "pricemill:8000"))
		assert.Equal(t, http.StatusMisdirectedRequest, ask(p, "/livez", "elsewhere.example"), "HTTP_HOSTS is not in force")
		require.Eventually(t, func() bool { return ask(p, "/readyz", "10.1.2.3:8000") == http.StatusOK },
			30*time.Second, 50*time.Millisecond)
	}
	single := kubernetes(t, "single")["pricemill"].env
	probe(start(t, single.with(anywhere).with(environment{"DATA_DIR": t.TempDir()})))

	broker, err := kafkatest.Start(kafkatest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	full := kubernetes(t, "base")
	changed := anywhere.with(environment{"DATA_DIR": t.TempDir(), "DATABASE_URL": "sqlite", "DATABASE_URL_FILE": "",
		"KAFKA_BOOTSTRAP_SERVERS": broker.Addr(), "KAFKA_REPLICATION_FACTOR": "1"})
	worker := start(t, full["pricemill-worker"].env.with(changed))
	probe(worker)
	require.Zero(t, worker.stop()) // SQLite is for one of them
	probe(start(t, full["pricemill-api"].env.with(changed)))
}

// TestTheSystemdUnit: the program accepts what the unit sets, with the drop-in of
// docs/install.md, and starts by it.
func TestTheSystemdUnit(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../.ci/release/pricemill.service")
	require.NoError(t, err)
	unit := string(text)
	assert.Contains(t, unit, "\nExecStart=/usr/bin/pricemill serve\n")
	document, err := os.ReadFile("../docs/install.md")
	require.NoError(t, err)
	dropIn := regexp.MustCompile("(?s)```ini\n(.*?)```").FindStringSubmatch(string(document))
	require.NotNil(t, dropIn)
	env := environment{}
	for _, line := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(unit, -1) {
		env.read(t, line[1])
	}
	folder := regexp.MustCompile(`(?m)^StateDirectory=(.*)$`).FindStringSubmatch(unit)
	require.NotNil(t, folder)
	assert.Equal(t, "/var/lib/"+folder[1], env["DATA_DIR"])
	assert.Contains(t, unit, "\nEnvironmentFile=-/etc/pricemill/pricemill.env\n")

	secret := env.with(nil)
	for _, line := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(dropIn[1], -1) {
		secret.read(t, line[1])
	}
	require.Greater(t, len(secret), len(env))
	for name, value := range secret {
		if strings.HasSuffix(name, "_FILE") {
			credential, found := strings.CutPrefix(value, "%d/")
			assert.True(t, found, "%s is no credential", name)
			assert.Contains(t, dropIn[1], "\nLoadCredential="+credential+":/etc/pricemill/"+credential+"\n")
		}
	}
	assertSettings(t, "the drop-in", secret)
	start(t, env.with(environment{"DATA_DIR": t.TempDir()}))
}
