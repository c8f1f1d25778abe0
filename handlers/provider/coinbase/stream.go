package coinbase

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// DefaultWSURL is where the real service has its WebSocket feed.
const DefaultWSURL = "wss://ws-feed.exchange.coinbase.com"

// maxFrame bounds a frame, in bytes. A match has some 300, the acknowledgement of a
// subscription to 50 products some 2,000.
const maxFrame = 32 << 10

var _ pipeline.Resubscriber = (*provider)(nil)

// Stream implements pipeline.Streamer by the channels matches and heartbeat: matches has
// every trade, where ticker has one for all trades that an order makes at once. The
// sequence of a message is its trade's number: the frames' own sequence also
// counts orders, which are on no channel of ours.
//
// The service refuses a whole subscription for one product that it does not have. Such
// products are left out, and the others subscribed to; where none is left, the error is
// CodeUnknownSymbol.
func (p *provider) Stream(ctx context.Context, symbols []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	return p.StreamChanging(ctx, symbols, nil, f)
}

// StreamChanging implements pipeline.Resubscriber.
func (p *provider) StreamChanging(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	conn, err := p.connect(ctx, symbols)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := &subscribed{conn: conn, symbols: symbols}
	ctx, end := context.WithCancelCause(ctx)
	var changing sync.WaitGroup
	changing.Go(func() {
		if err := s.follow(ctx, changes); err != nil {
			end(err)
		}
	})
	defer changing.Wait()
	defer end(nil)
	for {
		isText, text, err := conn.Read(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
				return cause // the subscription could not be changed
			}
			return err
		}
		message, said, err := p.read(isText, text)
		if refused, left, failed := s.refuse(ctx, said); refused != "" {
			if left == 0 {
				return pipeline.Quotef(schema.CodeUnknownSymbol, "the service has no product %s", refused)
			}
			p.log.Warn("the service has no such product; streaming the others", "provider", Name, "symbol", refused)
			message, err = pipeline.StreamMessage{ReceivedAt: schema.NewTime(p.now())}, failed
		}
		if err != nil {
			return err
		}
		if err := f(message); err != nil {
			return err
		}
	}
}

// subscribed is what a connection is subscribed to.
type subscribed struct {
	conn    *feed.Conn
	mu      sync.Mutex
	symbols []schema.Symbol
}

// follow changes the subscription until ctx is done.
func (s *subscribed) follow(ctx context.Context, changes <-chan []schema.Symbol) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case symbols := <-changes:
			if err := s.change(ctx, symbols); err != nil {
				return err
			}
		}
	}
}

// change subscribes to what is new in symbols, and unsubscribes from what is not in them.
func (s *subscribed) change(ctx context.Context, symbols []schema.Symbol) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := func(from []schema.Symbol) func(schema.Symbol) bool {
		return func(symbol schema.Symbol) bool { return !slices.Contains(from, symbol) }
	}
	gone, added := filter(s.symbols, missing(symbols)), filter(symbols, missing(s.symbols))
	s.symbols = symbols
	if len(added) > 0 {
		if err := ask(ctx, s.conn, "subscribe", added); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		return ask(ctx, s.conn, "unsubscribe", gone)
	}
	return nil
}

// refuse leaves out a product that a frame says that the service does not have, and
// subscribes to the others, of which it says how many there are.
func (s *subscribed) refuse(ctx context.Context, said frame) (refused schema.Symbol, left int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused, others := without(s.symbols, said)
	if refused == "" || len(others) == 0 {
		return refused, 0, nil
	}
	s.symbols = others
	return refused, len(others), ask(ctx, s.conn, "subscribe", others)
}

func filter(symbols []schema.Symbol, keep func(schema.Symbol) bool) []schema.Symbol {
	return slices.DeleteFunc(slices.Clone(symbols), func(symbol schema.Symbol) bool { return !keep(symbol) })
}

// without finds the symbol whose product a frame says that the service does not have, and
// the others.
func without(symbols []schema.Symbol, said frame) (refused schema.Symbol, others []schema.Symbol) {
	product, found := strings.CutSuffix(said.Reason, " is not a valid product")
	at := slices.Index(symbols, schema.Symbol(product))
	if said.Type != "error" || !found || at < 0 {
		return "", nil
	}
	return symbols[at], slices.Concat(symbols[:at], symbols[at+1:])
}

// connect opens a connection and subscribes. The service closes a connection over which no
// subscription comes within five seconds.
func (p *provider) connect(ctx context.Context, symbols []schema.Symbol) (*feed.Conn, error) {
	connecting, cancel := context.WithTimeout(ctx, feed.ConnectTimeout)
	defer cancel()
	conn, err := p.feedClient.Dial(connecting, p.feedURL)
	if err != nil {
		return nil, err
	}
	if err := ask(connecting, conn, "subscribe", symbols); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask asks for the trades of symbols, or no longer, as what says.
func ask(ctx context.Context, conn *feed.Conn, what string, symbols []schema.Symbol) error {
	request, err := json.Marshal(struct {
		Type     string          `json:"type"`
		Products []schema.Symbol `json:"product_ids"`
		Channels []string        `json:"channels"`
	}{what, symbols, []string{"matches", "heartbeat"}})
	if err != nil {
		return pipeline.Quotef(schema.CodeInternal, "no subscription can be written")
	}
	return conn.Write(ctx, request)
}

// read makes a message of a frame: a quote of one that tells of a trade, and a sign of life
// of any other but an error.
func (p *provider) read(isText bool, text []byte) (pipeline.StreamMessage, frame, error) {
	message := pipeline.StreamMessage{ReceivedAt: schema.NewTime(p.now())}
	f, err := parseFrame(text)
	switch {
	case !isText || err != nil || f.Type == "":
		return message, f, pipeline.Quotef(schema.CodeBadResponse, "a frame that is not one of the feed's")
	case f.Type == "error":
		return message, f, pipeline.Quotef(schema.CodeBadResponse, "the service said: %s", schema.CutReason(f.Message+": "+f.Reason))
	}
	if symbol, id, err := f.trade(); err == nil {
		message.ID, message.Symbol, message.Sequence, message.RawResponse = id, symbol, f.TradeID, text
	}
	return message, f, nil
}

// parseFeed checks where the feed lies.
func parseFeed(text string) (string, error) {
	u, err := remote.ParseFeedURL(text)
	if err != nil {
		return "", fmt.Errorf("ws_url: %w", err)
	}
	return u.String(), nil
}
