//go:build race

package cmd_test

// killEvents: the race detector makes SQLite, which is translated C, some
// thirty times slower. feedRate: and everything else some five times.
const (
	killEvents       = 8_000
	feedRate         = 100
	orderedTrades    = 1_000
	backfilledPrices = 20_000
)
