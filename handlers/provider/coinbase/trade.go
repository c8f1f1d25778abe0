package coinbase

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/pricemill/pricemill/schema"
)

// ErrNoTicker says that a frame is of another type than ticker: it is none that
// prices are read from.
var ErrNoTicker = errors.New("a frame that is no ticker")

// TradeID reads the product of a ticker frame, and makes the id of its event of
// product and trade: the same one in whatever stream or file the trade is seen
// again.
func TradeID(frame []byte) (symbol schema.Symbol, id string, err error) {
	var t struct {
		Type    string `json:"type"`
		Product string `json:"product_id"`
		Trade   uint64 `json:"trade_id"`
	}
	if err := json.Unmarshal(frame, &t); err != nil {
		return "", "", fmt.Errorf("reading a frame: %w", err)
	}
	if t.Type == "" {
		return "", "", errors.New("reading a frame: it has no type")
	}
	if t.Type != "ticker" {
		return "", "", ErrNoTicker
	}
	if symbol, err = schema.ParseSymbol(t.Product); err != nil {
		return "", "", fmt.Errorf("reading the product of a ticker: %w", err)
	}
	if t.Trade == 0 {
		return "", "", fmt.Errorf("a ticker of %s without the id of its trade", symbol)
	}
	return symbol, schema.DeriveID("stream", string(Name), string(symbol), strconv.FormatUint(t.Trade, 10)), nil
}
