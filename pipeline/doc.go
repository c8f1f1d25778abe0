// Package pipeline is the machinery that runs handlers and projections over
// the log with exactly-once effects.
//
// Read it in this order: record.go (what a handler sees), handler.go,
// projection.go and provider.go (what a plugin implements), registry.go (how
// it is found), batch.go and broker.go (what the log must supply), chain.go
// (the rule that drops repeats and notices gaps), stage.go (the transaction
// around a batch), relay.go (from the outbox to Kafka), runtime.go (all of it
// under Watermill's router).
//
// Below it, kafka is the log on Apache Kafka, log/table is the log in a table of the
// database, and store keeps positions, chains, the outbox and that table in SQL.
package pipeline
