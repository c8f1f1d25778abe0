// Package deletion deletes the data of a provider, or of one symbol of it, from a stopped
// installation whose log is a table of its database: from the tables and from the log, where
// a schema.RecordDeleted takes the place of each record. What becomes of each table is said in
// one place: see Treatments. A deletion that is interrupted is continued when it is run again.
package deletion
