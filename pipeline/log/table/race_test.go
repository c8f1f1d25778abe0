//go:build race

package table_test

// raceEnabled shortens what the race detector makes slow.
const raceEnabled = true
