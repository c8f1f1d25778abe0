package declared

import (
	"context"
	"errors"
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

// changingStreamer is one whose connections change their symbols.
type changingStreamer struct{ *streamer }

// StreamChanging implements pipeline.Resubscriber.
func (s changingStreamer) StreamChanging(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	return s.connect(ctx, symbols, changes, f)
}

var (
	_ pipeline.Resubscriber = changingStreamer{}
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
	return s.connect(ctx, symbols, nil, f)
}

func (s *streamer) connect(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	if s.stream.needsKey() && s.key == "" {
		return pipeline.Quotef(schema.CodeNotConfigured, "there is no key: set %s", KeySetting(s.file.Name))
	}
	c := &connection{streamer: s, f: f}
	var err error
	if c.subscribed, err = c.spellAll(symbols); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	cancel := func() { end(nil) }
	defer cancel()
	connecting, connected := context.WithTimeout(ctx, feed.ConnectTimeout)
	defer connected()
	conn, err := s.client.Dial(connecting, s.url)
	if err != nil {
		return err
	}
	c.conn = conn
	defer conn.Close()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	if err := c.begin(connecting); err != nil {
		return err
	}
	if s.stream.Ping != nil {
		writing.Go(func() { c.ping(ctx, cancel) })
	}
	if changes != nil {
		writing.Go(func() {
			if err := c.follow(ctx, changes); err != nil {
				end(err)
			}
		})
	}
	err = c.readAll(ctx)
	if failed := c.failure(); failed != nil {
		return failed
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
		return cause // the subscription could not be changed
	}
	return err
}

// connection is one call of Stream.
type connection struct {
	*streamer
	conn   *feed.Conn
	warned bool // of frames that no rule is for

	subscribing sync.Mutex // of what follows
	subscribed  spelled
	// left are the spellings of symbols that were unsubscribed from: trades of them may still
	// be on their way.
	left     map[string]bool
	loggedIn bool

	mu     sync.Mutex // of calls of f
	f      func(pipeline.StreamMessage) error
	failed error // what f returned
}

// spelled are symbols as the service writes them. Two of them may have one spelling.
type spelled struct {
	spellings []string
	symbols   map[string][]schema.Symbol
}

// without are the spellings that others does not have.
func (s spelled) without(others spelled) []string {
	return slices.DeleteFunc(slices.Clone(s.spellings), func(spelling string) bool { return slices.Contains(others.spellings, spelling) })
}

func (c *connection) spellAll(symbols []schema.Symbol) (spelled, error) {
	all := spelled{symbols: map[string][]schema.Symbol{}}
	for _, symbol := range symbols {
		spelling, err := c.spellFor(symbol)
		if err != nil {
			c.log.Warn("the definition has no spelling of a symbol; streaming the others", "provider", c.file.Name, "symbol", symbol)
			continue
		}
		if len(all.symbols[spelling]) == 0 {
			all.spellings = append(all.spellings, spelling)
		}
		all.symbols[spelling] = append(all.symbols[spelling], symbol)
	}
	switch most := c.stream.most(); {
	case len(all.spellings) == 0:
		return all, pipeline.Quotef(schema.CodeUnknownSymbol, "the definition has no spelling of any of the symbols")
	case len(all.spellings) > most:
		return all, pipeline.Quotef(schema.CodeBadResponse, "the service streams %d symbols a connection, and these are %d: start several streams", most, len(all.spellings))
	}
	return all, nil
}

// follow changes the subscription until ctx is done.
func (c *connection) follow(ctx context.Context, changes <-chan []schema.Symbol) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case symbols := <-changes:
			if err := c.change(ctx, symbols); err != nil {
				return err
			}
		}
	}
}

// change unsubscribes from what is not in symbols, and subscribes to what is new in them.
// Before the login it only notes them.
func (c *connection) change(ctx context.Context, symbols []schema.Symbol) error {
	wanted, err := c.spellAll(symbols)
	if err != nil {
		return err
	}
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	added, gone := wanted.without(c.subscribed), c.subscribed.without(wanted)
	c.subscribed = wanted
	if !c.loggedIn {
		return nil
	}
	if c.left == nil {
		c.left = map[string]bool{}
	}
	for _, spelling := range gone {
		c.left[spelling] = true
	}
	if len(gone) > 0 { // first, since the service may allow no more symbols than there are
		if err := c.send(ctx, c.stream.leave, gone); err != nil {
			return err
		}
	}
	if len(added) > 0 {
		return c.send(ctx, c.stream.subscribe, added)
	}
	return nil
}

// begin logs in, or subscribes where no answer to a login is to be awaited.
func (c *connection) begin(ctx context.Context) error {
	if err := c.send(ctx, c.stream.login, nil); err != nil {
		return err
	}
	if c.stream.until.code != nil {
		return nil
	}
	return c.subscribe(ctx)
}

// subscribe asks for all symbols, once that may be.
func (c *connection) subscribe(ctx context.Context) error {
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	c.loggedIn = true
	return c.send(ctx, c.stream.subscribe, c.subscribed.spellings)
}

// awaits says that the login has not been answered yet.
func (c *connection) awaits() bool {
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	return !c.loggedIn
}

func (c *connection) send(ctx context.Context, m message, spellings []string) error {
	for _, frame := range m.fill(keyValues(c.key), spellings) {
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
			if c.send(ctx, c.stream.ping, nil) != nil {
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
		if c.awaits() {
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
	if c.awaits() && c.stream.until.holds(value) {
		if err := c.subscribe(ctx); err != nil {
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
	symbols, left := c.of(spelled)
	if left {
		return c.deliver(pipeline.StreamMessage{ReceivedAt: receivedAt})
	}
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

// of are the symbols with a spelling; left says that none is any more.
func (c *connection) of(spelling string) (symbols []schema.Symbol, left bool) {
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	symbols = c.subscribed.symbols[spelling]
	return symbols, len(symbols) == 0 && c.left[spelling]
}

// leaveOut continues without a symbol that the service does not have.
func (c *connection) leaveOut(ctx context.Context, rule *compiledFrameRule, value any) error {
	refused := ""
	if rule.symbolOf.code != nil {
		if said, err := rule.symbolOf.run(value); err == nil {
			refused, _ = textOf(said)
		}
	}
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	spellings := c.subscribed.spellings
	at := slices.Index(spellings, refused)
	switch {
	case at < 0 && c.left[refused]:
		return nil
	case at < 0 && len(spellings) > 1:
		return pipeline.Quotef(schema.CodeUnknownSymbol, "the service does not have one of the symbols, by rule %d of the stream", rule.number)
	case len(spellings) <= 1:
		return pipeline.Quotef(schema.CodeUnknownSymbol, "the service does not have the symbol, by rule %d of the stream", rule.number)
	}
	c.log.Warn("the service does not have a symbol; streaming the others", "provider", c.file.Name, "symbols", c.subscribed.symbols[refused])
	c.subscribed.spellings = slices.Delete(slices.Clone(spellings), at, at+1)
	if rule.Resubscribe {
		return c.send(ctx, c.stream.subscribe, c.subscribed.spellings)
	}
	return nil
}
