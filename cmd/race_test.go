//go:build race

package cmd_test

// killEvents: the race detector makes SQLite, which is translated C, some
// thirty times slower.
const killEvents = 8_000
