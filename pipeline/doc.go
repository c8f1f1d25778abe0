// Package pipeline is what the author of a plugin needs: what handlers, projections,
// providers and sources implement, what they are given, and how they are registered.
//
// Read it in this order: record.go (what a handler sees), handler.go, projection.go and
// provider.go (what a plugin implements), registry.go (how it is found), cache.go (what
// a handler may keep between batches), settings.go, errors.go (what an error decides).
//
// What runs plugins is in the packages below: log is what a log must supply, in a
// table of the database or on Kafka; chain the rule that drops repeats and notices gaps;
// engine the transaction around each batch, the relay from the outbox to Kafka, and the
// runtime under Watermill's router; store keeps positions, chains, the outbox and the
// table log in SQL.
package pipeline
