// Package exchangetest is an exchange for tests: it replays a recorded session
// over a real WebSocket on this machine, and misbehaves as it is told.
package exchangetest

import (
	"bufio"
	"bytes"
	_ "embed" // the recorded session
	"encoding/json"
	"testing"
)

//go:embed testdata/coinbase-2021-04-17.jsonl
var recorded []byte

// Frame is a trade of a session.
type Frame struct {
	Product string
	TradeID int64
	Price   string
	Time    string
	Text    []byte // byte for byte
}

// Session returns the trades of the recorded session in their order, as frames of the
// channel matches: 107 of 10 products.
func Session(t testing.TB) []Frame {
	t.Helper()
	var frames []Frame
	lines := bufio.NewScanner(bytes.NewReader(recorded))
	for lines.Scan() {
		var line struct {
			Frame string `json:"frame"`
		}
		var frame struct {
			Type    string `json:"type"`
			Product string `json:"product_id"`
			TradeID int64  `json:"trade_id"`
			Price   string `json:"price"`
			Time    string `json:"time"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("reading the recorded session: %v", err)
		}
		if err := json.Unmarshal([]byte(line.Frame), &frame); err != nil {
			t.Fatalf("reading a recorded frame: %v", err)
		}
		if frame.Type == "match" || frame.Type == "last_match" {
			frames = append(frames, Frame{frame.Product, frame.TradeID, frame.Price, frame.Time, []byte(line.Frame)})
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("reading the recorded session: %v", err)
	}
	return frames
}

// Products lists the products of frames, each once, in the order in which they
// come.
func Products(frames []Frame) []string {
	var products []string
	seen := map[string]bool{}
	for _, f := range frames {
		if !seen[f.Product] {
			seen[f.Product] = true
			products = append(products, f.Product)
		}
	}
	return products
}
