package cmd

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/redis"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// setting is one line of the configuration. Its key in a file is lower case,
// its name in the environment upper case.
type setting struct {
	key      string
	standard string
	doc      string
	secret   bool
}

// settings are all there are, in the order of "pricemill config". Names that
// the original service had are kept.
var settings = []setting{
	{"http_addr", "127.0.0.1:8000", "address of the HTTP API", false},
	{"http_allow_remote", "false", "allow HTTP_ADDR beyond loopback", false},
	{"http_allow_remote_commands", "false", "while there is no API key, accept commands from other machines too; see pricemill keys", false},
	{"tls_cert_file", "", "PEM file of the certificate of the HTTP API; empty: no TLS", false},
	{"tls_key_file", "", "PEM file of the key of that certificate", false},
	{"pricemill_api_key", "", "API key that commands such as pricemill price send to the service", true},
	{"http_hosts", "", "extra Host names to accept, comma-separated; default: IP addresses and localhost, or any name if listening beyond loopback", false},
	{"cors_allow_origins", "", "origins whose pages may use the API from a browser, commands included, comma-separated, such as https://app.example, or * for all; empty: none", false},
	{"http_max_connections", "4096", "maximum open connections, 64 to 100000; 16 of them are reserved for clients on this machine", false},
	{"http_max_connections_per_client", "128", "maximum open connections of one remote client, 1 to 100000", false},
	{"http_max_push_streams", "2000", "maximum open streams at GET /api/v1/prices/stream, 1 to 100000; more are answered 503", false},
	{"http_max_push_streams_per_client", "20", "maximum open streams of one API key, or of a remote client without one, 1 to 100000; more are answered 429", false},
	{"data_dir", "./data", "directory of the SQLite database, which holds the log too unless Kafka does", false},
	{"database_url", "", "postgres://user:password@host/database; empty or sqlite: SQLite in data_dir", true},
	{"database_timeout", "25s", "statement timeout of PostgreSQL, 1s to 10m; a connection that is silent for a fifth longer is closed", false},
	{"kafka_bootstrap_servers", "", "Kafka brokers, comma-separated, which need a DATABASE_URL; empty: the log is a table of the database. An installation keeps the log it began with", false},
	{"kafka_topic_prefix", "", "prefix of all topic names, so that several installations can share a cluster", false},
	{"kafka_topic_price_events", "", "name of the price topic; empty: the prefix and price-events", false},
	{"kafka_price_events_key", keyedByMarket, "key of the records of the price topic: provider/symbol, or symbol for consumers that expect the bare symbol", false},
	{"kafka_group_id", "market-data-consumers", "prefix of all consumer group names", false},
	{"kafka_instance_id", "", "unique name of this process (static membership): after a restart it gets its partitions back; empty: none", false},
	{"kafka_session_timeout", "10s", "session timeout: how long a process may be silent before others take over its partitions, 6s to 5m", false},
	{"kafka_timeout", "15s", "how long a broker may take to answer before the connection is closed, 2s to 30s", false},
	{"kafka_partitions", "", "partitions of new topics; empty: 12 on Kafka, 4 without", false},
	{"kafka_replication_factor", "1", "replication factor of new topics", false},
	{"kafka_security_protocol", "plaintext", "plaintext, ssl, sasl_plaintext or sasl_ssl", false},
	{"kafka_sasl_mechanism", "", "SASL mechanism: plain, scram-sha-256 or scram-sha-512", false},
	{"kafka_sasl_username", "", "SASL user name", false},
	{"kafka_sasl_password", "", "SASL password", true},
	{"kafka_sasl_allow_cleartext", "false", "allow the plain mechanism without TLS beyond loopback", false},
	{"kafka_ssl_ca_file", "", "PEM file of the certificate authorities of the brokers; empty: the system's", false},
	{"kafka_ssl_cert_file", "", "PEM file of the client certificate", false},
	{"kafka_ssl_key_file", "", "PEM file of the client certificate's key", false},
	{"kafka_ssl_server_name", "", "name expected in the brokers' certificates; empty: their host", false},
	{"roles", "all", "what this process does: api, handlers, projections, relay, or all; without Kafka, all or api", false},
	{"default_provider", "", "provider of requests that name none; empty: finnhub if it has a key, else simulated", false},
	{"finnhub_api_key", "", "API key of finnhub", true},
	{"finnhub_base_url", "https://finnhub.io/api/v1", "base URL of finnhub; https, or http to this machine", false},
	{"finnhub_ws_url", "wss://ws.finnhub.io", "WebSocket URL of finnhub; wss, or ws to this machine", false},
	{"coinbase_base_url", "https://api.exchange.coinbase.com", "base URL of coinbase; https, or http to this machine", false},
	{"coinbase_ws_url", "wss://ws-feed.exchange.coinbase.com", "WebSocket URL of coinbase; wss, or ws to this machine", false},
	{"yahoo_base_url", "https://query1.finance.yahoo.com", "base URL of yahoo; https, or http to this machine", false},
	{"providers_dir", "", "directory of files NAME.yaml that declare providers; empty: providers in DATA_DIR, if there is one", false},
	{"moving_average_window", "5", "windows of the stored moving averages, comma-separated, 1 to 1000 prices; the first is the default of requests", false},
	{"rebuild_promote", "auto", "when rebuilt tables go live after a new version or new settings: auto, if-equal or manual", false},
	{"symbol_map_file", "", "YAML file that says which symbols of several providers are one instrument; empty: symbols.yaml in DATA_DIR, if there is one", false},
	{"plugins", "", "optional plugins to enable, comma-separated, or all; -NAME disables one; see pricemill plugins", false},
	{"latest_max_age", "5s", "maximum age of a known price before the provider is asked again", false},
	{"fetch_timeout", "10s", "how long a provider may take to answer", false},
	{"min_poll_interval", "60s", "shortest interval of a polling job", false},
	{"max_active_jobs", "500", "maximum number of polling jobs that are not stopped, 1 to 1000000; one more is answered 409", false},
	{"max_active_streams", "100", "maximum number of streams that are not stopped, 1 to 1000000; one more is answered 409", false},
	{"max_active_backfills", "100", "maximum number of backfills that have not ended, 1 to 1000000; one more is answered 409", false},
	{"requests_retention", "720h", "how long fetch requests and their outcomes can be asked for, 1h to 87600h; 0: forever", false},
	{"jobs_retention", "720h", "how long polling jobs are listed after they were stopped, 1h to 87600h; 0: forever", false},
	{"rate_limit_per_minute", "", "requests per minute and client; empty: 60, and loopback is exempt", false},
	{"simulated_seed", "1", "seed of the simulated prices", false},
	{"simulated_faults", "", "faults of the simulated provider, such as NOPE=unknown,SLOW=late:200ms", false},
	{"demo", "auto", "auto: with SQLite and no real provider, serve streams simulated prices for an hour, with all indicators on; off: never", false},
	{"metrics_last_prices", "0", "how many symbols have their last price in /metrics, in their order, 0 to 10000", false},
	{"redis_url", "", "redis://user:password@host:6379/0, or rediss:// for TLS: shares request limits and wake-ups between processes; empty: the database does", true},
	{"log_level", "", "minimum log level: debug, info, warn or error; empty: info, or warn for commands with output of their own", false},
	{"log_format", "", "text (with a start banner) or json; empty: text on a terminal, json otherwise", false},
	{"access_log", "off", "requests in the log: off, errors (those answered 5xx), or a share of the others too, such as 1 or 0.01", false},
	{"otel_exporter_otlp_endpoint", "", "base URL of an OpenTelemetry collector, such as http://127.0.0.1:4318, to which serve sends traces; empty: no traces", false},
	{"otel_exporter_otlp_headers", "", "headers for the collector, key=value, comma-separated, values percent-encoded", true},
	{"otel_exporter_otlp_protocol", otlpHTTP, "protocol of the collector; only http/protobuf", false},
	{"otel_service_name", "pricemill", "name of this service in traces", false},
	{"otel_traces_sampler", "parentbased_always_on", "which traces are recorded: always_on, always_off, traceidratio, or parentbased_ and one of these", false},
	{"otel_traces_sampler_arg", "", "share of a sampler by ratio, 0 to 1; empty: 1", false},
	{"debug", "false", "the same as LOG_LEVEL=debug", false},
}

// modulesKey is the section of the file with a section for each module.
const modulesKey = "modules"

// config is the configuration after it was read and checked.
type config struct {
	HTTPAddr        string
	OpenCommands    bool
	TLSCertFile     string // empty for no TLS
	TLSKeyFile      string
	HTTPHosts       []string // nil for any
	AllowOrigins    []string // of pages; nil for none, "*" for any
	Connections     httpapi.ConnectionLimits
	Push            httpapi.PushLimits
	DataDir         string
	DatabaseURL     string
	DatabaseTimeout time.Duration
	Brokers         []string
	Security        kafka.Security
	Topics          map[schema.Topic]string
	KeyedBySymbol   bool // records of price-events
	AccessLog       httpapi.AccessLog
	GroupPrefix     string
	InstanceID      string
	SessionTimeout  time.Duration
	KafkaTimeout    time.Duration
	Partitions      int32
	Replication     int16
	Roles           roles
	Providers       providerList
	DefaultProvider schema.Provider
	DefaultWindow   int // of a moving average where a request names none
	LatestMaxAge    time.Duration
	FetchTimeout    time.Duration
	MinPollInterval time.Duration
	RebuildPromote  projections.Promotion
	// MaxActiveJobs and MaxActiveStreams bound those that are not stopped, and
	// MaxActiveBackfills those that have not ended.
	MaxActiveJobs, MaxActiveStreams, MaxActiveBackfills int

	// SymbolMapFile is empty for that of the data directory, if there is one.
	SymbolMapFile string
	// RequestsRetention and JobsRetention are how long fetch requests and stopped jobs are
	// kept; 0 is forever.
	RequestsRetention, JobsRetention time.Duration

	// MetricsLastPrices is how many symbols have their last price in /metrics.
	MetricsLastPrices int

	Redis         *redis.Address // nil for none
	RateLimit     int
	LimitLoopback bool
	LogLevel      *slog.Level // nil where each command has its own
	LogFormat     string
	Tracing       *tracing.Config // nil for none
	Modules       map[string]map[string]any
	Plugins       switches
	// Demo says that the service streams simulated prices. Only serve sets it.
	Demo     bool
	Warnings []string
	// Expendable is set by commands whose work can be done again.
	Expendable        bool
	movingAverageText string
	mayDemo           bool
}

// roles are what a process does.
type roles struct{ API, Handlers, Projections, Relay bool }

// consume reports whether a process of these roles consumes the log.
func (r roles) consume() bool { return r.Handlers || r.Projections }

// fileOfSettings is the configuration file; empty for none.
func (a *app) fileOfSettings() string {
	if a.configFile != "" {
		return a.configFile
	}
	path, _ := a.env("CONFIG_FILE")
	return path
}

// origin says where the value of a setting comes from, given those of the configuration
// file alone.
func (a *app) origin(s setting, inFile *koanf.Koanf) string {
	name := strings.ToUpper(s.key)
	value, _ := a.env(name)
	secretFile, _ := a.env(name + "_FILE")
	_, given := a.flags[s.key]
	switch {
	case given:
		return "flag"
	case value != "":
		return "environment"
	case s.secret && secretFile != "":
		return secretFile
	case inFile.Exists(s.key):
		return a.fileOfSettings()
	}
	return "default"
}

// values reads the settings as text: flags over environment over file over
// defaults.
func (a *app) values(wrong *faults) (*koanf.Koanf, error) {
	k := koanf.New(".")
	layer := map[string]any{}
	for _, s := range settings {
		layer[s.key] = s.standard
	}
	if err := k.Load(confmap.Provider(layer, "."), nil); err != nil {
		return nil, fmt.Errorf("loading the defaults: %w", err)
	}
	if path := a.fileOfSettings(); path != "" {
		if err := loadFile(k, path); err != nil {
			return nil, err
		}
	}
	layer = map[string]any{}
	for _, s := range settings {
		if value := a.fromEnvironment(s, wrong); value != "" {
			layer[s.key] = value
		}
	}
	for key, value := range a.flags {
		layer[key] = value
	}
	if err := k.Load(confmap.Provider(layer, ""), nil); err != nil {
		return nil, fmt.Errorf("loading the environment: %w", err)
	}
	return k, nil
}

// loadFile reads a file and refuses keys that are no settings.
func loadFile(k *koanf.Koanf, path string) error {
	f := koanf.New(".")
	if err := f.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("%w: reading %s: %w", errUsage, path, err)
	}
	var errs []error
	for key := range f.Raw() {
		if key != modulesKey && !slices.ContainsFunc(settings, func(s setting) bool { return s.key == key }) {
			errs = append(errs, fmt.Errorf("%s: there is no setting %q; did you mean %q?", path, key, nearest(key)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return k.Merge(f)
}

func nearest(key string) string {
	known := make([]string, len(settings))
	for i, s := range settings {
		known[i] = s.key
	}
	return names.Nearest(key, known)
}

// faults collects what is wrong, so that all of it is said at once.
type faults []error

func (f *faults) add(key, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: %s", strings.ToUpper(key), fmt.Sprintf(format, args...)))
}

func countWrong(settings int) string {
	if settings == 1 {
		return "a setting is wrong"
	}
	return fmt.Sprintf("%d settings are wrong", settings)
}

// load reads and checks the configuration.
func (a *app) load() (config, error) {
	var wrong faults
	k, err := a.values(&wrong)
	if err != nil {
		return config{}, err
	}
	c := config{
		DataDir: k.String("data_dir"), DatabaseURL: k.String("database_url"),
		SymbolMapFile: k.String("symbol_map_file"), GroupPrefix: k.String("kafka_group_id"), InstanceID: k.String("kafka_instance_id"),
		SessionTimeout: duration(k, "kafka_session_timeout", 6*time.Second, 5*time.Minute, &wrong),
		KafkaTimeout:   duration(k, "kafka_timeout", 2*time.Second, 30*time.Second, &wrong),
		HTTPAddr:       k.String("http_addr"), movingAverageText: k.String("moving_average_window"),
		DatabaseTimeout:    duration(k, "database_timeout", time.Second, 10*time.Minute, &wrong),
		LatestMaxAge:       duration(k, "latest_max_age", 0, time.Hour, &wrong),
		FetchTimeout:       duration(k, "fetch_timeout", 100*time.Millisecond, 30*time.Second, &wrong),
		MinPollInterval:    duration(k, "min_poll_interval", time.Second, time.Hour, &wrong),
		MaxActiveJobs:      int(integer(k, "max_active_jobs", 1, 1_000_000, &wrong)),
		MaxActiveStreams:   int(integer(k, "max_active_streams", 1, 1_000_000, &wrong)),
		MaxActiveBackfills: int(integer(k, "max_active_backfills", 1, 1_000_000, &wrong)),
		MetricsLastPrices:  int(integer(k, "metrics_last_prices", 0, maxPriceGauges, &wrong)),
		RequestsRetention:  retention(k, "requests_retention", &wrong),
		JobsRetention:      retention(k, "jobs_retention", &wrong),
		RebuildPromote:     promotion(k.String("rebuild_promote"), &wrong),
		Connections: httpapi.ConnectionLimits{
			Total:     int(integer(k, "http_max_connections", httpapi.MinMaxConnections, 100_000, &wrong)),
			PerClient: int(integer(k, "http_max_connections_per_client", 1, 100_000, &wrong))},
		Push: httpapi.PushLimits{
			Total:     int(integer(k, "http_max_push_streams", 1, 100_000, &wrong)),
			PerClient: int(integer(k, "http_max_push_streams_per_client", 1, 100_000, &wrong))},
		Replication: int16(integer(k, "kafka_replication_factor", 1, 100, &wrong)),
	}
	for _, broker := range strings.Split(k.String("kafka_bootstrap_servers"), ",") {
		if broker = strings.TrimSpace(broker); broker != "" {
			c.Brokers = append(c.Brokers, broker)
		}
	}
	c.readSecurity(k, &wrong)
	c.checkAddress(boolean(k, "http_allow_remote", &wrong), &wrong)
	c.OpenCommands = boolean(k, "http_allow_remote_commands", &wrong)
	c.readCertificate(k, &wrong)
	c.readHosts(k.String("http_hosts"), &wrong)
	c.readOrigins(k.String("cors_allow_origins"), &wrong)
	c.checkDatabase(&wrong)
	if c.InstanceID != "" && !kafka.ValidName(c.InstanceID) {
		wrong.add("kafka_instance_id", "%q is not of letters, digits, dots, underscores and hyphens, 249 at most", c.InstanceID)
	}
	c.nameTopics(k.String("kafka_topic_prefix"), k.String("kafka_topic_price_events"))
	c.readPriceEventsKey(k.String("kafka_price_events_key"), &wrong)
	c.readPartitions(k, &wrong)
	c.readRoles(k.String("roles"), &wrong)
	c.readRateLimit(k, &wrong)
	c.readLogging(k.String("log_level"), k.String("log_format"), boolean(k, "debug", &wrong), &wrong)
	c.readAccessLog(k.String("access_log"), &wrong)
	c.readProviders(k, &wrong)
	c.readProvider(k, &wrong)
	c.readModules(a, k, &wrong)
	c.Plugins = c.readPlugins(k.String("plugins"), &wrong)
	c.readDemo(k, &wrong)
	c.readTracing(k, &wrong)
	c.readRedis(k.String("redis_url"), &wrong)
	if len(wrong) > 0 {
		return config{}, fmt.Errorf("%w: %s:\n%w", errUsage, countWrong(len(wrong)), errors.Join(wrong...))
	}
	return c, nil
}
