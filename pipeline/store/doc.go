// Package store keeps what the pipeline must not lose in SQL: the positions of
// stages, the chains and the outbox of events not yet in the log, dead letters
// and leases, all in the transactions that also hold the effects of handlers.
//
// SQL that every engine speaks is written once, here. What differs between
// engines is a method of Engine, never a branch. The suite in storetest holds
// each engine to what this package expects.
package store
