package declared

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// loginTimeout is how long the answer to a login may take.
const loginTimeout = 10 * time.Second

// streamer is the provider of a definition with a stream.
type streamer struct {
	*provider
	url    string // may hold the key
	client *feed.Client
	now    func() time.Time
	log    *slog.Logger
}

var (
	_ pipeline.Streamer     = (*streamer)(nil)
	_ pipeline.Limited      = (*streamer)(nil)
	_ pipeline.Configurable = (*streamer)(nil)
	_ pipeline.Defined      = (*streamer)(nil)
)

func newStreamer(p *provider, base string, env pipeline.Env) (*streamer, error) {
	if _, err := remote.ParseFeedURL(base); err != nil {
		return nil, fmt.Errorf("ws_url: %w", err)
	}
	s := &streamer{provider: p, url: p.stream.address(base, keyValues(p.key)), now: env.Now, log: env.Log,
		client: feed.NewClient(feed.Config{MaxFrame: schema.MaxRawResponse, Headers: fillHeaders(p.stream.headers, p.key),
			Version: env.Version, Now: env.Now})}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Stream implements pipeline.Streamer. A symbol that the definition cannot spell, or that
// the service refuses, is left out, and the others are streamed; where none is left, the
// error is CodeUnknownSymbol.
func (s *streamer) Stream(ctx context.Context, symbols []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	if s.stream.needsKey() && s.key == "" {
		return pipeline.Quotef(schema.CodeNotConfigured, "there is no key: set %s", KeySetting(s.file.Name))
	}
	c := &connection{streamer: s, bySpelling: map[string][]schema.Symbol{}, f: f}
	if err := c.spellAll(symbols); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	connecting, connected := context.WithTimeout(ctx, feed.ConnectTimeout)
	defer connected()
	conn, err := s.client.Dial(connecting, s.url)
	if err != nil {
		return err
	}
	c.conn = conn
	defer conn.Close()
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	if err := c.begin(connecting); err != nil {
		return err
	}
	if s.stream.Ping != nil {
		pinging.Go(func() { c.ping(ctx, cancel) })
	}
	err = c.readAll(ctx)
	if failed := c.failure(); failed != nil {
		return failed
	}
	return err
}

// connection is one call of Stream.
type connection struct {
	*streamer
	conn *feed.Conn
	// spellings are the symbols that are streamed, as the service writes them. Two symbols may
	// have one spelling.
	spellings  []string
	bySpelling map[string][]schema.Symbol
	loggedIn   bool
	warned     bool // of frames that no rule is for

	mu     sync.Mutex // of calls of f
	f      func(pipeline.StreamMessage) error
	failed error // what f returned
}

func (c *connection) spellAll(symbols []schema.Symbol) error {
	for _, symbol := range symbols {
		spelled, err := c.spellFor(symbol)
		if err != nil {
			c.log.Warn("the definition has no spelling of a symbol; streaming the others", "provider", c.file.Name, "symbol", symbol)
			continue
		}
		if len(c.bySpelling[spelled]) == 0 {
			c.spellings = append(c.spellings, spelled)
		}
		c.bySpelling[spelled] = append(c.bySpelling[spelled], symbol)
	}
	switch most := c.stream.most(); {
	case len(c.spellings) == 0:
		return pipeline.Quotef(schema.CodeUnknownSymbol, "the definition has no spelling of any of the symbols")
	case len(c.spellings) > most:
		return pipeline.Quotef(schema.CodeBadResponse, "the service streams %d symbols a connection, and these are %d: start several streams", most, len(c.spellings))
	}
	return nil
}

// begin logs in, or subscribes where no answer to a login is to be awaited.
func (c *connection) begin(ctx context.Context) error {
	if err := c.send(ctx, c.stream.login); err != nil {
		return err
	}
	if c.stream.until.code != nil {
		return nil
	}
	c.loggedIn = true
	return c.send(ctx, c.stream.subscribe)
}

func (c *connection) send(ctx context.Context, m message) error {
	for _, frame := range m.fill(keyValues(c.key), c.spellings) {
		if err := c.conn.Write(ctx, frame); err != nil {
			return err
		}
	}
	return nil
}

// deliver calls f, never twice at once and never again after an error.
func (c *connection) deliver(m pipeline.StreamMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = c.f(m)
	}
	return c.failed
}

func (c *connection) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// ping sends what the definition says until ctx is done. Without a text of its own it is a
// ping of the protocol, whose answer is a sign of life. What breaks is noticed where frames
// are read.
func (c *connection) ping(ctx context.Context, cancel context.CancelFunc) {
	ticker := time.NewTicker(c.stream.Ping.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if c.stream.ping.root != nil {
			if c.send(ctx, c.stream.ping) != nil {
				return
			}
			continue
		}
		if c.conn.Ping(ctx) != nil {
			return
		}
		if c.deliver(pipeline.StreamMessage{ReceivedAt: schema.NewTime(c.now())}) != nil {
			cancel()
			return
		}
	}
}

// readAll reads frames until something is wrong.
func (c *connection) readAll(ctx context.Context) error {
	awaiting, awaited := context.WithTimeout(ctx, loginTimeout)
	defer awaited()
	for {
		reading := ctx
		if !c.loggedIn {
			reading = awaiting
		}
		isText, frame, err := c.conn.Read(reading)
		if err != nil {
			return err
		}
		if !isText {
			return pipeline.Quotef(schema.CodeBadResponse, "a frame of bytes, not of text")
		}
		if err := c.receive(ctx, frame, schema.NewTime(c.now())); err != nil {
			return err
		}
	}
}

// receive takes a frame, entry by entry.
func (c *connection) receive(ctx context.Context, frame []byte, receivedAt schema.Time) error {
	entries := [][]byte{frame}
	if c.stream.splits {
		var err error
		if entries, err = feed.Split(frame, c.stream.split); err != nil {
			return err
		}
	}
	for _, entry := range entries {
		if err := c.take(ctx, entry, receivedAt); err != nil {
			return err
		}
	}
	return nil
}

// take does what a frame with at most one entry means.
func (c *connection) take(ctx context.Context, frame []byte, receivedAt schema.Time) error {
	value, isJSON := decodeFrame(frame)
	alive := pipeline.StreamMessage{ReceivedAt: receivedAt}
	if !c.loggedIn && c.stream.until.holds(value) {
		c.loggedIn = true
		if err := c.send(ctx, c.stream.subscribe); err != nil {
			return err
		}
		return c.deliver(alive)
	}
	rule := c.stream.ruleOf(value)
	switch {
	case !isJSON && (rule == nil || rule.Means == meansTrade):
		return pipeline.Quotef(schema.CodeBadResponse, "a frame that is not JSON, and that no rule of the stream explains")
	case rule == nil:
		if !c.warned {
			c.log.Warn("the stream has a frame that no rule of the definition is for; it is no sign of life", "provider", c.file.Name)
			c.warned = true
		}
		return nil
	}
	switch rule.Means {
	case meansTrade:
		return c.takeTrade(value, frame, receivedAt)
	case meansAlive:
		return c.deliver(alive)
	case meansUnknown:
		if err := c.leaveOut(ctx, rule, value); err != nil {
			return err
		}
		return c.deliver(alive)
	}
	return pipeline.Quotef(schema.Code(rule.Means), "a frame that means %s by rule %d of the stream", rule.Means, rule.number)
}

// takeTrade delivers a trade, once for each symbol that has its spelling.
func (c *connection) takeTrade(value any, frame []byte, receivedAt schema.Time) error {
	for _, secret := range c.secretsOf(c.key) {
		if rest.Repeats(frame, secret) {
			return pipeline.Quotef(schema.CodeBadResponse, "the frame repeats the key")
		}
	}
	t, err := c.stream.tradeIn(value)
	if err != nil {
		return err
	}
	spelled, err := t.spelled()
	if err != nil {
		return err
	}
	symbols := c.bySpelling[spelled]
	if len(symbols) == 0 {
		return pipeline.Quotef(schema.CodeBadResponse, "a trade of a symbol that was not subscribed to")
	}
	for _, symbol := range symbols {
		m, err := t.message(c.file.Name, symbol, frame)
		if err != nil {
			return err
		}
		m.ReceivedAt = receivedAt
		if err := c.deliver(m); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut goes on without a symbol that the service does not have.
func (c *connection) leaveOut(ctx context.Context, rule *compiledFrameRule, value any) error {
	refused := ""
	if rule.symbolOf.code != nil {
		if said, err := rule.symbolOf.run(value); err == nil {
			refused, _ = textOf(said)
		}
	}
	at := slices.Index(c.spellings, refused)
	switch {
	case at < 0 && len(c.spellings) > 1:
		return pipeline.Quotef(schema.CodeUnknownSymbol, "the service does not have one of the symbols, by rule %d of the stream", rule.number)
	case len(c.spellings) <= 1:
		return pipeline.Quotef(schema.CodeUnknownSymbol, "the service does not have the symbol, by rule %d of the stream", rule.number)
	}
	c.log.Warn("the service does not have a symbol; streaming the others", "provider", c.file.Name, "symbols", c.bySpelling[refused])
	c.spellings = slices.Delete(c.spellings, at, at+1)
	if rule.Resubscribe {
		return c.send(ctx, c.stream.subscribe)
	}
	return nil
}
