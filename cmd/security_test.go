package cmd_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/pricemill/pricemill/internal/tlstest"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

// secureKafka returns the settings that lead to a broker with TLS and a login.
func secureKafka(t *testing.T, mechanism string) environment {
	t.Helper()
	// For PLAIN, those that .ci/services knows.
	username, password := "plain", "plain-password"
	if mechanism != "PLAIN" {
		// Not in any of Unicode's normal forms: brokers take it as it is.
		username, password = "user-"+uuid.NewString(), "canary=,①\u00e9e\u0301"
	}
	env := environment{"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": mechanism,
		"KAFKA_SASL_USERNAME": username, "KAFKA_SASL_PASSWORD": password, "DEBUG": "true"}
	if onServices() {
		env["KAFKA_BOOTSTRAP_SERVERS"], env["KAFKA_SSL_CA_FILE"] = secureListener(t, mechanism, username, password)
		return env
	}
	authority := tlstest.New(t)
	listen := func(network, _ string) (net.Listener, error) {
		return tls.Listen(network, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{authority.Issue(t)}})
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(listen), kfake.EnableSASL(),
		kfake.Superuser(mechanism, username, password))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	env["KAFKA_BOOTSTRAP_SERVERS"], env["KAFKA_SSL_CA_FILE"] = cluster.ListenAddrs()[0], authority.File
	env["KAFKA_PARTITIONS"], env["DATABASE_URL"] = "4", "sqlite"
	return env
}

// secureListener asks Apache Kafka where its secure listener is, and makes the
// user there.
func secureListener(t *testing.T, mechanism, username, password string) (address, caFile string) {
	t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin([]string{os.Getenv("KAFKA_BOOTSTRAP_SERVERS")}, conf)
	require.NoError(t, err)
	defer func() { assert.NoError(t, admin.Close()) }()
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.BrokerResource, Name: "1",
		ConfigNames: []string{"advertised.listeners", "ssl.truststore.location"}})
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.Name == "ssl.truststore.location" {
			caFile = entry.Value
			continue
		}
		for _, listener := range strings.Split(entry.Value, ",") {
			if at, secure := strings.CutPrefix(listener, "SECURE://"); secure {
				address = at
			}
		}
	}
	require.NotEmpty(t, address, "%v", entries)
	scram := map[string]sarama.ScramMechanismType{
		"SCRAM-SHA-256": sarama.SCRAM_MECHANISM_SHA_256, "SCRAM-SHA-512": sarama.SCRAM_MECHANISM_SHA_512}
	if kind, known := scram[mechanism]; known {
		results, err := admin.UpsertUserScramCredentials([]sarama.AlterUserScramCredentialsUpsert{{
			Name: username, Mechanism: kind, Iterations: 4096, Salt: []byte(uuid.NewString()), Password: []byte(password)}})
		require.NoError(t, err)
		require.Equal(t, sarama.ErrNoError, results[0].ErrorCode)
		awaitLogin(t, kafka.Config{Brokers: []string{address}, Security: kafka.Security{Protocol: kafka.SASLSSL,
			Mechanism: kafka.Mechanism(strings.ToLower(mechanism)), Username: username, Password: password, CAFile: caFile}})
	}
	return address, caFile
}

// awaitLogin waits until a broker takes a login that was just made: a broker answers
// the request that makes a user before it has read of it in the cluster's metadata.
func awaitLogin(t *testing.T, conf kafka.Config) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		broker, err := kafka.New(t.Context(), conf)
		require.NoError(c, err)
		assert.NoError(c, broker.Close())
	}, 30*time.Second, 50*time.Millisecond)
}

// TestASecureBroker: the whole service by TLS and a login, and the password
// nowhere.
func TestASecureBroker(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			env := secureKafka(t, mechanism)
			env["KAFKA_SASL_PASSWORD_FILE"] = filepath.Join(t.TempDir(), "password")
			require.NoError(t, os.WriteFile(env["KAFKA_SASL_PASSWORD_FILE"], []byte(env["KAFKA_SASL_PASSWORD"]+"\n"), 0o600))
			delete(env, "KAFKA_SASL_PASSWORD")
			p := start(t, env)
			p.eventually("/readyz", http.StatusOK)
			latest := p.get("/api/v1/prices/latest?symbol=AAPL")
			require.Equal(t, http.StatusOK, latest.status, latest.body)
			status, stdout, stderr := run(t, p.env, "replay", "price-events")
			require.Zero(t, status, stderr)
			assert.Contains(t, stdout, "AAPL")
			status, config, stderr := run(t, p.env, "config")
			require.Zero(t, status, stderr)
			assert.Regexp(t, `KAFKA_SASL_PASSWORD +\*\*\* `, config)
			metrics := p.get("/metrics").body
			require.Zero(t, p.stop())
			for name, text := range map[string]string{"log": p.logs.String(), "config": config, "metrics": metrics} {
				assert.NotRegexp(t, "canary|plain-password", text, name)
			}
		})
	}
}

// TestASecureBrokerRefuses: what does not fit ends the start, with a reason.
func TestASecureBrokerRefuses(t *testing.T) {
	t.Parallel()
	good := secureKafka(t, "SCRAM-SHA-512")
	for name, test := range map[string]struct {
		change environment
		want   string
	}{
		"a wrong password":  {environment{"KAFKA_SASL_PASSWORD": "canary-wrong"}, map[bool]string{false: "another login", true: "invalid credentials"}[onServices()]},
		"another mechanism": {environment{"KAFKA_SASL_MECHANISM": "plain"}, map[bool]string{false: "another login", true: "Invalid username or password"}[onServices()]},
		"another authority": {environment{"KAFKA_SSL_CA_FILE": tlstest.New(t).File}, "signed by unknown authority"},
		"another name":      {environment{"KAFKA_SSL_SERVER_NAME": "kafka.example"}, "not kafka.example"},
		"no login":          {environment{"KAFKA_SECURITY_PROTOCOL": "ssl", "KAFKA_SASL_MECHANISM": "", "KAFKA_SASL_USERNAME": "", "KAFKA_SASL_PASSWORD": ""}, "another login"},
		"no TLS":            {environment{"KAFKA_SECURITY_PROTOCOL": "sasl_plaintext", "KAFKA_SSL_CA_FILE": ""}, "another security protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newStack(t, good)
			for key, value := range test.change {
				env[key] = value
			}
			status, _, stderr := run(t, env, "serve")
			assert.Equal(t, 1, status)
			assert.Contains(t, stderr, "connecting to Kafka at "+env["KAFKA_BOOTSTRAP_SERVERS"])
			assert.Contains(t, stderr, test.want)
			assert.NotContains(t, stderr, "canary")
		})
	}
}

func TestSettingsOfASecureBroker(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env  environment
		want []string
	}{
		"no Kafka":  {environment{"KAFKA_SASL_PASSWORD": "canary"}, []string{"KAFKA_SECURITY_PROTOCOL: there is no Kafka"}},
		"cleartext": {environment{"DATABASE_URL": "sqlite", "KAFKA_BOOTSTRAP_SERVERS": "10.0.0.1:9092", "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "me", "KAFKA_SASL_PASSWORD": "canary"}, []string{"KAFKA_SASL_MECHANISM: "}},
		"all at once": {environment{"DATABASE_URL": "sqlite", "KAFKA_BOOTSTRAP_SERVERS": "10.0.0.1:9092", "KAFKA_SECURITY_PROTOCOL": "sasl_ssl", "KAFKA_SASL_MECHANISM": "gssapi", "KAFKA_SASL_USERNAME": "me", "KAFKA_SSL_KEY_FILE": "k", "KAFKA_SSL_CA_FILE": "/none", "DEBUG": "perhaps"},
			[]string{"KAFKA_SASL_MECHANISM: ", "KAFKA_SASL_PASSWORD: required", "KAFKA_SSL_CERT_FILE: required", "KAFKA_SSL_CA_FILE: open /none", "DEBUG: "}},
	} {
		status, _, stderr := run(t, test.env, "config")
		assert.Equal(t, 2, status, name)
		for _, want := range test.want {
			assert.Contains(t, stderr, want, name)
		}
		assert.NotContains(t, stderr, "canary", name)
	}
	cleartext := environment{"DATABASE_URL": "sqlite", "KAFKA_SASL_ALLOW_CLEARTEXT": "true", "KAFKA_BOOTSTRAP_SERVERS": "10.0.0.1:9092",
		"KAFKA_SECURITY_PROTOCOL": "sasl_plaintext", "KAFKA_SASL_MECHANISM": "plain", "KAFKA_SASL_USERNAME": "me", "KAFKA_SASL_PASSWORD": "canary"}
	status, _, stderr := run(t, cleartext, "config")
	assert.Zero(t, status, stderr)
}

// TestWhatListens: nothing beyond loopback, unless asked to.
func TestWhatListens(t *testing.T) {
	t.Parallel()
	remote := environment{"HTTP_ADDR": "0.0.0.0:8000"}
	status, _, stderr := run(t, remote, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "HTTP_ADDR: ")
	remote["HTTP_ALLOW_REMOTE"] = "true"
	status, _, stderr = run(t, remote, "config")
	assert.Zero(t, status, stderr)
}

// TestHosts: a page that had its own name lead to this machine is not answered,
// unless that name is given.
func TestHosts(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"HTTP_HOSTS": "Prices.example, other.example"})
	for host, want := range map[string]int{"evil.example": http.StatusMisdirectedRequest, "prices.example": http.StatusOK,
		"other.example:8000": http.StatusOK, "localhost:8000": http.StatusOK, "": http.StatusOK} {
		for _, path := range []string{"/version", "/livez"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, nil)
			require.NoError(t, err)
			request.Host = host
			assert.Equal(t, want, p.send(request).status, "%s by %q", path, host)
		}
	}
	status, _, stderr := run(t, environment{"HTTP_HOSTS": "prices.example:8000,good.example"}, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `HTTP_HOSTS: "prices.example:8000"`)
}

// TestOrigins: a page of another origin is answered only where its origin is named.
func TestOrigins(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"CORS_ALLOW_ORIGINS": "https://App.example, http://localhost:3000"})
	for origin, want := range map[string]int{"https://app.example": http.StatusOK, "http://localhost:3000": http.StatusOK,
		"https://evil.example": http.StatusForbidden, "": http.StatusForbidden} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/api/v1/prices/latest?symbol=ACME", nil)
		require.NoError(t, err)
		request.Header.Set("Sec-Fetch-Site", "cross-site")
		if origin != "" {
			request.Header.Set("Origin", origin)
		}
		assert.Equal(t, want, p.send(request).status, origin)
	}
	status, _, stderr := run(t, environment{"CORS_ALLOW_ORIGINS": "app.example,https://good.example/page"}, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `CORS_ALLOW_ORIGINS: "app.example" is not an origin`)
	assert.Contains(t, stderr, `CORS_ALLOW_ORIGINS: "https://good.example/page" is more than an origin`)
	status, _, stderr = run(t, environment{"CORS_ALLOW_ORIGINS": "*,https://good.example"}, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "allows all origins already")
}

// TestActiveJobsAndStreamsAreLimited: what is not stopped counts, paused jobs too.
func TestActiveJobsAndStreamsAreLimited(t *testing.T) {
	t.Parallel()
	p := start(t, deadEnds(t).with(environment{"MAX_ACTIVE_JOBS": "2", "MAX_ACTIVE_STREAMS": "1"}))
	for path, limited := range map[string]struct {
		body, id string
		most     int
	}{
		"/api/v1/prices/poll": {`{"symbols":["ACME"],"interval":3600,"provider":"simulated"}`, "job_id", 2},
		"/api/v1/streams":     {`{"symbols":["BTC-USD"],"provider":"coinbase"}`, "stream_id", 1},
	} {
		var last string
		for range limited.most {
			accepted := p.post(path, limited.body)
			require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
			last = path + "/" + accepted.field(t, limited.id).(string)
		}
		if path != "/api/v1/streams" {
			require.Equal(t, http.StatusAccepted, p.post(last+"/pause", "").status)
			p.eventuallyHolds(last, `"status":"paused"`)
		}
		refused := p.post(path, limited.body)
		assert.Equal(t, http.StatusConflict, refused.status)
		assert.Contains(t, refused.body, "not stopped")
		require.Equal(t, http.StatusAccepted, p.do(http.MethodDelete, last, "").status)
		p.eventuallyHolds(last, `"status":"stopped"`)
		assert.Equal(t, http.StatusAccepted, p.post(path, limited.body).status)
	}
	for _, wrong := range []string{"0", "many"} {
		status, _, stderr := run(t, environment{"MAX_ACTIVE_JOBS": wrong, "MAX_ACTIVE_STREAMS": wrong}, "config")
		assert.Equal(t, 2, status)
		assert.Contains(t, stderr, "MAX_ACTIVE_JOBS")
		assert.Contains(t, stderr, "MAX_ACTIVE_STREAMS")
	}
}

// TestSecretsFromFiles: each setting whose value is not shown, and no other, may
// be in a file.
func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, environment{}, "config")
	require.Zero(t, status, stderr)
	var fromFiles []string
	for _, line := range strings.Split(strings.TrimSpace(stdout), "\n") {
		name := strings.Fields(line)[0]
		if status, _, _ := run(t, environment{name + "_FILE": filepath.Join(t.TempDir(), "none")}, "config"); status == 2 {
			fromFiles = append(fromFiles, name)
		}
	}
	assert.Equal(t, []string{"PRICEMILL_API_KEY", "DATABASE_URL", "KAFKA_SASL_PASSWORD", "FINNHUB_API_KEY", "REDIS_URL", "OTEL_EXPORTER_OTLP_HEADERS"}, fromFiles)

	for name, test := range map[string]struct {
		content string
		direct  string
		want    string // in the error; none: it is good
	}{
		"with a newline":   {"postgres://u:canary@127.0.0.1/db\n", "", ""},
		"without":          {"postgres://u:canary@127.0.0.1/db", "", ""},
		"both":             {"postgres://u:canary@127.0.0.1/db", "postgres://u:canary@127.0.0.1/db", "DATABASE_URL: DATABASE_URL_FILE is set too"},
		"empty":            {"\n", "", "is empty"},
		"too large":        {strings.Repeat("canary", 64<<10/6+1), "", "is larger than 65536 bytes"},
		"read as the rest": {"mysql://u:canary@127.0.0.1/db", "", `no engine for "mysql"`},
	} {
		path := filepath.Join(t.TempDir(), "database url")
		require.NoError(t, os.WriteFile(path, []byte(test.content), 0o600))
		status, stdout, stderr := run(t, environment{"DATABASE_URL_FILE": path, "DATABASE_URL": test.direct}, "config")
		assert.NotContains(t, stdout+stderr, "canary", name)
		if test.want == "" {
			assert.Zero(t, status, stderr)
			assert.Regexp(t, `DATABASE_URL +\*\*\* `, stdout, name)
			continue
		}
		assert.Equal(t, 2, status, name)
		assert.Contains(t, stderr, test.want, name)
	}
	missing := filepath.Join(t.TempDir(), "none")
	_, _, stderr = run(t, environment{"DATABASE_URL_FILE": missing, "REDIS_URL_FILE": t.TempDir(), "DEBUG": "perhaps"}, "config")
	for _, fault := range []string{"DATABASE_URL_FILE: open " + missing, "REDIS_URL_FILE: read ", "DEBUG: "} {
		assert.Contains(t, stderr, fault, "all faults at once")
	}
}
