package coinbase

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/pricemill/pricemill/schema"
)

// frame is the part that is read of a frame of the WebSocket feed,
// https://docs.cdp.coinbase.com/exchange/websocket-feed/channels.
type frame struct {
	Type    string `json:"type"`
	Product string `json:"product_id"`
	// TradeID counts the trades of a product, from 1 and without gaps.
	TradeID int64 `json:"trade_id"`
	// Message and Reason are those of an error.
	Message string `json:"message"`
	Reason  string `json:"reason"`
}

func parseFrame(text []byte) (frame, error) {
	var f frame
	err := json.Unmarshal(text, &f)
	return f, err
}

// ErrNoTrade says that a frame is of a type that tells of no trade.
var ErrNoTrade = errors.New("a frame that tells of no trade")

// tellsOfTrade says of a type of frames whether each tells of one trade. A match is every
// trade, and a last_match the last one before a subscription. A ticker tells of the last of
// the trades that one order made at once, and leaves out the others.
func tellsOfTrade(kind string) bool {
	return kind == "match" || kind == "last_match" || kind == "ticker"
}

// trade is the product of a frame that tells of a trade, and the id of its event, made of
// product and trade.
func (f frame) trade() (symbol schema.Symbol, id string, err error) {
	switch {
	case f.Type == "":
		return "", "", errors.New("reading a frame: it has no type")
	case !tellsOfTrade(f.Type):
		return "", "", ErrNoTrade
	}
	if symbol, err = schema.ParseSymbol(f.Product); err != nil {
		return "", "", fmt.Errorf("reading the product of a %s: %w", f.Type, err)
	}
	if f.TradeID < 1 { // a product that was never traded
		return "", "", fmt.Errorf("a %s of %s without the id of its trade", f.Type, symbol)
	}
	return symbol, tradeEvent(symbol, f.TradeID), nil
}

// tradeEvent is the id of the event of a trade.
func tradeEvent(symbol schema.Symbol, trade int64) string {
	return schema.DeriveID("stream", string(Name), string(symbol), strconv.FormatInt(trade, 10))
}

// TradeID reads the product of a frame that tells of a trade, and makes the id of its event
// of product and trade: the same one in whatever stream, file or type of frame the trade is
// seen again.
func TradeID(text []byte) (symbol schema.Symbol, id string, err error) {
	f, err := parseFrame(text)
	if err != nil {
		return "", "", fmt.Errorf("reading a frame: %w", err)
	}
	return f.trade()
}
