package postgres

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Config says where the database is and how it is used. Only URL is needed.
type Config struct {
	// URL is postgres://user:password@host:port/database?parameter=value, or
	// with postgresql://. Parameters are those of libpq that lib/pq knows; any
	// other is a setting of the server for each session. Where it says nothing,
	// the PG… environment variables do, and then: sslmode is prefer, as libpq
	// has it, but falls back to plain text only where the server says that it
	// has no TLS; connect_timeout is 10 s; application_name is pricemill; of
	// several hosts, the one that accepts writes is used. Only verify-full, with
	// sslrootcert unless an authority of the system will do, knows the server;
	// every file that is named must be there.
	URL string
	// MaxConns bounds the connections of this process, 2 to 10,000. Each batch
	// under way needs one, a quarter is kept for queries. Default 32; the server
	// has max_connections for all processes together, 100 unless configured.
	MaxConns int
	// StatementTimeout ends a statement. It and the other two are whole
	// milliseconds, 10 ms to 24 h, and what the URL says about
	// statement_timeout, lock_timeout and idle_in_transaction_session_timeout
	// does not count. A server that says nothing for a fifth longer, or a second,
	// is taken for gone, and the connection given up. Default 25 s, a little less
	// than a stage gives a transaction, so that the server has let go before the
	// stage gives up.
	StatementTimeout time.Duration
	// LockTimeout ends a statement that waits for a row or table of another
	// transaction for so long. Default 10 s. Shorter than a second, it fires
	// before the server has looked for a deadlock.
	LockTimeout time.Duration
	// IdleTimeout ends the session of a transaction that sends nothing, so that
	// a process that was stopped lets go of its rows. Default 10 s. Longer than
	// any handler computes between two statements.
	IdleTimeout time.Duration
	// ReadOnly has the server refuse every statement that would change the database.
	ReadOnly bool
}

const (
	defaultConns          = 32
	defaultConnectTimeout = 10 * time.Second
	applicationName       = "pricemill"
)

// ErrConfig is wrapped by every fault of a Config.
var ErrConfig = errors.New("invalid PostgreSQL configuration")

// Name is the host and the database, for people; empty where the URL cannot be read.
func (c Config) Name() string {
	u, err := url.Parse(c.URL)
	if err != nil {
		return ""
	}
	name := "PostgreSQL database " + strings.TrimPrefix(u.Path, "/") + " at " + u.Host
	if schema := u.Query().Get("search_path"); schema != "" {
		name += ", schema " + schema
	}
	return name
}

// withDefaults fills in what is not set, and reports all faults at once.
func (c Config) withDefaults() (Config, error) {
	var faults []error
	if c.MaxConns == 0 {
		c.MaxConns = defaultConns
	}
	if c.MaxConns < 2 || c.MaxConns > 10_000 {
		faults = append(faults, fmt.Errorf("%w: MaxConns: %d is not within 2 and 10,000", ErrConfig, c.MaxConns))
	}
	for _, limit := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"StatementTimeout", &c.StatementTimeout, 25 * time.Second},
		{"LockTimeout", &c.LockTimeout, 10 * time.Second},
		{"IdleTimeout", &c.IdleTimeout, 10 * time.Second},
	} {
		if *limit.value == 0 {
			*limit.value = limit.standard
		}
		// The server takes 0 for no limit at all, and milliseconds in 31 bits.
		if *limit.value < 10*time.Millisecond || *limit.value > 24*time.Hour {
			faults = append(faults, fmt.Errorf("%w: %s: %v is not within 10ms and 24h", ErrConfig, limit.name, *limit.value))
		}
	}
	return c, errors.Join(faults...)
}

// parse reads the URL. No error repeats the URL or a part of it that may be the
// password: where it cannot be taken apart, any part may.
func (c Config) parse() (pq.Config, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return pq.Config{}, fmt.Errorf("%w: the URL cannot be read: characters of user and password other than "+
			"letters, digits and -._~ must be percent-encoded", ErrConfig)
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return pq.Config{}, fmt.Errorf("%w: the URL does not begin with postgres:// or postgresql://", ErrConfig)
	}
	parsed, err := pq.NewConfig(c.URL)
	if err != nil {
		return pq.Config{}, fmt.Errorf("%w: %w", ErrConfig, redact(err, u))
	}
	if err := checkFiles(parsed); err != nil {
		return pq.Config{}, fmt.Errorf("%w: %w", ErrConfig, redact(err, u))
	}
	if value := parsed.Runtime["synchronous_commit"]; value == "off" || value == "false" || value == "no" || value == "0" {
		return pq.Config{}, fmt.Errorf("%w: synchronous_commit=%s: after a crash of the server the log would hold "+
			"events that the database has forgotten", ErrConfig, value)
	}
	if parsed.ConnectTimeout == 0 {
		parsed.ConnectTimeout = defaultConnectTimeout
	}
	if parsed.ApplicationName == "" {
		parsed.ApplicationName = applicationName
	}
	if parsed.TargetSessionAttrs == "" {
		// A standby, also one that was the primary yesterday, takes no writes.
		parsed.TargetSessionAttrs = pq.TargetSessionAttrsPrimary
	}
	if parsed.SSLMode == "" {
		parsed.SSLMode = pq.SSLModePrefer
	}
	// One round trip for a statement with parameters instead of two.
	parsed.BinaryParameters = true
	return parsed, nil
}

// checkFiles looks whether the files of certificates can be read. As libpq, lib/pq
// continues without those that are not there: it would encrypt for anybody where
// the URL names the authority that the server must be verified by.
func checkFiles(cfg pq.Config) error {
	if cfg.SSLInline {
		return nil // they are no files
	}
	var faults []error
	for _, file := range []struct{ parameter, path string }{
		{"sslrootcert", cfg.SSLRootCert}, {"sslcert", cfg.SSLCert}, {"sslkey", cfg.SSLKey},
	} {
		if file.path == "" || file.path == "system" && file.parameter == "sslrootcert" {
			continue
		}
		if _, err := os.ReadFile(file.path); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", file.parameter, err))
		}
	}
	return errors.Join(faults...)
}

// redact hides an error that repeats the password, however written.
func redact(err error, u *url.URL) error {
	secrets := []string{u.Query().Get("password")}
	if password, ok := u.User.Password(); ok {
		secrets = append(secrets, password, url.QueryEscape(password), url.PathEscape(password))
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(err.Error(), secret) {
			return errors.New("the URL has an invalid parameter")
		}
	}
	return err
}

// session returns base with what every session is to have. The settings travel
// with the start of the session, so they cost no round trip. What the URL says
// wins over the common ones, but not over those of the session's own purpose.
func (c Config) session(base pq.Config, purpose map[string]string) pq.Config {
	session := base.Clone()
	for name, value := range map[string]string{
		// An operator who turned it off by default did not think of an outbox;
		// see parse.
		"synchronous_commit": "on",
		// Text forms of times name the zone anyway; this makes them all alike.
		"timezone": "UTC",
		// A client that vanished without a word is noticed within 30 s.
		"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
	} {
		if _, said := session.Runtime[name]; !said {
			session.Runtime[name] = value
		}
	}
	maps.Copy(session.Runtime, purpose)
	return session
}

// limits are the settings that bound what a session does.
func limits(statement, lock, idle time.Duration) map[string]string {
	return map[string]string{"statement_timeout": millis(statement), "lock_timeout": millis(lock),
		"idle_in_transaction_session_timeout": millis(idle)}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
