//go:build !race

package cmd_test

const killEvents = 100_000
