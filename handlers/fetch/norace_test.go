//go:build !race

package fetch_test

const simulatedMinutes = 30
