package cmd

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"

	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/redis"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

func promotion(text string, wrong *faults) projections.Promotion {
	if !slices.Contains(projections.Promotions, projections.Promotion(text)) {
		wrong.add("rebuild_promote", "there is no %q; %s", text, names.Hint(text, projections.Promotions))
	}
	return projections.Promotion(text)
}

// checkAddress refuses an address beyond loopback that is not clearly meant: without an API
// key, anyone who reaches the API may read.
func (c *config) checkAddress(allowRemote bool, wrong *faults) {
	host, port, err := net.SplitHostPort(c.HTTPAddr)
	if err != nil {
		wrong.add("http_addr", "%q is not host:port", c.HTTPAddr)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		wrong.add("http_addr", "port %q is not within 0 and 65535", port)
	}
	if !isLoopback(host) && !allowRemote {
		wrong.add("http_addr", "%q is reachable from other machines, and without an API key anyone there could read; "+
			"set HTTP_ALLOW_REMOTE=true if that is meant", c.HTTPAddr)
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// readHosts reads the names of the API. Where it is for this machine alone there
// are none but those of the machine: a page that a user opens there could have its
// own name lead to it, and post commands.
func (c *config) readHosts(text string, wrong *faults) {
	if host, _, _ := net.SplitHostPort(c.HTTPAddr); isLoopback(host) {
		c.HTTPHosts = []string{}
	}
	for name := range strings.SplitSeq(strings.ToLower(text), ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
		case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "":
			wrong.add("http_hosts", "%q is not the name of a host, without a port", name)
		default:
			c.HTTPHosts = append(c.HTTPHosts, name)
		}
	}
}

// readCertificate reads where the certificate of the API is, and tries it.
func (c *config) readCertificate(k *koanf.Koanf, wrong *faults) {
	c.TLSCertFile, c.TLSKeyFile = k.String("tls_cert_file"), k.String("tls_key_file")
	switch {
	case c.TLSCertFile == "" && c.TLSKeyFile == "":
	case c.TLSKeyFile == "":
		wrong.add("tls_key_file", "required with TLS_CERT_FILE")
	case c.TLSCertFile == "":
		wrong.add("tls_cert_file", "required with TLS_KEY_FILE")
	default:
		if _, err := openCertificate(c.TLSCertFile, c.TLSKeyFile); err != nil {
			wrong.add("tls_cert_file", "reading it with its key: %v", err)
		}
	}
}

// readOrigins reads the origins whose pages may use the API.
func (c *config) readOrigins(text string, wrong *faults) {
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		origin, err := httpapi.ParseOrigin(part)
		if err != nil {
			wrong.add("cors_allow_origins", "%v", err)
			continue
		}
		c.AllowOrigins = append(c.AllowOrigins, origin)
	}
	if len(c.AllowOrigins) > 1 && slices.Contains(c.AllowOrigins, "*") {
		wrong.add("cors_allow_origins", "* allows all origins already; leave out the others")
	}
}

// checkDatabase looks at the scheme only; the engine knows the rest. The URL
// itself is never shown: it may hold a password.
func (c *config) checkDatabase(wrong *faults) {
	if c.DatabaseURL == "" && len(c.Brokers) > 0 {
		wrong.add("database_url", "KAFKA_BOOTSTRAP_SERVERS is set, and DATABASE_URL is not; set it too, to postgres://… or, for one process "+
			"with SQLite in DATA_DIR, to sqlite")
	}
	if c.DatabaseURL == "sqlite" {
		c.DatabaseURL = ""
	}
	scheme, _, found := strings.Cut(c.DatabaseURL, "://")
	switch {
	case c.DatabaseURL == "":
	case !found:
		wrong.add("database_url", "not a URL")
	case scheme != "postgres" && scheme != "postgresql":
		wrong.add("database_url", "there is no engine for %q; use postgres://, or leave it out for SQLite in DATA_DIR", scheme)
	}
}

// nameTopics gives each role its name in the cluster.
func (c *config) nameTopics(prefix, priceEvents string) {
	c.Topics = map[schema.Topic]string{}
	for _, topic := range schema.Topics() {
		c.Topics[topic] = prefix + string(topic)
	}
	if priceEvents != "" {
		c.Topics[schema.PriceEvents] = priceEvents
	}
}

// The values of KAFKA_PRICE_EVENTS_KEY.
const (
	keyedByMarket = "provider/symbol"
	keyedBySymbol = "symbol"
)

func (c *config) readPriceEventsKey(text string, wrong *faults) {
	switch text {
	case keyedByMarket:
	case keyedBySymbol:
		c.KeyedBySymbol = true
	default:
		wrong.add("kafka_price_events_key", "there is no key %q; use %s or %s", text, keyedByMarket, keyedBySymbol)
	}
}

func (c *config) readPartitions(k *koanf.Koanf, wrong *faults) {
	switch {
	case k.String("kafka_partitions") != "":
		c.Partitions = int32(integer(k, "kafka_partitions", 1, rowid.MaxPartitions, wrong))
	case len(c.Brokers) > 0:
		c.Partitions = 12
	default:
		c.Partitions = 4
	}
}

// roleNames are what ROLES may name.
var roleNames = []string{"all", "api", "handlers", "projections", "relay"}

func (c *config) readRoles(text string, wrong *faults) {
	for _, role := range strings.Split(text, ",") {
		role = strings.TrimSpace(role)
		switch role {
		case "all":
			c.Roles = roles{true, true, true, true}
		case "api":
			c.Roles.API = true
		case "handlers":
			c.Roles.Handlers = true
		case "projections":
			c.Roles.Projections = true
		case "relay":
			c.Roles.Relay = true
		default:
			wrong.add("roles", "there is no role %q; %s", role, names.Hint(role, roleNames))
			return
		}
	}
	if len(c.Brokers) == 0 && c.Roles != (roles{true, true, true, true}) && c.Roles != (roles{API: true}) {
		wrong.add("roles", "without Kafka, one process does all the work: want all, or api for a process that only answers requests")
	}
}

func (c *config) readRateLimit(k *koanf.Koanf, wrong *faults) {
	c.RateLimit = 60
	if k.String("rate_limit_per_minute") != "" {
		c.RateLimit = int(integer(k, "rate_limit_per_minute", 1, 1_000_000, wrong))
		c.LimitLoopback = true
	}
}

// readRedis reads where Redis is. The URL itself is never shown: it may hold a password.
func (c *config) readRedis(text string, wrong *faults) {
	if text == "" {
		return
	}
	address, err := redis.ParseURL(text)
	if err != nil {
		wrong.add("redis_url", "%v", err)
		return
	}
	c.Redis = &address
}

func (c *config) readProvider(k *koanf.Koanf, wrong *faults) {
	known := c.Providers.names()
	c.DefaultProvider = schema.Provider(k.String("default_provider"))
	if c.DefaultProvider == "" {
		c.DefaultProvider = "simulated"
		if strings.TrimSpace(k.String("finnhub_api_key")) != "" && slices.Contains(known, "finnhub") {
			c.DefaultProvider = "finnhub"
		}
	}
	if name, isAlias := c.Providers.aliases()[string(c.DefaultProvider)]; isAlias {
		c.DefaultProvider = name
	}
	if !slices.Contains(known, c.DefaultProvider) {
		wrong.add("default_provider", "there is no provider %q; %s", c.DefaultProvider, names.Hint(string(c.DefaultProvider), known))
	}
}

// readModules gathers the section of each module: from the file, and from the
// settings that have a name of their own.
func (c *config) readModules(a *app, k *koanf.Koanf, wrong *faults) {
	c.Modules = map[string]map[string]any{}
	known := c.moduleNames()
	section, isMap := k.Get(modulesKey).(map[string]any)
	if k.Exists(modulesKey) && !isMap {
		wrong.add(modulesKey, "not a section")
	}
	for name, value := range section {
		values, isMap := value.(map[string]any)
		switch {
		case !slices.Contains(known, name):
			wrong.add(modulesKey, "there is no module %q; %s", name, names.Hint(name, known))
		case !isMap:
			wrong.add(modulesKey, "%s is not a section", name)
		default:
			c.Modules[name] = values
		}
	}
	set := func(module, key string, value any) {
		if c.Modules[module] == nil {
			c.Modules[module] = map[string]any{}
		}
		if _, given := c.Modules[module][key]; !given {
			c.Modules[module][key] = value
		}
	}
	set("simulated", "seed", k.String("simulated_seed"))
	set("simulated", "faults", k.String("simulated_faults"))
	set("finnhub", "api_key", k.String("finnhub_api_key"))
	for _, provider := range []string{"finnhub", "coinbase", "yahoo"} {
		key := provider + "_base_url"
		if _, err := remote.ParseBaseURL(k.String(key)); err != nil {
			wrong.add(key, "%v", err)
		}
		set(provider, "base_url", k.String(key))
	}
	for _, provider := range []string{"finnhub", "coinbase"} {
		key := provider + "_ws_url"
		if _, err := remote.ParseFeedURL(k.String(key)); err != nil {
			wrong.add(key, "%v", err)
		}
		set(provider, "ws_url", k.String(key))
	}
	c.readDeclared(a, set, wrong)
	set("schedule", "timeout", c.FetchTimeout)
	windows, err := parseWindows(c.movingAverageText)
	if err != nil {
		wrong.add("moving_average_window", "%v", err)
	}
	set(movingaverages.Name, "windows", windows)
	if len(windows) > 0 {
		c.DefaultWindow = windows[0]
	}
}

func parseWindows(text string) ([]int, error) {
	var windows []int
	for _, part := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > movingaverages.MaxWindow {
			return nil, fmt.Errorf("%q is not a whole number within 1 and %d", part, movingaverages.MaxWindow)
		}
		windows = append(windows, n)
	}
	return windows, nil
}

// moduleNames are those of the modules of this binary, and of declared providers.
func (c config) moduleNames() []string {
	all := moduleNames()
	for _, m := range c.Providers {
		if !slices.Contains(all, string(m.Name)) {
			all = append(all, string(m.Name))
		}
	}
	return all
}

func moduleNames() []string {
	var names []string
	for _, m := range pipeline.Handlers() {
		names = append(names, m.Name)
	}
	for _, m := range pipeline.Projections() {
		names = append(names, m.Name)
	}
	for _, m := range pipeline.Sources() {
		names = append(names, m.Name)
	}
	for _, m := range pipeline.Providers() {
		names = append(names, string(m.Name))
	}
	return names
}

func duration(k *koanf.Koanf, key string, low, high time.Duration, wrong *faults) time.Duration {
	d, err := time.ParseDuration(k.String(key))
	if err != nil {
		wrong.add(key, "%q is not a duration such as 5s", k.String(key))
	} else if d < low || d > high {
		wrong.add(key, "%v is not within %v and %v", d, low, high)
	}
	return d
}

// The bounds of retention: an hour is longer than any request takes.
const (
	minRetention = time.Hour
	maxRetention = 87600 * time.Hour
)

// retention is how long something is kept; 0 is forever.
func retention(k *koanf.Koanf, key string, wrong *faults) time.Duration {
	if text := k.String(key); text == "0" || text == "0s" {
		return 0
	}
	return duration(k, key, minRetention, maxRetention, wrong)
}

func integer(k *koanf.Koanf, key string, low, high int64, wrong *faults) int64 {
	n, err := strconv.ParseInt(k.String(key), 10, 64)
	if err != nil {
		wrong.add(key, "%q is not a whole number", k.String(key))
		return low
	}
	if n < low || n > high {
		wrong.add(key, "%d is not within %d and %d", n, low, high)
		return low
	}
	return n
}

func boolean(k *koanf.Koanf, key string, wrong *faults) bool {
	b, err := strconv.ParseBool(k.String(key))
	if err != nil {
		wrong.add(key, "%q is neither true nor false", k.String(key))
	}
	return b
}
