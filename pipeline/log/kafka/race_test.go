//go:build race

package kafka_test

// raceEnabled shortens what the race detector makes slow.
const raceEnabled = true
