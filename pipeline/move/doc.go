// Package move takes a stopped installation, whose log is a table of its database, to an
// empty database, and its log to Kafka if that is asked for. The source is only read. What
// becomes of each table is said in one place: see Treatments.
package move
