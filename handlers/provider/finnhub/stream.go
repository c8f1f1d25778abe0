package finnhub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/feed"
	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// DefaultWSURL is where the real service has its WebSocket feed,
// https://finnhub.io/docs/api/websocket-trades.
const DefaultWSURL = "wss://ws.finnhub.io"

// maxFrame bounds a frame, in bytes.
const maxFrame = schema.MaxRawResponse

var _ pipeline.Streamer = (*provider)(nil)

// Stream implements pipeline.Streamer. The key is in the URL, where the service wants it. A
// frame with several trades becomes one for each. The service neither numbers trades nor
// sends one again, so the id of a trade is made of what it says: symbol, time, price, volume
// and conditions, and of trades that say the same which of them it is on this connection.
//
// A symbol that the service does not know is left out, and the others are streamed; where
// none is left, the error is CodeUnknownSymbol.
func (p *provider) Stream(ctx context.Context, symbols []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	if !p.Configured() {
		return pipeline.Quotef(schema.CodeNotConfigured, "there is no key: set FINNHUB_API_KEY")
	}
	connecting, cancel := context.WithTimeout(ctx, feed.ConnectTimeout)
	defer cancel()
	conn, err := p.feedClient.Dial(connecting, p.feedURL)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, symbol := range symbols {
		if err := subscribe(connecting, conn, symbol); err != nil {
			return err
		}
	}
	s := &subscription{provider: p, symbols: slices.Clone(symbols), seen: map[schema.Symbol]*moment{}}
	for {
		isText, text, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if !isText {
			return errFrame()
		}
		if err := s.receive(text, schema.NewTime(p.now()), f); err != nil {
			return err
		}
	}
}

func errFrame() error {
	return pipeline.Quotef(schema.CodeBadResponse, "a frame that is not one of the feed's")
}

// subscribe asks for the trades of a symbol.
func subscribe(ctx context.Context, conn *feed.Conn, symbol schema.Symbol) error {
	request, err := json.Marshal(struct {
		Type   string        `json:"type"`
		Symbol schema.Symbol `json:"symbol"`
	}{"subscribe", symbol})
	if err != nil {
		return pipeline.Quotef(schema.CodeInternal, "no subscription can be written")
	}
	return conn.Write(ctx, request)
}

// frame is the part that is read of a frame.
type frame struct {
	Type    *string `json:"type"`
	Data    []trade `json:"data"`
	Message string  `json:"msg"` // of an error
}

type trade struct {
	Symbol string          `json:"s"`
	Price  json.RawMessage `json:"p"`
	Time   json.RawMessage `json:"t"` // milliseconds since 1970
	// Volume is 0 where only the price has changed.
	Volume     json.RawMessage `json:"v"`
	Conditions json.RawMessage `json:"c"`
}

// subscription is one call of Stream.
type subscription struct {
	*provider
	symbols []schema.Symbol
	seen    map[schema.Symbol]*moment
}

// moment is the last time of a symbol's trades, and how often each trade was in it.
type moment struct {
	time   string
	trades map[string]int
}

// receive takes a frame.
func (s *subscription) receive(text []byte, receivedAt schema.Time, f func(pipeline.StreamMessage) error) error {
	var whole frame
	if err := json.Unmarshal(text, &whole); err != nil || whole.Type == nil {
		return errFrame()
	}
	alive := pipeline.StreamMessage{ReceivedAt: receivedAt}
	switch {
	case *whole.Type == "error":
		if err := s.refused(whole.Message); err != nil {
			return err
		}
		return f(alive)
	case *whole.Type != "trade" || len(whole.Data) == 0:
		return f(alive)
	case rest.Repeats(text, s.key):
		return pipeline.Quotef(schema.CodeBadResponse, "the frame repeats the key")
	}
	frames, err := feed.Split(text, []string{"data"})
	if err != nil {
		return err
	}
	if len(frames) != len(whole.Data) {
		return errFrame()
	}
	for i, one := range frames {
		m, err := s.message(whole.Data[i])
		if err != nil {
			return err
		}
		m.RawResponse, m.ReceivedAt = one, receivedAt
		if err := f(m); err != nil {
			return err
		}
	}
	return nil
}

// refused leaves out the symbol that an error is about.
func (s *subscription) refused(message string) error {
	for i, symbol := range s.symbols {
		if message != "Invalid symbol "+string(symbol) {
			continue
		}
		if len(s.symbols) == 1 {
			return pipeline.Quotef(schema.CodeUnknownSymbol, "the service has no symbol %s", symbol)
		}
		s.log.Warn("the service has no such symbol; streaming the others", "provider", Name, "symbol", symbol)
		s.symbols = slices.Delete(s.symbols, i, i+1)
		return nil
	}
	// The text may repeat the key.
	return pipeline.Quotef(schema.CodeBadResponse, "the service said that something is wrong")
}

// message is the event of a trade.
func (s *subscription) message(t trade) (pipeline.StreamMessage, error) {
	symbol, err := schema.ParseSymbol(t.Symbol)
	if err != nil || !slices.Contains(s.symbols, symbol) {
		return pipeline.StreamMessage{}, pipeline.Quotef(schema.CodeBadResponse, "a trade of a symbol that was not subscribed to")
	}
	last := s.seen[symbol]
	if at := string(t.Time); last == nil || last.time != at {
		last = &moment{at, map[string]int{}}
		s.seen[symbol] = last
	}
	said := []string{"stream", string(Name), string(symbol), last.time, string(t.Price), string(t.Volume), string(t.Conditions)}
	key := strings.Join(said[4:], " ")
	last.trades[key]++
	if n := last.trades[key]; n > 1 {
		said = append(said, strconv.Itoa(n))
	}
	return pipeline.StreamMessage{ID: schema.DeriveID(said...), Symbol: symbol}, nil
}

// normalizeFrame reads a frame with one trade, as Stream makes it.
func normalizeFrame(raw schema.RawResponse) ([]pipeline.Price, error) {
	var f frame
	if err := payload.Decode(raw, &f); err != nil {
		return nil, err
	}
	if f.Type == nil || *f.Type != "trade" || len(f.Data) != 1 {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "a frame that tells of no trade, or of several")
	}
	t := f.Data[0]
	symbol, err := schema.ParseSymbol(t.Symbol)
	if err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "a trade without a symbol", Err: err}
	}
	price, err := payload.Price(t.Price)
	if err != nil {
		return nil, err
	}
	millis, err := strconv.ParseInt(string(t.Time), 10, 64)
	if err != nil || millis <= 0 || millis > lastMilli {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "no time in milliseconds, or one outside the years 1970 to 9999")
	}
	return []pipeline.Price{{Symbol: symbol, Price: price, Size: payload.Size(t.Volume), Time: schema.NewTime(time.UnixMilli(millis))}}, nil
}

// lastMilli is that of the year 9999. The time package counts in a circle.
const lastMilli = 253_402_300_799_999

// isFrame tells frames from answers, which have no type.
func isFrame(raw schema.RawResponse) bool {
	var f struct {
		Type *string `json:"type"`
	}
	return bytes.Contains(raw, []byte(`"type"`)) && json.Unmarshal(raw, &f) == nil && f.Type != nil
}

// parseFeed checks where the feed lies, and adds the key.
func parseFeed(text, key string) (string, error) {
	u, err := remote.ParseFeedURL(text)
	if err != nil {
		return "", fmt.Errorf("ws_url: %w", err)
	}
	query := u.Query()
	query.Set("token", key)
	u.RawQuery = query.Encode()
	return u.String(), nil
}
