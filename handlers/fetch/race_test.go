//go:build race

package fetch_test

// simulatedMinutes: the race detector makes SQLite, which is translated C, some
// thirty times slower.
const simulatedMinutes = 3
