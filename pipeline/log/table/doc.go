// Package table is the log of an installation without Kafka: a table of the database,
// from which nothing is deleted.
//
// A transaction that publishes events takes the next numbers of their partitions under a
// row lock and inserts one segment for each partition; see store.Segment. The lock lasts
// until the commit, so numbers become visible in their order: a reader that sees number
// n sees every number below it. A record's offset is its number less one.
//
// Publishing is part of the transaction that caused it. There is no broker, no relay and
// no port, and other processes append and read by opening the same database.
package table
