// Package pipeline is the machinery that runs handlers and projections over
// the log with exactly-once effects.
//
// Read it in this order: record.go (what a handler sees), handler.go,
// projection.go and provider.go (what a plugin implements), registry.go (how
// it is found), batch.go and broker.go (what the log must supply), chain.go
// (the rule that drops repeats and notices gaps), stage.go (the transaction
// around a batch), relay.go (from the outbox to the log), runtime.go (all of it
// under Watermill's router).
//
// Below it, kafka speaks to the log, embedded is a log in the process, and
// store keeps positions, chains and the outbox in SQL.
package pipeline
