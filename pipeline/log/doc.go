// Package log is what a log must supply: topics, batches for consumers, appends,
// bounded reads. The packages below implement it: table in a table of the database,
// kafka on Apache Kafka.
package log
