// Package refill fills an empty database again from a log on Kafka that has all records.
//
// The events that stages derive have ids that follow from the places of records in the log, and
// the log is as it was. So each stage reads the log from its start, as it did at first, but an
// event whose id is in the log is not published again: what is missing there, since it still
// waited in the outbox of the lost database, is. Rows come back with the ids that they had.
package refill
