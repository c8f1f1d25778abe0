//go:build !race

package cmd_test

const (
	killEvents = 100_000
	// feedRate is how many answers a second makeAnswers is for.
	feedRate = 1000
)
