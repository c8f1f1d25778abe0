//go:build !race

package cmd_test

const (
	// killEvents is how many answers go through the chain while the program is
	// killed standardKills times.
	killEvents = 30_000
	// feedRate is how many answers a second makeAnswers is for.
	feedRate = 1000
	// orderedTrades is how many trades the files of TestTheOrderOfAFileDoesNotMatter have.
	orderedTrades = 10_000
	// backfilledPrices is how many prices the backfill of TestABackfillIsKilledThreeTimes brings.
	backfilledPrices = 100_000
)
