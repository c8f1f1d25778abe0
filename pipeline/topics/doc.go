// Package topics knows the topics of a run: their incarnations in the log and in the
// database, and the partition of each key.
package topics
