// Package redisstream is the handler redis-stream: it adds prices, bars, corrections and
// retractions to a stream of Redis, each exactly once.
//
// Next to the stream, Redis keeps the ids of the events that it got last of each partition
// of the log. One script looks there which events of a batch are due, adds them, and notes
// their ids. The script runs alone, and Redis keeps both its effects or neither, so a batch
// that is sent again, by whichever process, adds nothing twice. Within a partition, the
// stream has the order of the log.
package redisstream

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the handler.
const Name = "redis-stream"

// Settings of the handler.
type Settings struct {
	// URL may hold a password, so it is in no log.
	URL          string        `mapstructure:"url" doc:"where Redis is: redis://host:6379/0, or rediss:// for TLS"`
	PasswordFile string        `mapstructure:"password_file" doc:"file with the password; empty: that of the URL, if any"`
	Stream       string        `mapstructure:"stream" doc:"name of the stream: letters, digits and . _ : -"`
	MaxLen       int64         `mapstructure:"max_len" doc:"about how many entries the stream keeps; 0: all"`
	Symbols      []string      `mapstructure:"symbols" doc:"events of these alone, each [provider/]SYMBOL; empty: all"`
	Timeout      time.Duration `mapstructure:"timeout" doc:"how long Redis may take to answer, 100ms to 60s"`
	MaxAge       time.Duration `mapstructure:"max_age" doc:"events that have been in the log for longer are not sent; 0: all are"`
}

var defaults = Settings{Stream: "pricemill", MaxLen: 1_000_000, Timeout: 5 * time.Second, MaxAge: 24 * time.Hour}

// The bounds of the settings.
const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = time.Minute
	// maxPassword is in bytes.
	maxPassword = 4096
)

// maxEvents is the most events that one call of the script adds: while it runs, Redis does
// nothing else.
const maxEvents = 500

// streamName keeps braces out, which say where a key of a cluster lies, and blanks.
var streamName = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,200}$`)

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name: Name, Doc: "Adds prices, bars and corrections to a stream of Redis, exactly once.",
		Consumes: schema.FactTypes(),
		Settings: defaults, Optional: true, Delivers: true, New: New,
	})
}

// silence is for a library that writes to stderr by itself.
var silence sync.Once

// New makes the handler. Its error holds all faults of the settings. A handler without a URL
// skips events. It connects when there is something to send.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	h := &handler{settings: settings, log: env.Log, keep: target.MaxRecent}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	filter, err := target.NewFilter(settings.Symbols, settings.MaxAge, env.Now)
	errs := []error{err}
	h.filter = filter
	if !streamName.MatchString(settings.Stream) {
		errs = append(errs, fmt.Errorf("stream: %q: want 1 to 200 letters, digits and . _ : -", settings.Stream))
	}
	if settings.MaxLen < 0 {
		errs = append(errs, fmt.Errorf("max_len: %d is negative", settings.MaxLen))
	}
	if settings.Timeout < minTimeout || settings.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("timeout: want %v to %v, not %v; a number needs its unit, as in 5s", minTimeout, maxTimeout, settings.Timeout))
	}
	options, err := optionsOf(settings)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrSettings, err)
	}
	if options != nil {
		silence.Do(func() { redis.SetLogger(&logging.VoidLogger{}) })
		h.host, h.redis = options.Addr, redis.NewClient(options)
	}
	h.metrics = target.NewMetrics(env.Metrics, Name)
	return h, nil
}

// optionsOf are those of the client; nil where the settings name no Redis. The URL is not in
// the error, since it may hold a password.
func optionsOf(s Settings) (*redis.Options, error) {
	if s.URL == "" {
		return nil, nil
	}
	options, err := redis.ParseURL(s.URL)
	if err != nil || options.Network != "tcp" || strings.ContainsAny(s.URL, "?#") {
		return nil, errors.New("url: not a URL such as redis://host:6379/0, or rediss:// for TLS")
	}
	if s.PasswordFile != "" {
		text, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password_file: %w", err)
		}
		options.Password = strings.TrimRight(string(text), "\r\n")
		if options.Password == "" || len(options.Password) > maxPassword {
			return nil, fmt.Errorf("password_file: %s: want 1 to %d bytes", s.PasswordFile, maxPassword)
		}
	}
	options.Protocol, options.DisableIdentity = 2, true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = s.Timeout, s.Timeout, s.Timeout, s.Timeout
	options.ContextTimeoutEnabled = true
	// The stage tries again.
	options.MaxRetries, options.DialerRetries = -1, 1
	return options, nil
}

type handler struct {
	settings Settings
	host     string
	redis    *redis.Client // nil for none
	filter   *target.Filter
	keep     int // see target.MaxRecent
	log      *slog.Logger
	metrics  target.Metrics
}

var (
	_ pipeline.Preparer = (*handler)(nil)
	_ pipeline.Starter  = (*handler)(nil)
)

// Start implements pipeline.Starter.
func (h *handler) Start(context.Context) error {
	if h.redis == nil {
		h.log.Warn("no URL is set: events are skipped", "handler", Name, "setting", "modules."+Name+".url")
	}
	return nil
}

// Close ends the connections.
func (h *handler) Close() error {
	if h.redis == nil {
		return nil
	}
	return h.redis.Close()
}

// Handle implements pipeline.Handler: what there is to do is done before the transaction,
// which moves the position.
func (*handler) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return nil, nil
}

// Prepare adds the events of a batch to the stream, those that it has not got.
func (h *handler) Prepare(ctx context.Context, in []pipeline.Record) error {
	var logs []string // in the order of their first records
	due := map[string][]*pipeline.Record{}
	for i := range in {
		r := &in[i]
		if !h.filter.Wants(r) {
			continue
		}
		if h.redis == nil || h.filter.TooOld(r) {
			h.metrics.Skipped.Inc()
			continue
		}
		at, err := target.PlaceOf(r)
		if err != nil {
			return pipeline.Permanent(err)
		}
		if due[at.Log] == nil {
			logs = append(logs, at.Log)
		}
		due[at.Log] = append(due[at.Log], r)
	}
	for _, log := range logs {
		for part := range slices.Chunk(due[log], maxEvents) {
			added, err := h.add(ctx, log, part)
			if err != nil {
				h.metrics.Failed.Inc()
				return err
			}
			h.metrics.Sent.Add(float64(added))
		}
	}
	return nil
}

//go:embed add.lua
var addSource string

var addScript = redis.NewScript(addSource)

// errAnswer says that the script answered what it does not answer.
var errAnswer = errors.New("redis answered something else than the script returns")

// add adds events of one Log to the stream, and returns how many of them it had not got.
func (h *handler) add(ctx context.Context, log string, events []*pipeline.Record) (int64, error) {
	args := make([]any, 0, 2+8*len(events))
	args = append(args, h.keep, h.settings.MaxLen)
	for _, r := range events {
		e, late := target.EventOf(r), 0
		if target.IsLate(r) {
			late = 1
		}
		args = append(args, r.Offset, late, e.ID, e.Source, e.Type, e.Subject, e.Time.Text(), []byte(e.Data))
	}
	bounded, cancel := context.WithTimeout(ctx, h.settings.Timeout)
	defer cancel()
	answer, err := addScript.Run(bounded, h.redis, []string{h.settings.Stream, h.sentKey(log)}, args...).Int64Slice()
	switch {
	case err != nil:
		return 0, fmt.Errorf("adding to the stream %s at %s: %w", h.settings.Stream, h.host, err)
	case len(answer) == 2 && answer[0] == 1:
		return answer[1], nil
	case len(answer) == 3 && answer[0] == 0:
		return 0, fmt.Errorf("%w; see docs/targets.md", target.SetBack(target.Place{Log: log, Offset: answer[1]}, answer[2]))
	}
	return 0, fmt.Errorf("adding to the stream %s at %s: %w", h.settings.Stream, h.host, errAnswer)
}

// sentKey is the key of the ids of the events of a Log that the stream got last.
func (h *handler) sentKey(log string) string { return h.settings.Stream + ":sent:" + log }
