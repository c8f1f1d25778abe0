// Package outbox writes the events that follow from a transaction. Where the log is on
// Kafka, they wait in a table, the outbox, until a relay has sent them.
//
// Read it in this order: writer.go (into the outbox, or into a log in the database),
// relay.go (from the outbox to Kafka), reconcile.go (what Kafka has that the database
// does not know), health.go (how long events wait).
package outbox
